//! The containers of events, without a host call for each.

use std::collections::HashMap;

use crate::containers::{self, Container};
use crate::files::FileIo;
use crate::gaps::Gap;
use crate::raise::About;
use crate::syscall::{Syscall, SyscallReturn};

/// The most cgroups whose containers are kept. When there are more, all are asked for anew.
const MAX_CGROUPS: usize = 4096;

/// Something that happened in a cgroup, as its task was in it.
pub trait InCgroup {
    /// The cgroup's id; none for what is about no task.
    fn cgroup(&self) -> Option<u64>;
}

impl<T: About> InCgroup for T {
    fn cgroup(&self) -> Option<u64> {
        self.task().map(|task| task.cgroup)
    }
}

macro_rules! flat {
    ($($event:ty),*) => { $(
        impl InCgroup for $event {
            fn cgroup(&self) -> Option<u64> {
                Some(self.cgroup)
            }
        }
    )* };
}

flat!(Syscall, SyscallReturn, FileIo);

impl InCgroup for Gap {
    fn cgroup(&self) -> Option<u64> {
        None
    }
}

/// Keeps the host's answers to [`containers::lookup`] for as long as they hold.
///
/// ```no_run
/// # use eunomia_plugin::prelude::*;
/// # #[derive(Default)]
/// # struct Shells { containers: ContainerCache }
/// # impl Plugin for Shells {}
/// impl OnExec for Shells {
///     fn on_exec(&mut self, events: Vec<Exec>) {
///         let mut containers = self.containers.for_run();
///         for event in &events {
///             if let Some(container) = containers.of(event) {
///                 println!("{} runs {}", container.name, event.exe);
///             }
///         }
///     }
/// }
/// # export!(Shells: OnExec);
/// ```
#[derive(Default)]
pub struct ContainerCache {
    generation: u64,
    /// Where a cgroup's container stands in `found`.
    places: HashMap<u64, Option<usize>>,
    found: Vec<Container>,
    /// The last answer: events of a cgroup come in rows.
    last: Option<(u64, Option<usize>)>,
}

impl ContainerCache {
    /// For one run of events. Asks the host whether the answers still hold, so call it once a run and not once an event.
    pub fn for_run(&mut self) -> ContainersOfRun<'_> {
        self.renew(containers::generation());
        ContainersOfRun(self)
    }

    fn renew(&mut self, generation: u64) {
        if self.generation != generation || self.places.len() >= MAX_CGROUPS {
            *self = ContainerCache { generation, ..Default::default() };
        }
    }

    fn of(&mut self, cgroup: u64, lookup: impl FnOnce(u64) -> Option<Container>) -> Option<&Container> {
        // As long as the host knows of no container there is nothing to ask.
        if self.generation == 0 {
            return None;
        }
        let place = match self.last {
            Some((last, place)) if last == cgroup => place,
            _ => {
                let found = &mut self.found;
                let place = *self.places.entry(cgroup).or_insert_with(|| {
                    found.push(lookup(cgroup)?);
                    Some(found.len() - 1)
                });
                self.last = Some((cgroup, place));
                place
            }
        };
        place.map(|place| &self.found[place])
    }
}

/// The containers of one run of events.
pub struct ContainersOfRun<'a>(&'a mut ContainerCache);

impl ContainersOfRun<'_> {
    /// The container that an event comes from; none for the host's own processes, and where no plugin tells of containers.
    pub fn of(&mut self, event: &impl InCgroup) -> Option<&Container> {
        self.0.of(event.cgroup()?, containers::lookup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::{Engine, State};

    fn container(cgroup: u64) -> Option<Container> {
        (cgroup >= 10).then(|| Container {
            id: cgroup.to_string(),
            engine: Engine::Docker,
            name: String::new(),
            image: String::new(),
            labels: vec![],
            state: State::Running,
            pod: None,
            cgroup,
            pid: None,
            parents: vec![],
        })
    }

    #[test]
    fn the_host_is_asked_once_for_each_cgroup_until_its_generation_changes() {
        let (mut cache, mut asked) = (ContainerCache::default(), Vec::new());
        for (generation, cgroups) in [(0, [10, 1]), (1, [10, 1]), (1, [1, 10]), (2, [11, 10]), (2, [10, 10])] {
            cache.renew(generation);
            for cgroup in cgroups {
                let found = cache.of(cgroup, |cgroup| {
                    asked.push((generation, cgroup));
                    container(cgroup)
                });
                let expected = container(cgroup).filter(|_| generation > 0).map(|found| found.id);
                assert_eq!(found.map(|found| found.id.clone()), expected);
            }
        }
        assert_eq!(asked, [(1, 10), (1, 1), (2, 11), (2, 10)]);
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let mut cache = ContainerCache::default();
        for cgroup in 0..3 * MAX_CGROUPS as u64 {
            cache.renew(1);
            cache.of(cgroup, container);
        }
        assert!(cache.places.len() <= MAX_CGROUPS && cache.found.len() <= MAX_CGROUPS);
    }
}
