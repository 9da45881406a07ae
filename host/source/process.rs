//! Source process: exec, exit and fork, and the processes that run already.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use libbpf_rs::Iter;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cgroup::cgroup_of;
use super::clock::clock;
use super::load::open_and_load;
use super::{Rung, Source};
use crate::broker::{self, Answer, Caller};
use crate::event::clock::Clock;
use crate::event::decode;
use crate::event::layout::{self, c::running_record};
use crate::wit::processes::Process;

/// Room for some 10,000 executions with short arguments.
const RING_BYTES: u32 = 8 << 20;

/// The program that lists the processes that run.
const ITERATOR: &str = "running";

/// The unit of times in /proc, in nanoseconds: USER_HZ is 100 on every architecture in use.
const PROC_TICK_NS: u64 = 10_000_000;

/// The source.
pub static PROCESS: Source = Source {
    name: "process",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/process.bpf.o")),
    ring_bytes: RING_BYTES,
    floods: false,
    rungs: &[
        Rung { hook: "tp_btf", programs: &["exec_btf", "exit_btf", "fork_btf"], misses: "" },
        Rung { hook: "raw_tp", programs: &["exec_raw", "exit_raw", "fork_raw"], misses: "" },
        Rung { hook: "tp", programs: &["exec_tp", "exit_tp", "fork_tp"], misses: "" },
    ],
    partial: &[],
    sums: None,
};

/// What can be asked of processes.
#[derive(Serialize, Deserialize)]
enum Question {
    /// One by its pid. Answered by a `Found`, or nothing.
    Process(u32),
    /// All that run, kernel threads included. Answered by a list of `Found`.
    Running,
    /// The id of the cgroup that one is in. Answered by a number, or nothing.
    Cgroup(u32),
}

/// A process that runs, and when it started, as the kernel's clock has it.
#[derive(Serialize, Deserialize)]
struct Found {
    pid: u32,
    ppid: u32,
    uid: u32,
    comm: String,
    exe: String,
    args: Vec<String>,
    started_boot_ns: u64,
}

impl Found {
    fn process(self, clock: &Clock) -> Process {
        let Found { pid, ppid, uid, comm, exe, args, started_boot_ns } = self;
        Process { pid, ppid, uid, comm, exe, args, start_time: clock.start_time(started_boot_ns), end_time: None }
    }
}

/// Looks at processes, for whoever may not.
pub fn serve(stream: &UnixStream) {
    broker::serve(stream, |question, _| match question {
        Question::Process(pid) => Answer::of(process_of(pid)),
        Question::Running => Answer::of(running_processes()),
        Question::Cgroup(pid) => Answer::of(cgroup_of(pid)),
    });
}

/// Looks at processes through somebody who may.
pub struct Lookups(Caller);

impl Lookups {
    /// Asks whoever is served by `serve`.
    pub fn new(caller: Caller) -> Self {
        Lookups(caller)
    }

    /// The same where this very process may, and has another thread do it.
    pub fn within() -> Result<Self> {
        let (own, its) = UnixStream::pair().context("cannot make a pair of sockets")?;
        std::thread::Builder::new().name("processes".into()).spawn(move || serve(&its))?;
        Ok(Lookups(Caller::new(own)))
    }

    fn ask<A: DeserializeOwned + Default>(&self, question: &Question) -> A {
        self.0.ask(question, &[]).map(|(answer, _)| answer).unwrap_or_else(|error| {
            log::debug!("a process is not looked up: {error:#}");
            A::default()
        })
    }

    /// A process that runs. Its start time is exact to 10 ms.
    pub fn process(&self, pid: u32) -> Option<Process> {
        self.ask::<Option<Found>>(&Question::Process(pid)).map(|found| found.process(&clock()))
    }

    /// The processes that run, kernel threads included.
    pub fn running(&self) -> Vec<Process> {
        let (found, clock) = (self.ask::<Vec<Found>>(&Question::Running), clock());
        found.into_iter().map(|found| found.process(&clock)).collect()
    }

    /// The cgroup that a process is in.
    pub fn cgroup(&self, pid: u32) -> Option<u64> {
        self.ask(&Question::Cgroup(pid))
    }
}

fn running_processes() -> Vec<Found> {
    let listed = list().unwrap_or_else(|error| {
        log::warn!("processes that run already are read from /proc alone: {error:#}");
        Vec::new()
    });
    let mut processes: HashMap<u32, Found> = HashMap::new();
    for process in listed {
        let (exe, args) = (exe_of(process.pid), args_of(process.pid));
        processes.insert(process.pid, Found { exe, args, ..process });
    }
    for pid in fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    {
        if !processes.contains_key(&pid) {
            processes.extend(process_of(pid).map(|process| (pid, process)));
        }
    }
    processes.into_values().collect()
}

/// What the kernel's task iterator knows.
fn list() -> Result<Vec<Found>> {
    let object = open_and_load(&PROCESS, &[ITERATOR], None).context("the iterator cannot be loaded")?;
    let program = object.progs_mut().find(|program| program.name() == ITERATOR).context("the iterator is missing")?;
    let link = program.attach().context("the iterator cannot be attached")?;
    let mut bytes = Vec::new();
    Iter::new(&link)?.read_to_end(&mut bytes)?;
    let boot = Clock::new(0, 0);
    let records = bytes.chunks_exact(size_of::<running_record>()).filter_map(layout::read::<running_record>);
    Ok(records
        .map(|running_record { task }| {
            let task = decode::task(&task, &boot);
            Found {
                pid: task.pid,
                ppid: task.ppid,
                uid: task.uid,
                comm: task.comm,
                exe: String::new(),
                args: Vec::new(),
                started_boot_ns: task.start_time,
            }
        })
        .collect())
}

fn process_of(pid: u32) -> Option<Found> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, spaces and parentheses included; the numbers stand behind its last one.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()?;
    let start_ticks: u64 = fields.get(19)?.parse().ok()?;
    Some(Found {
        pid,
        ppid: fields.get(1)?.parse().ok()?,
        uid,
        comm: name.to_owned(),
        exe: exe_of(pid),
        args: args_of(pid),
        started_boot_ns: start_ticks * PROC_TICK_NS,
    })
}

fn exe_of(pid: u32) -> String {
    fs::read_link(format!("/proc/{pid}/exe")).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

fn args_of(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.is_empty() {
        Vec::new()
    } else {
        bytes.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
    }
}
