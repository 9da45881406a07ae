//! The table by itself: no tree of cgroups, no plugin.

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
