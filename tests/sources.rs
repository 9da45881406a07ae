//! The sources syscall, tcp, ipc and cgroup on the running kernel: workloads whose true figures are known, by every rung. Needs
//! root.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use eunomia_host::event::{CallSet, Columns, Kind, KindSet};
use eunomia_host::source::Wanted;
use eunomia_host::wit::ipc::{ObjectKind, Verdict};
use eunomia_host::wit::syscall::{Abi, Syscall, SyscallReturn};
use eunomia_host::wit::tcp::{Direction, Family};
use support::{CALLS, each_hook, is_tracepoint, run_calls, skipped, watch};

/// Of x86-64.
const GETPPID: u32 = 110;
const READ: u32 = 0;
const GETUID: u32 = 102;

fn set(kinds: &[Kind]) -> KindSet {
    kinds.iter().copied().collect()
}

fn own_pid() -> u32 {
    std::process::id()
}

fn sum_of(columns: &Columns, number: u32) -> (u64, u64) {
    let own = columns.syscall_count.iter().filter(|count| count.task.pid == own_pid() && count.number == number);
    own.fold((0, 0), |(calls, errors), count| (calls + count.count, errors + count.errors))
}

#[test]
fn a_million_calls_of_four_threads_are_summed_exactly() {
    const THREADS: u64 = 4;
    const CALLS: u64 = 250_000;
    each_hook("syscall", |hook| {
        let seen = watch(hook, set(&[Kind::SyscallCount]), || {
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| (0..CALLS).for_each(|_| _ = rustix::process::getppid()));
                }
            });
            let mut nothing = [0; 1];
            let directory = fs::File::open("/").unwrap();
            (0..1_000).for_each(|_| assert!((&directory).read(&mut nothing).is_err(), "a directory cannot be read"));
        });
        let exact = |found: u64, truth: u64| found <= truth && truth - found <= skipped();
        let (calls, errors) = sum_of(&seen, GETPPID);
        assert!(exact(calls, THREADS * CALLS) && errors == 0, "{hook}: {calls} calls, {errors} errors");
        let (reads, errors) = sum_of(&seen, READ);
        assert!(exact(errors, 1_000) && reads >= errors, "{hook}: {reads} reads, {errors} errors");
        // Of this process alone: others on the machine may make 32-bit calls.
        let mut own = seen.syscall_count.iter().filter(|count| count.task.pid == own_pid());
        assert!(own.all(|count| count.abi == Abi::Native && count.count >= count.errors), "{hook}");
    });
}

#[test]
fn calls_that_nobody_selects_do_not_leave_the_kernel() {
    const CALLS: usize = 1_000;
    each_hook("syscall", |hook| {
        let names = |names: &[&str]| CallSet::named(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let mut wanted = Wanted::from(set(&[Kind::Syscall, Kind::SyscallCount]));
        wanted.calls.insert(Kind::Syscall, names(&["getppid"]).unwrap());
        let seen = watch(hook, wanted, || {
            (0..CALLS).for_each(|_| _ = rustix::process::getppid());
            (0..CALLS).for_each(|_| _ = rustix::process::getuid());
        });
        let own = seen.syscall.iter().filter(|call| call.pid == own_pid()).count();
        assert_eq!(own, CALLS, "{hook}: getppid");
        assert!(seen.syscall.iter().all(|call| call.number == GETPPID), "{hook}: of anybody");
        // Of the other kind all are wanted.
        assert_eq!(sum_of(&seen, GETPPID), (CALLS as u64, 0), "{hook}");
        assert_eq!(sum_of(&seen, GETUID), (CALLS as u64, 0), "{hook}");
    });
}

#[test]
fn calls_and_returns_are_seen_one_by_one_with_their_arguments() {
    const CALLS: usize = 5_000;
    each_hook("syscall", |hook| {
        let directory = fs::File::open("/").unwrap();
        let seen = watch(hook, set(&[Kind::Syscall, Kind::SyscallReturn]), || {
            let mut bytes = [0; 77];
            (0..CALLS).for_each(|_| assert!((&directory).read(&mut bytes).is_err()));
        });
        let calls: Vec<_> = seen
            .syscall
            .iter()
            .filter(|call| call.pid == own_pid() && call.number == READ && call.arg2 == 77)
            .collect();
        assert_eq!(calls.len(), CALLS, "{hook}");
        let returns: Vec<_> = seen
            .syscall_return
            .iter()
            .filter(|back| back.tid == calls[0].tid && back.number == READ && back.value == -21)
            .collect();
        assert_eq!(returns.len(), CALLS, "{hook}: each fails with EISDIR");
        assert!(returns.iter().all(|back| back.duration > 0 && back.start_time == calls[0].start_time));
        let thread = fs::read_to_string("/proc/thread-self/comm").unwrap();
        let comm = Syscall::from(calls[0]).comm;
        assert_eq!(comm.low.to_le_bytes()[..4], thread.as_bytes()[..4]);
    });
}

/// What is seen of the workload `ipc` or `ipc-compat`; none where this kernel does not have such calls.
fn ipc(hook: &str, workload: &str) -> Option<(u32, Columns)> {
    let mut ran = None;
    let seen = watch(hook, set(&[Kind::IpcAccess]), || ran = run_calls(workload));
    ran.map(|(pid, _)| (pid, seen))
}

/// All that the workload does, exactly.
fn check_ipc(hook: &str, pid: u32, seen: &Columns) {
    let count = |object, permission, verdict, uid: u32| {
        let found = seen.ipc_access.iter().filter(|access| {
            (access.object, access.permission, access.verdict, access.task.uid) == (object, permission, verdict, uid)
                && access.key == 0x4555_4e4f
        });
        found.count()
    };
    let own = seen.ipc_access.iter().filter(|access| access.task.pid == pid);
    // Three kinds of access and one by key, CALLS each, and the three removals.
    assert_eq!(own.count(), 4 * CALLS + 3, "{hook}");
    assert_eq!(count(ObjectKind::Msg, 2, Verdict::Allowed, 0), CALLS, "{hook}: msgsnd");
    assert_eq!(count(ObjectKind::Msg, 4, Verdict::Allowed, 0), CALLS, "{hook}: msgrcv");
    assert_eq!(count(ObjectKind::Sem, 2, Verdict::Allowed, 0), CALLS, "{hook}: semop");
    assert_eq!(count(ObjectKind::Shm, 6, Verdict::Allowed, 0), CALLS, "{hook}: shmget of what is there");
    assert_eq!(count(ObjectKind::Shm, 6, Verdict::Denied, 65534), CALLS, "{hook}: shmget refused");
    assert_eq!(count(ObjectKind::Msg, 2, Verdict::Denied, 65534), CALLS, "{hook}: msgsnd refused");
    assert_eq!(count(ObjectKind::Shm, 0, Verdict::Denied, 65534), CALLS, "{hook}: removal refused");
    for object in [ObjectKind::Shm, ObjectKind::Msg, ObjectKind::Sem] {
        assert_eq!(count(object, 0, Verdict::Allowed, 0), 1, "{hook}: removal of {object:?}");
    }
    for access in seen.ipc_access.iter().filter(|access| access.id.is_some() && access.key == 0x4555_4e4f) {
        let owners = access.ownership.as_ref().unwrap();
        assert_eq!((owners.uid, owners.gid, owners.creator_uid, owners.creator_gid), (0, 0, 0, 0));
    }
}

#[test]
fn access_to_system_v_objects_is_seen_with_owners_and_verdict() {
    each_hook("ipc", |hook| {
        let (pid, seen) = ipc(hook, "ipc").expect("every kernel has it");
        check_ipc(hook, pid, &seen);
    });
}

#[test]
fn access_by_32_bit_calls_is_seen_or_said_to_be_missed() {
    each_hook("ipc", |hook| {
        let Some((pid, seen)) = ipc(hook, "ipc-compat") else { return };
        if is_tracepoint(hook) {
            assert!(seen.ipc_access.iter().all(|access| access.task.pid != pid), "{hook}: as it says");
        } else {
            check_ipc(hook, pid, &seen);
        }
    });
}

#[test]
fn calls_through_other_entries_are_told_apart() {
    const COMPAT_GETPPID: u32 = 64;
    each_hook("syscall", |hook| {
        let mut ran = None;
        let seen = watch(hook, set(&[Kind::Syscall, Kind::SyscallReturn]), || ran = run_calls("other-abis"));
        let Some((pid, _)) = ran else { return };
        let calls = |abi, number| {
            let calls = seen.syscall.iter().map(Syscall::from);
            calls.filter(move |call| call.pid == pid && call.abi == abi && call.number == number).count()
        };
        let returns = |abi, number| {
            let own = seen.syscall_return.iter().map(SyscallReturn::from);
            let own = own.filter(move |back| back.pid == pid && back.abi == abi);
            own.filter(move |back| back.number == number).map(|back| back.value).collect::<Vec<_>>()
        };
        assert_eq!(calls(Abi::Compat, COMPAT_GETPPID), CALLS, "{hook}");
        assert_eq!(returns(Abi::Compat, COMPAT_GETPPID), [i64::from(own_pid()); CALLS], "{hook}");
        // Most kernels refuse x32, with ENOSYS. The call is seen all the same.
        assert_eq!(calls(Abi::X32, GETPPID), CALLS, "{hook}");
        let values = returns(Abi::X32, GETPPID);
        assert!(values == [-38; CALLS] || values == [i64::from(own_pid()); CALLS], "{hook}: {values:?}");
        assert_eq!(calls(Abi::Native, GETPPID), 0, "{hook}");
    });
}

fn echo_server(address: &str) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind(address).unwrap();
    let local = listener.local_addr().unwrap();
    let serve = move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 64];
            match stream.read(&mut bytes).unwrap() {
                0 => return,
                count => stream.write_all(&bytes[..count].repeat(10)).unwrap(),
            }
        }
    };
    (local, std::thread::spawn(serve))
}

#[test]
fn connections_are_seen_from_both_ends_with_their_bytes() {
    const EACH: usize = 500;
    const REFUSED: usize = 100;
    each_hook("tcp", |hook| {
        let kinds = set(&[Kind::TcpConnect, Kind::TcpAccept, Kind::TcpClose]);
        let (mut ipv4, mut ipv6) = (0, 0);
        let seen = watch(hook, kinds, || {
            let servers = [echo_server("127.0.0.1:0"), echo_server("[::1]:0"), echo_server("[::]:0")];
            let mapped = SocketAddr::from((Ipv6Addr::LOCALHOST, servers[2].0.port()));
            let over_ipv4 = SocketAddr::from(([127, 0, 0, 1], servers[2].0.port()));
            (ipv4, ipv6) = (servers[0].0.port(), servers[1].0.port());
            for address in [servers[0].0, servers[1].0, over_ipv4] {
                for _ in 0..EACH {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.write_all(b"0123456789").unwrap();
                    let mut bytes = Vec::new();
                    stream.read_to_end(&mut bytes).unwrap();
                    assert_eq!(bytes.len(), 100);
                }
            }
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            (0..REFUSED).for_each(|_| assert!(TcpStream::connect(free).is_err()));
            for (address, server) in
                [servers[0].0, servers[1].0, mapped].into_iter().zip(servers.map(|(_, server)| server))
            {
                drop(TcpStream::connect(address).unwrap());
                server.join().unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(100)); // Last states are left after the peer's answer.
        });
        let own = |pid: u32| pid == own_pid();
        let connects: Vec<_> = seen.tcp_connect.iter().filter(|event| own(event.task.pid)).collect();
        let accepts: Vec<_> = seen.tcp_accept.iter().filter(|event| own(event.task.pid)).collect();
        let closes: Vec<_> = seen.tcp_close.iter().filter(|event| own(event.task.pid)).collect();
        let all = 3 * EACH + 3;
        assert_eq!(connects.iter().filter(|event| event.error == 0).count(), all, "{hook}");
        assert_eq!(connects.iter().filter(|event| event.error == 111).count(), REFUSED, "{hook}");
        assert_eq!(connects.len(), all + REFUSED, "{hook}");
        assert_eq!(accepts.len(), all, "{hook}");
        let (outgoing, incoming): (Vec<_>, Vec<_>) =
            closes.iter().partition(|event| event.direction == Direction::Outgoing);
        assert_eq!((outgoing.len(), incoming.len()), (all, all), "{hook}");
        let full = |event: &&&&eunomia_host::wit::tcp::TcpClose, sent, received| {
            (event.sent_bytes, event.received_bytes) == (sent, received)
        };
        assert_eq!(outgoing.iter().filter(|event| full(event, 10, 100)).count(), 3 * EACH, "{hook}: bytes out");
        assert_eq!(incoming.iter().filter(|event| full(event, 100, 10)).count(), 3 * EACH, "{hook}: bytes in");
        let of_port = |port, family| {
            let ends = connects.iter().map(|event| &event.endpoints);
            ends.filter(|ends| ends.destination_port == port && ends.family == family && ends.source_port != 0).count()
        };
        assert_eq!(of_port(ipv4, Family::Ipv4), EACH + 1, "{hook}");
        assert_eq!(of_port(ipv6, Family::Ipv6), EACH + 1, "{hook}");
        let mapped = accepts.iter().filter(|event| event.endpoints.source_address == "127.0.0.1");
        assert_eq!(mapped.count(), 2 * EACH + 1, "{hook}: IPv4 through an IPv6 socket counts as IPv4");
    });
}

#[test]
fn a_connect_that_ends_before_a_packet_is_sent_is_told_with_its_error() {
    const ENETUNREACH: u32 = 101;
    // Nobody can connect to a group.
    let groups = ["224.0.0.1:9", "[ff02::1]:9", "[::ffff:224.0.0.1]:9"];
    each_hook("tcp", |hook| {
        let seen = watch(hook, set(&[Kind::TcpConnect, Kind::TcpClose]), || {
            for group in groups {
                (0..CALLS).for_each(|_| assert!(TcpStream::connect(group).is_err()));
            }
        });
        let connects: Vec<_> = seen.tcp_connect.iter().filter(|event| event.task.pid == own_pid()).collect();
        let to = |address: &str, family| {
            let found = connects.iter().filter(|event| {
                let ends = &event.endpoints;
                (ends.destination_address.as_str(), ends.destination_port, ends.family) == (address, 9, family)
                    && event.error == ENETUNREACH
            });
            found.count()
        };
        // Tracepoints say that they miss these.
        let each = if is_tracepoint(hook) { 0 } else { CALLS };
        assert_eq!(to("224.0.0.1", Family::Ipv4), 2 * each, "{hook}: {connects:?}");
        assert_eq!(to("ff02::1", Family::Ipv6), each, "{hook}");
        assert_eq!(connects.len(), 3 * each, "{hook}");
        assert!(seen.tcp_close.iter().all(|event| event.task.pid != own_pid()), "{hook}");
    });
}

#[test]
fn a_connect_that_does_not_wait_is_told_when_it_completes() {
    each_hook("tcp", |hook| {
        let mut pid = 0;
        let seen = watch(hook, set(&[Kind::TcpConnect, Kind::TcpAccept]), || {
            pid = run_calls("connect-later").expect("every kernel has it").0;
        });
        let errors = seen.tcp_connect.iter().filter(|event| event.task.pid == pid).map(|event| event.error);
        assert_eq!(errors.collect::<Vec<_>>(), [[0; CALLS], [111; CALLS]].concat(), "{hook}");
        assert_eq!(seen.tcp_accept.iter().filter(|event| event.task.pid == pid).count(), CALLS, "{hook}");
    });
}

#[test]
fn connections_in_another_network_namespace_are_told_with_it() {
    each_hook("tcp", |hook| {
        let (mut pid, mut net_ns) = (0, 0);
        let seen = watch(hook, set(&[Kind::TcpConnect, Kind::TcpAccept]), || {
            (pid, net_ns) = run_calls("other-network").expect("every kernel has it");
        });
        let connects = seen.tcp_connect.iter().filter(|event| event.task.pid == pid).map(|event| &event.endpoints);
        let accepts = seen.tcp_accept.iter().filter(|event| event.task.pid == pid).map(|event| &event.endpoints);
        let ends: Vec<_> = connects.chain(accepts).collect();
        assert_eq!(ends.len(), 2 * CALLS, "{hook}");
        assert!(ends.iter().all(|ends| ends.net_ns == net_ns), "{hook}");
    });
}

#[test]
fn an_accept_by_io_uring_is_seen_or_said_to_be_missed() {
    each_hook("tcp", |hook| {
        let mut ran = None;
        let seen = watch(hook, set(&[Kind::TcpAccept]), || ran = run_calls("accept-by-ring"));
        let Some((pid, _)) = ran else { return };
        let accepts = seen.tcp_accept.iter().filter(|event| event.task.pid == pid).count();
        assert_eq!(accepts, if is_tracepoint(hook) { 0 } else { CALLS }, "{hook}");
    });
}

#[test]
fn cgroups_are_seen_being_made_and_removed() {
    let trees = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    each_hook("cgroup", |hook| {
        let tree = trees.iter().find(|tree| Path::new(tree).join("cgroup.procs").exists()).expect("a unified tree");
        let name = format!("eunomia-test-{}", own_pid());
        let inner = Path::new(tree).join(&name).join("inner");
        let mut id = 0;
        let seen = watch(hook, set(&[Kind::CgroupCreated, Kind::CgroupRemoved]), || {
            for _ in 0..50 {
                fs::create_dir_all(&inner).unwrap();
                id = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&inner).unwrap());
                fs::remove_dir(&inner).unwrap();
                fs::remove_dir(inner.parent().unwrap()).unwrap();
            }
        });
        let path = format!("/{name}/inner");
        let created: Vec<_> = seen.cgroup_created.iter().filter(|event| event.path == path).collect();
        let removed: Vec<_> = seen.cgroup_removed.iter().filter(|event| event.path == path).collect();
        assert_eq!((created.len(), removed.len()), (50, 50), "{hook}");
        assert_eq!((created[49].id, removed[49].id, created[49].hierarchy), (id, id, 0));
        assert_eq!(created[0].level, removed[0].level);
        assert_eq!(created[0].task.pid, own_pid());
    });
}
