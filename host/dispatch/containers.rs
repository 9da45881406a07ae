//! What is known of containers, by their cgroups, and how cgroups stand below each other. A plugin tells of containers; the
//! events themselves tell of cgroups.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use crate::event::{Batch, Kind};
use crate::wit::container_registry::Cgroup;
use crate::wit::containers::Container;

/// How long a container is found after its end, at least: plugins may be seconds behind.
const REMEMBER: Duration = Duration::from_secs(30);

/// Cgroups whose place in the tree is known. A busy machine has some hundreds; those beyond are in no container.
const MAX_CGROUPS: usize = 65_536;

/// Containers that are known, those that ended a short while ago included.
const MAX_CONTAINERS: usize = 8_192;

/// How far up a cgroup's containers are looked for; those of Kubernetes are at 5 to 7.
const MAX_DEPTH: usize = 32;

/// The longest text of a container, in bytes. Images' names have some hundred, labels hold lists and whole files.
const MAX_TEXT: usize = 4_096;

/// The most labels, and the most containers around one.
const MAX_LABELS: usize = 128;
const MAX_PARENTS: usize = 16;

/// The unified tree, which is for others to read.
pub struct Tree {
    /// The cgroups that there are.
    pub walk: Box<dyn Fn() -> Vec<Cgroup> + Send + Sync>,
    /// The cgroup that a process is in.
    pub cgroup_of: Box<dyn Fn(u32) -> Option<u64> + Send + Sync>,
}

/// Who wants the events of certain containers alone.
pub struct Watch {
    /// Names, ids, or beginnings of ids.
    pub names: Vec<String>,
    /// Called with a cgroup, and whether it is the cgroup of such a container; none when it is gone.
    pub tell: Box<dyn Fn(u64, Option<bool>) + Send + Sync>,
}

/// The shortest beginning of an id that stands for a container: what engines print.
pub const SHORT_ID: usize = 12;

/// The containers.
pub struct Containers {
    table: RwLock<Table>,
    /// Changes with the answers; 0 until there has been anything to know.
    generation: AtomicU64,
    tree: Tree,
    watch: Option<Watch>,
    /// The cgroups that have been told of, and those of containers watched among them.
    judged: Mutex<HashMap<u64, bool>>,
    watched: RwLock<Vec<u64>>,
    warned: AtomicBool,
}

#[derive(Default)]
struct Table {
    containers: HashMap<u64, Arc<Container>>,
    /// A cgroup's place: the cgroup above it, and its path.
    cgroups: HashMap<u64, (u64, Arc<str>)>,
    paths: HashMap<Arc<str>, u64>,
    /// What has gone, in the order of its end.
    gone: VecDeque<(Instant, u64)>,
}

const LOCK: &str = "no thread panics while it holds this";

impl Containers {
    /// None yet.
    pub fn new(tree: Tree, watch: Option<Watch>) -> Self {
        let (table, generation, judged, watched, warned) = Default::default();
        Containers { table, generation, tree, watch, judged, watched, warned }
    }

    /// The cgroups that there are. From now on the place of each is known.
    pub fn walk(&self) -> Vec<Cgroup> {
        let cgroups = (self.tree.walk)();
        let mut table = self.table.write().expect(LOCK);
        let added = cgroups.iter().filter(|cgroup| table.add(cgroup.id, &cgroup.path)).count();
        if added > 0 && !table.containers.is_empty() {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
        cgroups
    }

    /// Takes in what a batch tells of the unified tree.
    pub fn apply(&self, batch: &Batch) {
        let columns = &batch.columns;
        if columns.cgroup_created.is_empty() && columns.cgroup_removed.is_empty() {
            return;
        }
        let mut table = self.table.write().expect(LOCK);
        let mut changed = false;
        for run in &batch.runs {
            let rows = run.start as usize..run.end as usize;
            match run.kind {
                Kind::CgroupCreated => {
                    for event in columns.cgroup_created[rows].iter().filter(|event| event.hierarchy == 0) {
                        // Its first events may have come, and been answered, before this one.
                        changed |= table.add(event.id, &event.path) && table.of(event.id).is_some();
                    }
                }
                Kind::CgroupRemoved => {
                    let now = Instant::now();
                    let events = columns.cgroup_removed[rows].iter().filter(|event| event.hierarchy == 0);
                    table.gone.extend(events.map(|event| (now, event.id)));
                }
                _ => {}
            }
        }
        self.forget_old(&mut table);
        if changed {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whoever tells of containers has told of these new cgroups: what is none of a container watched is unwanted.
    pub fn judge(&self, batch: &Batch) {
        let created = batch.columns.cgroup_created.iter().filter(|event| event.hierarchy == 0);
        created.for_each(|event| self.judge_unless_told(event.id));
    }

    /// The same of all cgroups that are known.
    pub fn judge_known(&self) {
        let known: Vec<u64> = self.table.read().expect(LOCK).cgroups.keys().copied().collect();
        known.into_iter().for_each(|id| self.judge_unless_told(id));
    }

    fn judge_unless_told(&self, cgroup: u64) {
        let Some(watch) = &self.watch else { return };
        let mut judged = self.judged.lock().expect(LOCK);
        if let Entry::Vacant(entry) = judged.entry(cgroup) {
            entry.insert(false);
            (watch.tell)(cgroup, Some(false));
        }
    }

    /// Makes a container known.
    pub fn put(&self, container: Container) {
        let container = Arc::new(bounded(container));
        let cgroup = container.cgroup;
        let mut table = self.table.write().expect(LOCK);
        self.forget_old(&mut table);
        if table.containers.len() >= MAX_CONTAINERS && !table.containers.contains_key(&cgroup) {
            if !self.warned.swap(true, Ordering::Relaxed) {
                log::error!(
                    "more than {MAX_CONTAINERS} containers at the same time: events of the rest say nothing of theirs"
                );
            }
            return;
        }
        if table.containers.get(&cgroup) == Some(&container) {
            return;
        }
        self.tell(cgroup, Some(&container));
        table.containers.insert(cgroup, container);
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that a container's cgroup is gone.
    pub fn remove(&self, cgroup: u64) {
        let mut table = self.table.write().expect(LOCK);
        if table.containers.contains_key(&cgroup) {
            table.gone.push_back((Instant::now(), cgroup));
        }
        self.forget_old(&mut table);
    }

    /// Forgets all containers: nobody is left who tells of them and of their ends.
    pub fn clear(&self) {
        let mut table = self.table.write().expect(LOCK);
        let containers = std::mem::take(&mut table.containers);
        containers.keys().for_each(|cgroup| self.tell(*cgroup, None));
        if !containers.is_empty() {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The innermost container of a cgroup.
    pub fn lookup(&self, cgroup: u64) -> Option<Arc<Container>> {
        if self.generation() == 0 {
            return None;
        }
        self.table.read().expect(LOCK).of(cgroup).cloned()
    }

    /// The container of a process, by the cgroup that it is in now.
    pub fn lookup_pid(&self, pid: u32) -> Option<Arc<Container>> {
        if self.generation() == 0 {
            return None;
        }
        self.lookup((self.tree.cgroup_of)(pid)?)
    }

    /// A number that changes whenever an answer may have changed; 0 while there is none.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// A cgroup and those above it, as far as its place is known.
    pub fn upwards(&self, cgroup: u64) -> Vec<u64> {
        self.table.read().expect(LOCK).upwards(cgroup).collect()
    }

    /// Whether a cgroup is one of these or below one.
    pub fn is_below(&self, cgroup: u64, above: &[u64]) -> bool {
        self.table.read().expect(LOCK).upwards(cgroup).any(|id| above.contains(&id))
    }

    /// Whether a cgroup is in a container that is watched.
    pub fn is_watched(&self, cgroup: u64) -> bool {
        // Not held while the table is: `tell` takes them in the other order.
        let watched = self.watched.read().expect(LOCK).clone();
        !watched.is_empty() && self.is_below(cgroup, &watched)
    }

    /// Forgets what ended long enough ago.
    fn forget_old(&self, table: &mut Table) {
        let mut changed = false;
        while let Some((at, cgroup)) = table.gone.front().copied()
            && (at.elapsed() > REMEMBER || table.gone.len() > MAX_CGROUPS)
        {
            table.gone.pop_front();
            if let Some((_, path)) = table.cgroups.remove(&cgroup)
                && table.paths.get(&path) == Some(&cgroup)
            {
                table.paths.remove(&path);
            }
            changed |= table.containers.remove(&cgroup).is_some();
            self.tell(cgroup, None);
        }
        if changed {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells who watches, where a cgroup begins or ceases to be that of a container watched, or is gone.
    fn tell(&self, cgroup: u64, container: Option<&Container>) {
        let Some(watch) = &self.watch else { return };
        let wanted = container.map(|container| watch.names.iter().any(|name| is_called(container, name)));
        let mut judged = self.judged.lock().expect(LOCK);
        let before = match wanted {
            Some(wanted) => judged.insert(cgroup, wanted),
            None => judged.remove(&cgroup),
        };
        if before != wanted {
            let mut watched = self.watched.write().expect(LOCK);
            watched.retain(|other| *other != cgroup);
            watched.extend((wanted == Some(true)).then_some(cgroup));
            (watch.tell)(cgroup, wanted);
        }
    }
}

impl Table {
    /// Adds a cgroup. Whether its place was not known before.
    fn add(&mut self, id: u64, path: &str) -> bool {
        match self.cgroups.get(&id) {
            Some((above, _)) if *above != 0 => return false,
            None if self.cgroups.len() >= MAX_CGROUPS => return false,
            _ => {}
        }
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        // The root's path is `/`, and nothing is above it.
        let above = self.paths.get(if above.is_empty() { "/" } else { above }).copied().filter(|above| *above != id);
        let path: Arc<str> = path.into();
        self.paths.insert(path.clone(), id);
        self.cgroups.insert(id, (above.unwrap_or(0), path));
        true
    }

    /// A cgroup and those above it, the nearest first.
    fn upwards(&self, cgroup: u64) -> impl Iterator<Item = u64> {
        let above = |id: &u64| self.cgroups.get(id).map(|(above, _)| *above).filter(|above| *above != 0);
        std::iter::successors(Some(cgroup), above).take(MAX_DEPTH)
    }

    fn of(&self, cgroup: u64) -> Option<&Arc<Container>> {
        self.upwards(cgroup).find_map(|id| self.containers.get(&id))
    }
}

/// Whether somebody who says this name or id means the container.
fn is_called(container: &Container, name: &str) -> bool {
    container.id == name || container.name == name || (name.len() >= SHORT_ID && container.id.starts_with(name))
}

/// The container with no more text and labels than the host keeps.
fn bounded(mut container: Container) -> Container {
    let texts = [&mut container.id, &mut container.name, &mut container.image];
    texts.into_iter().chain(&mut container.parents).for_each(cut);
    if let Some(pod) = &mut container.pod {
        [&mut pod.name, &mut pod.namespace, &mut pod.uid].into_iter().for_each(cut);
    }
    container.labels.truncate(MAX_LABELS);
    container.labels.iter_mut().flat_map(|label| [&mut label.name, &mut label.value]).for_each(cut);
    container.parents.truncate(MAX_PARENTS);
    container
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
}

#[cfg(test)]
mod tests;
