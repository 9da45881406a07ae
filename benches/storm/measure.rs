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

/// What a process has taken so far together with its children that run, as `finish` says it at the end when it has waited for them.
pub fn cpu_with_children(pid: u32) -> f64 {
    family(pid).into_iter().map(|pid| cpu(pid).all()).sum()
}

/// A process and its children.
fn family(pid: u32) -> Vec<u32> {
    let lists = threads(pid).filter_map(|thread| fs::read_to_string(thread.join("children")).ok());
    let children: String = lists.collect();
    std::iter::once(pid).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
}

fn threads(pid: u32) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").flatten().map(|thread| thread.path())
}

/// CPU time that each thread of a process and of its children has taken, in nanoseconds: exact, for what takes little.
pub fn cpu_ns_of_threads(pid: u32) -> BTreeMap<PathBuf, u64> {
    let time = |thread: PathBuf| {
        let times = fs::read_to_string(thread.join("schedstat")).ok()?;
        Some((thread, times.split(' ').next()?.parse().ok()?))
    };
    family(pid).into_iter().flat_map(threads).filter_map(time).collect()
}

/// Memory that a process and its children have in use, in KiB.
pub fn memory_kib(pid: u32) -> u64 {
    let memory = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    family(pid).into_iter().map(memory).sum()
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
