//! Processes, the CPU time and the memory that they took.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Child;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Where /proc/PID/stat has a process's CPU time, counted from the field behind the name: in user mode and in the kernel, and then
/// the same of the children that it waited for.
const OWN_CPU: std::ops::Range<usize> = 11..13;
const CHILDREN_CPU: std::ops::Range<usize> = 13..15;

/// The kernel's unit in that file, the same for every program.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time in seconds: a process's own, and its children's that have ended.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub own: f64,
    pub children: f64,
}

impl Cpu {
    pub fn all(self) -> f64 {
        self.own + self.children
    }
}

/// What a process has taken so far. To a hundredth of a second.
pub fn cpu(pid: u32) -> Cpu {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process has not been waited for");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name in brackets") + 1..].split_ascii_whitespace().collect();
    let seconds = |fields: &[&str]| {
        fields.iter().map(|field| field.parse::<u64>().expect("a number")).sum::<u64>() as f64 / TICKS_PER_SECOND
    };
    Cpu { own: seconds(&fields[OWN_CPU]), children: seconds(&fields[CHILDREN_CPU]) }
}

/// CPU time that each thread of a process has taken, in nanoseconds: exact, for what takes little.
pub fn cpu_ns_of_threads(pid: u32) -> BTreeMap<PathBuf, u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").flatten();
    let time = |thread: fs::DirEntry| {
        let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        Some((thread.path(), times.split(' ').next()?.parse().ok()?))
    };
    threads.filter_map(time).collect()
}

/// Memory that a process has in use, in KiB.
pub fn memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Waits for a process's end. The CPU time that it took.
pub fn finish(child: &mut Child) -> Cpu {
    let pid = Pid::from_child(child);
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).expect("it is a child of this process");
    let cpu = cpu(child.id());
    let status = child.wait().expect("it has ended");
    assert!(status.success(), "{status}");
    cpu
}
