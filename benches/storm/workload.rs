//! Storms: so many of one thing, as fast as it goes.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::process::Command;

use eunomia_host::event::Kind;

/// Threads that make system calls.
const CALLERS: u64 = 2;

/// Bytes of a read or a write.
const BLOCK: usize = 64;

/// A storm of known size.
pub struct Storm {
    pub name: &'static str,
    /// What is done so many times.
    pub what: &'static str,
    pub times: u64,
    /// The kind of event that each of them makes.
    pub kind: Kind,
    /// The number of the system call, where the events are about such.
    pub call: Option<u32>,
    /// How the host is told to look at nothing else.
    pub narrow: &'static [&'static str],
    /// How other tools are told.
    pub calls: &'static str,
    run: fn(u64),
}

/// The thread's name while it does something else than system calls, and that of the program that is started.
const NAME: &std::ffi::CStr = c"eunomia-storm";

pub const STORMS: &[Storm] = &[
    Storm {
        name: "syscall",
        what: "getppid on two threads",
        times: 5_000_000,
        kind: Kind::Syscall,
        call: Some(110),
        // Not narrowed: whoever wants every call pays for every call.
        narrow: &[],
        calls: "getppid",
        run: calls,
    },
    Storm {
        name: "exec",
        what: "programs started",
        times: 2_000,
        kind: Kind::Exec,
        call: None,
        narrow: &["--comm", "true"],
        calls: "execve",
        run: programs,
    },
    Storm {
        name: "file",
        what: "reads and writes of 64 bytes",
        times: 1_000_000,
        kind: Kind::FileIo,
        call: None,
        narrow: &["--comm", "eunomia-storm"],
        calls: "pread64,pwrite64",
        run: files,
    },
    Storm {
        name: "tcp",
        what: "connections made",
        times: 10_000,
        kind: Kind::TcpConnect,
        call: None,
        narrow: &["--comm", "eunomia-storm"],
        calls: "connect",
        run: connections,
    },
];

impl Storm {
    /// Runs it `times` times in this process.
    pub fn run(&self, times: u64) {
        (self.run)(times);
    }
}

fn calls(times: u64) {
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                for _ in 0..times / CALLERS {
                    std::hint::black_box(rustix::process::getppid());
                }
            });
        }
    });
}

fn programs(times: u64) {
    for _ in 0..times {
        assert!(Command::new("/bin/true").status().expect("there is /bin/true").success());
    }
}

fn files(times: u64) {
    let path = std::env::temp_dir().join(format!("eunomia-storm-{}", std::process::id()));
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
    std::fs::remove_file(&path).expect("it was just made");
    rustix::thread::set_name(NAME).expect("it is short");
    let mut block = [1; BLOCK];
    for _ in 0..times / 2 {
        file.write_all_at(&block, 0).expect("there is room");
        file.read_exact_at(&mut block, 0).expect("it was written");
    }
}

fn connections(times: u64) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    rustix::thread::set_name(NAME).expect("it is short");
    for _ in 0..times {
        let client = TcpStream::connect(address).expect("somebody listens");
        let server = listener.accept().expect("it was just connected");
        drop((server, client));
    }
}
