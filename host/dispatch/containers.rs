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
mod tests {
    use super::*;
    use crate::event::{Columns, decode};
    use crate::wit::cgroup::{CgroupCreated, CgroupRemoved};
    use crate::wit::containers::{Engine, Label, State};

    type Told = (u64, Option<bool>);

    fn container(cgroup: u64, id: &str, name: &str) -> Container {
        Container {
            id: id.into(),
            engine: Engine::Docker,
            name: name.into(),
            image: String::new(),
            labels: vec![],
            state: State::Running,
            pod: None,
            cgroup,
            pid: None,
            parents: vec![],
        }
    }

    fn tree(cgroups: &'static [(u64, &'static str)]) -> Tree {
        let cgroup = |(id, path): &(u64, &str)| Cgroup { id: *id, path: (*path).into() };
        Tree {
            walk: Box::new(move || cgroups.iter().map(cgroup).collect()),
            cgroup_of: Box::new(|pid| (pid == 7).then_some(20)),
        }
    }

    fn created(id: u64, path: &str, hierarchy: u32) -> Batch {
        let task = decode::tests::task();
        let event = CgroupCreated { time: 1, task, id, path: path.into(), level: 1, hierarchy };
        Batch::cut(&mut Columns { cgroup_created: vec![event], ..Default::default() }, u64::MAX)
    }

    fn removed(id: u64, path: &str) -> Batch {
        let task = decode::tests::task();
        let event = CgroupRemoved { time: 1, task, id, path: path.into(), level: 1, hierarchy: 0 };
        Batch::cut(&mut Columns { cgroup_removed: vec![event], ..Default::default() }, u64::MAX)
    }

    fn name(containers: &Containers, cgroup: u64) -> String {
        containers.lookup(cgroup).map_or_else(String::new, |found| found.name.clone())
    }

    #[test]
    fn a_cgroup_below_a_containers_counts_as_in_it_and_the_innermost_wins() {
        let containers = Containers::new(tree(&[(1, "/"), (10, "/docker"), (20, "/docker/a")]), None);
        assert_eq!(containers.walk().len(), 3);
        containers.put(container(20, "a", "outer"));
        let before = containers.generation();
        containers.apply(&created(30, "/docker/a/inner", 0));
        assert_ne!(containers.generation(), before, "what was asked of 30 before would be answered otherwise now");
        containers.apply(&created(31, "/docker/a/inner/leaf", 0));
        containers.apply(&created(40, "/docker/a/v1", 3));
        for (cgroup, expected) in [(20, "outer"), (31, "outer"), (40, ""), (10, ""), (1, ""), (99, "")] {
            assert_eq!(name(&containers, cgroup), expected, "{cgroup}");
        }
        containers.put(container(30, "b", "inner"));
        assert_eq!((name(&containers, 31), name(&containers, 20)), ("inner".into(), "outer".into()));
        assert_eq!(containers.lookup_pid(7).unwrap().name, "outer");
        assert!(containers.lookup_pid(8).is_none());
        assert!(containers.is_below(31, &[20]) && !containers.is_below(10, &[20]));
    }

    #[test]
    fn generations_change_with_the_answers_and_with_nothing_else() {
        let containers = Containers::new(tree(&[]), None);
        containers.apply(&created(5, "/system.slice", 0));
        assert_eq!(containers.generation(), 0, "nothing can be in a container");
        containers.put(container(20, "a", ""));
        let first = containers.generation();
        containers.put(container(20, "a", ""));
        assert_eq!(containers.generation(), first);
        containers.put(container(20, "a", "web"));
        let second = containers.generation();
        assert_ne!(second, first);
        containers.apply(&created(6, "/system.slice/cron.service", 0));
        assert_eq!(containers.generation(), second);
    }

    #[test]
    fn what_ended_is_found_for_a_while_and_then_forgotten() {
        let containers = Containers::new(tree(&[]), None);
        containers.apply(&created(20, "/docker/a", 0));
        containers.put(container(20, "a", "web"));
        let before = containers.generation();
        containers.remove(20);
        containers.remove(21);
        containers.apply(&removed(20, "/docker/a"));
        assert_eq!(name(&containers, 20), "web");
        for (at, _) in &mut containers.table.write().unwrap().gone {
            *at -= REMEMBER + Duration::from_secs(1);
        }
        containers.apply(&created(21, "/docker/b", 0));
        assert_eq!(name(&containers, 20), "");
        assert_ne!(containers.generation(), before);
        let table = containers.table.read().unwrap();
        assert!(table.gone.is_empty() && table.cgroups.len() == 1 && table.paths.len() == 1, "nothing is left behind");
    }

    #[test]
    fn whoever_watches_is_told_once_by_name_id_or_its_beginning() {
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let into = told.clone();
        let id = "0123456789abcdef";
        let names = vec!["web".into(), id[..SHORT_ID].into(), id[..SHORT_ID - 1].into()];
        let watch = Watch { names, tell: Box::new(move |cgroup, wanted| into.lock().unwrap().push((cgroup, wanted))) };
        let containers = Containers::new(tree(&[(1, "/"), (2, "/a"), (3, "/a/b")]), Some(watch));
        containers.walk();
        containers.put(container(2, "a", ""));
        containers.put(container(2, "a", "web"));
        containers.put(Container { state: State::Paused, ..container(2, "a", "web") });
        assert!(containers.is_watched(3) && !containers.is_watched(1));
        containers.put(container(2, "a", "renamed"));
        containers.put(container(4, id, "db"));
        containers.put(container(5, "0123456789aXXXXX", "other"));
        containers.judge_known();
        let (yes, no) = (Some(true), Some(false));
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert_eq!(told[..5], [(2, no), (2, yes), (2, no), (4, yes), (5, no)]);
        let mut rest = told[5..].to_vec();
        rest.sort_unstable();
        assert_eq!(rest, [(1, no), (3, no)], "those that nobody told of are none of a container watched");
    }

    #[test]
    fn nothing_is_said_of_containers_once_nobody_tells_of_them() {
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let into = told.clone();
        let tell = Box::new(move |cgroup, wanted| into.lock().unwrap().push((cgroup, wanted)));
        let containers = Containers::new(tree(&[]), Some(Watch { names: vec!["web".into()], tell }));
        containers.clear();
        assert_eq!(containers.generation(), 0);
        containers.put(container(2, "a", "web"));
        let before = containers.generation();
        containers.clear();
        assert_ne!(containers.generation(), before, "answers that plugins keep hold no longer");
        assert!(containers.lookup(2).is_none() && !containers.is_watched(2));
        assert_eq!(*told.lock().unwrap(), [(2, Some(true)), (2, None)]);
    }

    #[test]
    fn a_container_is_no_larger_than_the_host_keeps_and_their_number_is_bounded() {
        let long = "é".repeat(MAX_TEXT);
        let label = Label { name: "a".into(), value: long.clone() };
        let containers = Containers::new(tree(&[]), None);
        containers.put(Container { labels: vec![label; 2 * MAX_LABELS], ..container(1, "a", &long) });
        let kept = containers.lookup(1).unwrap();
        assert_eq!((kept.name.len(), kept.labels.len(), kept.labels[0].value.len()), (MAX_TEXT, MAX_LABELS, MAX_TEXT));
        (2..MAX_CONTAINERS as u64 + 10).for_each(|cgroup| containers.put(container(cgroup, "b", "")));
        assert_eq!(containers.table.read().unwrap().containers.len(), MAX_CONTAINERS);
        containers.put(container(1, "a", "known ones are still kept up to date"));
        assert!(name(&containers, 1).starts_with("known"));
    }
}
