//! The containers known now. Pure: it says what has changed and is to be published.

use std::collections::HashMap;

use eunomia_plugin::containers::{Container, Engine, Pod, State};

use crate::engine::Description;
use crate::recognise::Found;

/// Containers known at once. A machine has some hundreds; with names and labels these take about 10 MiB.
pub const MAX_CONTAINERS: usize = 4096;

#[derive(Default)]
pub struct Known {
    by_cgroup: HashMap<u64, Container>,
    /// Containers that found no room.
    pub turned_away: u64,
}

impl Known {
    /// Notes a container that has appeared. None when there is no room.
    pub fn add(&mut self, cgroup: u64, found: Found) -> Option<&Container> {
        if self.by_cgroup.len() >= MAX_CONTAINERS && !self.by_cgroup.contains_key(&cgroup) {
            self.turned_away += 1;
            return None;
        }
        let pod = found.pod.map(|uid| Pod { name: String::new(), namespace: String::new(), uid });
        let container = Container {
            id: found.id,
            engine: found.engine,
            name: String::new(),
            image: String::new(),
            labels: vec![],
            state: State::Unknown,
            pod,
            cgroup,
            pid: None,
            parents: found.parents,
        };
        Some(self.by_cgroup.entry(cgroup).insert_entry(container).into_mut())
    }

    /// Forgets a cgroup; true if it was a container's.
    pub fn remove(&mut self, cgroup: u64) -> bool {
        self.by_cgroup.remove(&cgroup).is_some()
    }

    pub fn get(&self, cgroup: u64) -> Option<&Container> {
        self.by_cgroup.get(&cgroup)
    }

    pub fn contains(&self, cgroup: u64) -> bool {
        self.by_cgroup.contains_key(&cgroup)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Container> {
        self.by_cgroup.values()
    }

    /// Adds what somebody says of containers, and returns those that it changed. In a nested engine another container may
    /// have the same name, never the same id and engine.
    pub fn describe(&mut self, descriptions: &[Description]) -> Vec<Container> {
        let by_id: HashMap<&str, &Description> = descriptions.iter().map(|one| (one.id.as_str(), one)).collect();
        let mut changed = vec![];
        for container in self.by_cgroup.values_mut() {
            if let Some(description) = by_id.get(container.id.as_str())
                && let Some(after) = merge(container, description)
            {
                *container = after.clone();
                changed.push(after);
            }
        }
        changed
    }
}

/// The container with what the description adds; none where it adds nothing.
fn merge(container: &Container, description: &Description) -> Option<Container> {
    if container.engine != description.engine && container.engine != Engine::Unknown {
        return None;
    }
    let mut after = container.clone();
    after.engine = description.engine;
    // One who does not know does not take away what another knows.
    let replace = |text: &mut String, by: &str| {
        if !by.is_empty() {
            by.clone_into(text);
        }
    };
    replace(&mut after.name, &description.name);
    replace(&mut after.image, &description.image);
    if !description.labels.is_empty() {
        after.labels.clone_from(&description.labels);
    }
    if description.state != State::Unknown {
        after.state = description.state;
    }
    after.pid = description.pid.or(after.pid);
    if let Some(pod) = &description.pod {
        let into = after.pod.get_or_insert_with(|| pod.clone());
        replace(&mut into.name, &pod.name);
        replace(&mut into.namespace, &pod.namespace);
        replace(&mut into.uid, &pod.uid);
    }
    (after != *container).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use eunomia_plugin::containers::Label;

    fn found(engine: Engine, id: &str) -> Found {
        Found { engine, id: id.to_owned(), pod: None, parents: vec![] }
    }

    fn description(id: &str, name: &str) -> Description {
        Description {
            id: id.to_owned(),
            engine: Engine::Docker,
            name: name.to_owned(),
            image: String::new(),
            labels: vec![Label { name: "a".into(), value: "b".into() }],
            state: State::Running,
            pid: None,
            pod: None,
        }
    }

    #[test]
    fn a_description_changes_those_it_is_of_and_only_once() {
        let mut known = Known::default();
        known.add(7, found(Engine::Docker, "aa")).unwrap();
        known.add(8, found(Engine::Docker, "bb")).unwrap();
        let changed = known.describe(&[description("aa", "web"), description("cc", "db")]);
        assert_eq!(changed.iter().map(|one| (one.cgroup, one.name.as_str())).collect::<Vec<_>>(), [(7, "web")]);
        assert_eq!(known.describe(&[description("aa", "web")]), []);
        let renamed = known.describe(&[description("aa", "web2")]);
        assert_eq!(renamed[0].name, "web2");
        let silent = Description { labels: vec![], state: State::Unknown, pid: Some(5), ..description("aa", "") };
        let changed = known.describe(&[silent]);
        assert_eq!((changed[0].name.as_str(), changed[0].pid, changed[0].labels.len()), ("web2", Some(5), 1));
        assert!(known.remove(7) && !known.remove(7));
    }

    #[test]
    fn another_engine_does_not_speak_for_a_container_unless_nobody_knows_its_engine() {
        let mut known = Known::default();
        known.add(7, found(Engine::Podman, "aa")).unwrap();
        known.add(8, found(Engine::Unknown, "bb")).unwrap();
        let changed = known.describe(&[description("aa", "web"), description("bb", "db")]);
        assert_eq!(changed.iter().map(|one| (one.cgroup, one.engine)).collect::<Vec<_>>(), [(8, Engine::Docker)]);
    }

    #[test]
    fn a_pod_known_by_its_path_gets_its_name() {
        let mut known = Known::default();
        known.add(7, Found { pod: Some("u-1".into()), ..found(Engine::Docker, "aa") }).unwrap();
        let pod = Pod { name: "web-0".into(), namespace: "shop".into(), uid: String::new() };
        let changed = known.describe(&[Description { pod: Some(pod), ..description("aa", "web") }]);
        let pod = changed[0].pod.as_ref().unwrap();
        assert_eq!((pod.name.as_str(), pod.uid.as_str()), ("web-0", "u-1"));
    }

    #[test]
    fn their_number_is_bounded() {
        let mut known = Known::default();
        for cgroup in 0..MAX_CONTAINERS as u64 + 3 {
            known.add(cgroup, found(Engine::Docker, "aa"));
        }
        assert_eq!((known.iter().count(), known.turned_away), (MAX_CONTAINERS, 3));
        assert!(known.add(0, found(Engine::Docker, "bb")).is_some(), "one that is known needs no more room");
    }
}
