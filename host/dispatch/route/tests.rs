use super::*;
use crate::dispatch::Tree;
use crate::dispatch::tests::member;
use crate::event::Columns;
use crate::event::layout::c::syscall_flat;
use crate::wit::container_registry::Cgroup;
use crate::wit::gaps::Gap;

fn call(time: u64, pid: u32, uid: u32, cgroup: u64, name: &str) -> syscall_flat {
    let comm = comm(name).map(|byte| i8::from_ne_bytes([byte]));
    syscall_flat { time, pid, uid, cgroup, comm, ..Default::default() }
}

#[test]
fn each_plugin_gets_the_events_that_meet_all_it_is_narrowed_by() {
    let cgroup = |id, path: &str| Cgroup { id, path: path.into() };
    let tree = vec![cgroup(1, "/"), cgroup(2, "/a"), cgroup(3, "/a/b")];
    let tree = Tree { walk: Box::new(move || tree.clone()), cgroup_of: Box::new(|_| None) };
    let containers = Containers::new(tree, None);
    containers.walk();
    let line = [
        Only::default(),
        Only { pids: vec![10, 11], ..Default::default() },
        Only { cgroups: vec![2, 3], ..Default::default() },
        Only { comms: vec!["sh".into()], uids: vec![7], ..Default::default() },
        Only { uids: vec![7], cgroups: vec![3], ..Default::default() },
        Only { pids: vec![99], ..Default::default() },
    ];
    let line: Vec<Member> = line.into_iter().enumerate().map(|(number, only)| member(number, only)).collect();
    let gap = Gap { time: 9, source: "x".into(), missing: None, where_: "y".into(), count: 1, from: 0, to: 9 };
    let mut columns = Columns {
        syscall: vec![
            call(1, 10, 7, 1, "sh"),
            call(2, 11, 0, 2, "sh"),
            call(3, 12, 7, 3, "ls"),
            call(4, 12, 7, 3, "shell"),
            call(5, 13, 0, 4, "x"),
        ],
        gap: vec![gap],
        ..Default::default()
    };
    let batch = Batch::cut(&mut columns, u64::MAX);
    let router = Router::new(&line);
    assert_eq!(router.whole(), [0]);
    let shares = router.route(&batch, &containers);
    let calls: Vec<(usize, Vec<u32>)> =
        shares.iter().map(|(at, picked)| (*at, picked.rows(Kind::Syscall).to_vec())).collect();
    let expected = [(1, vec![0, 1]), (2, vec![1, 2, 3]), (3, vec![0]), (4, vec![2, 3]), (5, vec![])];
    assert_eq!(calls, expected);
    assert!(shares.values().all(|picked| picked.rows(Kind::Gap) == [0]), "a gap is everybody's");
}
