//! Finds out which container is which, and tells the host: by the paths of cgroups as they come and go, by what engines
//! answer, and by what run times keep in their folders. Other plugins ask the host.

mod engine;
mod http;
mod known;
mod oci;
mod recognise;
mod storage;
mod upstream;

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use eunomia_plugin::container_registry as registry;
use eunomia_plugin::containers::{Container, Engine, State};
use eunomia_plugin::prelude::*;
use serde::Deserialize;

use engine::Description;
use known::{Known, MAX_CONTAINERS};
use oci::Folders;
use upstream::Upstream;

/// How long `start` waits for the engines: well below what the host allows.
const START_WAIT: Duration = Duration::from_millis(400);

/// How often a container's first process and folder are looked for again, once per tick.
const LOOKS: u32 = 10;
/// And for how many containers in one tick.
const LOOKS_PER_TICK: usize = 32;

/// Every so many ticks, what is known is compared with the cgroups that there are: an event may have been lost.
const TICKS_PER_COMPARISON: u32 = 10;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Names in `[grants.http]` that Docker answers.
    docker: Vec<String>,
    /// Names in `[grants.http]` that podman answers.
    podman: Vec<String>,
    /// containerd's state folders.
    containerd: Vec<PathBuf>,
    /// runc's state folders.
    runc: Vec<PathBuf>,
    /// The folders in which CRI-O runs containers.
    crio: Vec<PathBuf>,
    /// The folders in which podman lists its containers.
    storage: Vec<PathBuf>,
    /// How long the first event of a new container may wait for its name.
    wait_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            docker: vec!["docker".into()],
            podman: vec!["podman".into()],
            containerd: vec!["/run/containerd".into()],
            runc: vec!["/run/runc".into()],
            crio: vec!["/run/containers/storage".into()],
            storage: ["/var/lib", "/run"]
                .map(|at| format!("{at}/containers/storage/overlay-containers").into())
                .to_vec(),
            wait_ms: 250,
        }
    }
}

#[derive(Default)]
struct ContainerMap {
    wait: Duration,
    folders: Folders,
    upstreams: Vec<Upstream>,
    known: Known,
    /// Cgroups of containers of which something is still missing, and how often to look again.
    unfinished: VecDeque<(u64, u32)>,
    ticks: u32,
    told_of_overflow: bool,
}

impl ContainerMap {
    /// Publishes a cgroup if it is a container's: what path and folders tell.
    fn appeared(&mut self, cgroup: u64, path: &str) -> bool {
        let Some(found) = recognise::recognise(path, |hint| self.folders.confirm(hint)) else { return false };
        let (engine, id) = (found.engine, found.id.clone());
        if self.known.add(cgroup, found).is_none() {
            self.tell_of_overflow();
            return false;
        }
        let described = self.folders.describe(engine, &id);
        self.known.describe(described.as_slice());
        self.unfinished.push_back((cgroup, LOOKS));
        self.known.get(cgroup).inspect(|container| registry::put(container));
        true
    }

    fn gone(&mut self, cgroup: u64) {
        if self.known.remove(cgroup) {
            registry::remove(cgroup);
        }
    }

    fn publish(&mut self, descriptions: &[Description]) {
        self.known.describe(descriptions).iter().for_each(registry::put);
    }

    /// Asks the engines for the names of new containers.
    fn name(&mut self, cgroups: &[u64]) {
        let until = Instant::now() + self.wait;
        for at in 0..self.upstreams.len() {
            let upstream = &mut self.upstreams[at];
            let nameless = |container: &&Container| container.name.is_empty() && upstream.may_know(container.engine);
            let containers = cgroups.iter().filter_map(|cgroup| self.known.get(*cgroup)).filter(nameless);
            let ids: Vec<&str> = containers.map(|container| container.id.as_str()).collect();
            let descriptions = upstream.ask(&ids, until);
            self.publish(&descriptions);
        }
    }

    /// Takes the engines' lists: renamed, paused, restarted containers, and names that came too late.
    fn refresh(&mut self, wait: Option<Duration>) {
        for at in 0..self.upstreams.len() {
            let upstream = &mut self.upstreams[at];
            let wanted = self.known.iter().any(|container| upstream.may_know(container.engine));
            let descriptions = upstream.tick(wanted, wait);
            let pids = upstream.pids();
            self.publish(&descriptions);
            self.publish_pids(at, &pids);
        }
    }

    fn publish_pids(&mut self, upstream: usize, pids: &[(String, u32)]) {
        let engine = self.upstreams[upstream].engine;
        let described = pids.iter().map(|(id, pid)| {
            let id = id.clone();
            let (name, image, labels, state) = (String::new(), String::new(), vec![], State::Unknown);
            Description { id, engine, name, image, labels, state, pid: Some(*pid), pod: None }
        });
        let descriptions: Vec<Description> = described.collect();
        self.publish(&descriptions);
    }

    /// Looks again for what some containers lack: their folder or their first process.
    fn finish(&mut self) {
        for _ in 0..self.unfinished.len().min(LOOKS_PER_TICK) {
            let Some((cgroup, looks)) = self.unfinished.pop_front() else { return };
            let lacking = |container: &&Container| container.pid.is_none();
            let Some((engine, id)) =
                self.known.get(cgroup).filter(lacking).map(|container| (container.engine, container.id.clone()))
            else {
                continue;
            };
            match self.folders.describe(engine, &id) {
                Some(description) if description.pid.is_some() => self.publish(&[description]),
                _ => {
                    let upstreams = self.upstreams.iter_mut().filter(|upstream| upstream.engine == engine);
                    upstreams.for_each(|upstream| upstream.ask_pid(&id));
                    self.unfinished.extend(looks.checked_sub(1).map(|looks| (cgroup, looks)));
                }
            }
        }
    }

    /// Compares what is known with the cgroups that there are.
    fn compare(&mut self) -> Vec<u64> {
        let existing = registry::existing();
        let there: HashSet<u64> = existing.iter().map(|cgroup| cgroup.id).collect();
        let gone: Vec<u64> =
            self.known.iter().map(|container| container.cgroup).filter(|cgroup| !there.contains(cgroup)).collect();
        gone.into_iter().for_each(|cgroup| self.gone(cgroup));
        let mut new = vec![];
        for cgroup in existing {
            if !self.known.contains(cgroup.id) && self.appeared(cgroup.id, &cgroup.path) {
                new.push(cgroup.id);
            }
        }
        new
    }

    fn tell_of_overflow(&mut self) {
        if !std::mem::replace(&mut self.told_of_overflow, true) {
            eprintln!("warning: more than {MAX_CONTAINERS} containers at once: those that come now are not known");
        }
    }
}

impl Plugin for ContainerMap {
    fn start(&mut self, config: &str) -> Result<(), String> {
        let settings: Settings = from_config(config)?;
        self.wait = Duration::from_millis(settings.wait_ms);
        let Settings { containerd, runc, crio, storage: podman, .. } = settings;
        self.folders = Folders { containerd, runc, crio, podman };
        let docker = settings.docker.into_iter().map(|name| Upstream::new(name, Engine::Docker));
        let podman = settings.podman.into_iter().map(|name| Upstream::new(name, Engine::Podman));
        self.upstreams = docker.chain(podman).collect();
        self.compare();
        self.refresh(Some(START_WAIT / self.upstreams.len().max(1) as u32));
        Ok(())
    }
}

impl OnCgroupCreated for ContainerMap {
    fn on_cgroup_created(&mut self, events: Vec<CgroupCreated>) {
        // Trees of version 1 mirror the unified one, whose ids are the events' cgroups.
        let unified = events.iter().filter(|event| event.hierarchy == 0);
        let new: Vec<u64> =
            unified.filter(|event| self.appeared(event.id, &event.path)).map(|event| event.id).collect();
        self.name(&new);
    }
}

impl OnCgroupRemoved for ContainerMap {
    fn on_cgroup_removed(&mut self, events: Vec<CgroupRemoved>) {
        events.iter().filter(|event| event.hierarchy == 0).for_each(|event| self.gone(event.id));
    }
}

impl OnTick for ContainerMap {
    fn on_tick(&mut self, _now: u64, _interval: u64) {
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(TICKS_PER_COMPARISON) {
            self.compare();
        }
        self.refresh(None);
        self.finish();
    }
}

export!(ContainerMap: OnCgroupCreated, OnCgroupRemoved, OnTick);
