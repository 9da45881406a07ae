//! The sources syscall, tcp, ipc and cgroup on the running kernel: workloads whose true figures are known, by every rung. Needs
//! root.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use eunomia_host::event::{Columns, Kind, KindSet};
use eunomia_host::wit::ipc::{ObjectKind, Verdict};
use eunomia_host::wit::syscall::Abi;
use eunomia_host::wit::tcp::{Direction, Family};
use support::{hooks, watch};

/// getppid, read and getpid on x86-64.
const GETPPID: u32 = 110;
const READ: u32 = 0;

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
    for hook in hooks() {
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
        assert_eq!(sum_of(&seen, GETPPID), (THREADS * CALLS, 0), "{hook}");
        let (reads, errors) = sum_of(&seen, READ);
        assert!(reads >= 1_000 && errors == 1_000, "{hook}: {reads} reads, {errors} errors");
        assert!(seen.syscall_count.iter().all(|count| count.abi == Abi::Native && count.count >= count.errors));
    }
}

#[test]
fn calls_and_returns_are_seen_one_by_one_with_their_arguments() {
    const CALLS: usize = 5_000;
    for hook in hooks() {
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
        assert_eq!(calls[0].comm.low.to_le_bytes()[..4], thread.as_bytes()[..4]);
    }
}

/// Makes three objects as root, accesses each, then tries two as nobody. perl speaks System V without any package.
const IPC_WORKLOAD: &str = r#"
    use constant TIMES => 50;
    my $key = 0x45554e4f;
    my $shm = shmget($key, 4096, 01600) // die "shmget: $!";
    my $msg = msgget($key, 01600) // die "msgget: $!";
    my $sem = semget($key, 1, 01600) // die "semget: $!";
    my $bytes;
    for (1 .. TIMES) {
        msgsnd($msg, pack("l! a*", 1, "x"), 0) or die "msgsnd: $!";
        msgrcv($msg, $bytes, 10, 0, 0) or die "msgrcv: $!";
        semop($sem, pack("s!3", 0, 1, 0)) or die "semop: $!";
        defined(shmget($key, 4096, 0600)) or die "shmget: $!";
    }
    if (!fork) {
        ($(, $)) = (65534, "65534 65534");
        ($<, $>) = (65534, 65534);
        for (1 .. TIMES) {
            defined(shmget($key, 4096, 0600)) and die "not denied";
            msgsnd($msg, pack("l! a*", 1, "x"), 0) and die "not denied";
        }
        exit 0;
    }
    wait;
    my $status = $?;
    shmctl($shm, 0, 0); msgctl($msg, 0, 0); semctl($sem, 0, 0, 0);
    exit($status ? 1 : 0);
"#;

#[test]
fn access_to_system_v_objects_is_seen_with_owners_and_verdict() {
    const TIMES: usize = 50;
    for hook in hooks() {
        let mut pid = 0;
        let seen = watch(hook, set(&[Kind::IpcAccess]), || {
            let mut child = std::process::Command::new("perl").args(["-e", IPC_WORKLOAD]).spawn().unwrap();
            pid = child.id();
            assert!(child.wait().unwrap().success());
        });
        let count = |object, permission, verdict, uid: u32| {
            let found = seen.ipc_access.iter().filter(|access| {
                (access.object, access.permission, access.verdict, access.task.uid)
                    == (object, permission, verdict, uid)
                    && access.key == 0x4555_4e4f
            });
            found.count()
        };
        let own = seen.ipc_access.iter().filter(|access| access.task.pid == pid);
        // Three kinds of access and one by key, TIMES each, and the three removals.
        assert_eq!(own.count(), 4 * TIMES + 3, "{hook}");
        assert_eq!(count(ObjectKind::Msg, 2, Verdict::Allowed, 0), TIMES, "{hook}: msgsnd");
        assert_eq!(count(ObjectKind::Msg, 4, Verdict::Allowed, 0), TIMES, "{hook}: msgrcv");
        assert_eq!(count(ObjectKind::Sem, 2, Verdict::Allowed, 0), TIMES, "{hook}: semop");
        assert_eq!(count(ObjectKind::Shm, 6, Verdict::Allowed, 0), TIMES, "{hook}: shmget of what is there");
        assert_eq!(count(ObjectKind::Shm, 6, Verdict::Denied, 65534), TIMES, "{hook}: shmget refused");
        assert_eq!(count(ObjectKind::Msg, 2, Verdict::Denied, 65534), TIMES, "{hook}: msgsnd refused");
        for access in seen.ipc_access.iter().filter(|access| access.id.is_some() && access.key == 0x4555_4e4f) {
            let owners = access.ownership.as_ref().unwrap();
            assert_eq!((owners.uid, owners.gid, owners.creator_uid, owners.creator_gid), (0, 0, 0, 0));
        }
    }
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
    for hook in hooks() {
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
    }
}

#[test]
fn cgroups_are_seen_being_made_and_removed() {
    let trees = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    for hook in hooks() {
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
    }
}
