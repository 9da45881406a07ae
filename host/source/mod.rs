//! Sources of events: BPF programs loaded, attached by the best hook that the kernel really grants, and read. It knows
//! libbpf and the programs, and nothing of plugins or of where events go.

mod cgroup;
mod clock;
mod files;
mod ipc;
mod kernel;
mod load;
mod losses;
mod maps;
mod pending;
mod poll;
mod probe;
mod process;
mod ring;
mod rings;
mod seccomp;
mod syscall;
mod tcp;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{PipeWriter, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

pub use cgroup::{JudgedCgroups, cgroup_ids, existing_cgroups};
pub use kernel::serve as serve_sources;
pub use process::{Lookups, serve as serve_processes};

use crate::broker::Caller;
use crate::event::{Batch, CallSet, Comm, Kind, KindSet};

/// The sources, one line each. What a source is stands in its own file.
pub static SOURCES: &[&Source] =
    &[&process::PROCESS, &syscall::SYSCALL, &files::FILES, &tcp::TCP, &ipc::IPC, &seccomp::SECCOMP, &cgroup::CGROUP];

/// A source of events: one BPF object, and the ways to attach it.
pub struct Source {
    /// Its public name.
    pub name: &'static str,
    /// The compiled `bpf/NAME.bpf.c`.
    pub object: &'static [u8],
    /// The size of its rings together, a power of two: room for what comes in while the reader is kept from running.
    pub ring_bytes: u32,
    /// Its records can come by the million per second: each CPU puts them into a ring of its own, for CPUs that share one wait
    /// for each other most of the time.
    pub floods: bool,
    /// Ways to attach it, best first.
    pub rungs: &'static [Rung],
    /// Programs that are needed for these kinds alone, and attached only when one of them is wanted.
    pub partial: &'static [(&'static str, KindSet)],
    /// What it sums in the kernel.
    pub sums: Option<Sums>,
}

/// Makes a record of an entry's key and value and the boot time of the interval's end.
pub type SumRecord = fn(&[u8], &[u8], u64) -> Option<Vec<u8>>;

/// Events that are summed in the kernel, and read at the end of each interval.
pub struct Sums {
    /// Their kind.
    pub kind: Kind,
    /// Two maps: the programs sum into one while the other is read.
    pub maps: [&'static str; 2],
    /// Makes a record, for the decoder, of an entry.
    pub record: SumRecord,
}

impl Source {
    /// Whether it is narrowed in the kernel. Cgroups are made from outside of them, by engines, and whoever finds out about
    /// containers needs to see all; the dispatcher narrows them for the others.
    fn is_narrowed(&self) -> bool {
        self.name != cgroup::CGROUP.name
    }

    /// Whether a program is needed for one of these kinds.
    fn needs(&self, program: &str, kinds: KindSet) -> bool {
        let partial = self.partial.iter().find(|(name, _)| *name == program);
        partial.is_none_or(|(_, needed)| !needed.and(kinds).is_empty())
    }

    /// The kinds that it gives.
    pub fn kinds(&self) -> KindSet {
        Kind::ALL.iter().copied().filter(|kind| kind.source() == self.name).collect()
    }
}

/// One way to attach a source.
pub struct Rung {
    /// The name of the hook that people know.
    pub hook: &'static str,
    /// The programs of the object that make it up.
    pub programs: &'static [&'static str],
    /// What cannot be seen by it; empty where nothing is missing.
    pub misses: &'static str,
}

/// The hooks that stand for several: tracepoints are known by one name.
const TRACEPOINTS: (&str, &[&str]) = ("tracepoint", &["tp_btf", "raw_tp", "tp"]);

/// The hooks that these names mean.
///
/// # Errors
/// A name that no source's hook has.
pub fn hooks(names: &[String]) -> Result<Vec<String>> {
    let mut known: Vec<&str> = Vec::new();
    for rung in SOURCES.iter().flat_map(|source| source.rungs) {
        if !known.contains(&rung.hook) {
            known.push(rung.hook);
        }
    }
    let mut hooks = Vec::new();
    for name in names {
        match known.iter().find(|hook| *hook == name) {
            Some(hook) => hooks.push((*hook).to_owned()),
            None if name == TRACEPOINTS.0 => hooks.extend(TRACEPOINTS.1.iter().map(|hook| (*hook).to_owned())),
            None => {
                let all = known.join(", ");
                bail!("no hook is called '{name}'; the hooks are {all}, and {} for all tracepoints", TRACEPOINTS.0)
            }
        }
    }
    Ok(hooks)
}

/// The events that somebody wants.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// Their kinds.
    pub kinds: KindSet,
    /// Of kinds that are about system calls: which calls. Without an entry all of them.
    pub calls: BTreeMap<Kind, CallSet>,
    /// Of sources whose events are wanted of some alone: of whom. Without an entry of all.
    pub whom: BTreeMap<String, BTreeSet<Whom>>,
}

/// Somebody whose events are wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Whom {
    /// A process.
    Pid(u32),
    /// A cgroup with what is below it, by its id.
    Cgroup(u64),
    /// Threads with a name.
    Comm(Comm),
    /// A user, by the real id.
    Uid(u32),
}

impl From<KindSet> for Wanted {
    fn from(kinds: KindSet) -> Self {
        Wanted { kinds, ..Default::default() }
    }
}

/// Which hooks may be used, and which events leave the kernel. An empty list means all.
#[derive(Clone, Debug, Default)]
pub struct Narrowing {
    /// Only hooks with one of these names.
    pub hooks: Vec<String>,
    /// Processes.
    pub pids: Vec<u32>,
    /// Threads' names.
    pub comms: Vec<String>,
    /// Real user ids.
    pub uids: Vec<u32>,
    /// Ids of cgroups in the unified tree; what is below them counts as in them.
    pub cgroups: Vec<u64>,
    /// Cgroups of containers wanted and of others, which come and go while the sources are attached; none where all events
    /// are wanted. They add to those above.
    pub containers: Option<JudgedCgroups>,
    /// Processes that are left out whatever else is said, those of the host itself; 0 for none.
    pub exclude_pids: [u32; 2],
    /// Sizes of sources' rings that are not the sources' own.
    pub ring_bytes: BTreeMap<String, u32>,
}

/// How often the rings are read while events come, and so how long an event waits for others to be handed over with: long
/// enough for some thousand events of a flood, short enough for whoever watches.
pub const LATENCY: Duration = Duration::from_millis(1);

/// A text that stands in the tables of sources and rungs.
pub type Known = &'static str;

/// How a source stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SourceState {
    /// The source.
    #[serde(deserialize_with = "known")]
    pub source: Known,
    /// Its state.
    #[serde(flatten)]
    pub state: State,
}

/// Why a hook was not taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// The hook; empty where the reason is none of a hook's.
    #[serde(deserialize_with = "known")]
    pub hook: Known,
    /// What happened, the likely cause and the remedy, in a line.
    pub reason: String,
    /// The last that the kernel's verifier said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl Refusal {
    fn of(rung: &Rung, reason: &str) -> Self {
        Refusal { hook: rung.hook, reason: reason.to_owned(), log: Vec::new() }
    }
}

/// The state of a source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It gives events.
    Attached {
        /// By this hook.
        #[serde(deserialize_with = "known")]
        hook: Known,
        /// Which cannot see this; empty where nothing is missing.
        #[serde(deserialize_with = "known")]
        misses: Known,
        /// Better hooks, and why they were not taken.
        why_not_better: Vec<Refusal>,
    },
    /// No hook could be had.
    Failed {
        /// Every hook, and why.
        why: Vec<Refusal>,
    },
    /// Nobody wants its events.
    Off,
}

fn known<'de, D: Deserializer<'de>>(from: D) -> Result<Known, D::Error> {
    let text = String::deserialize(from)?;
    let rungs = SOURCES.iter().flat_map(|source| source.rungs);
    let mut all = SOURCES.iter().map(|source| source.name).chain(rungs.flat_map(|rung| [rung.hook, rung.misses]));
    all.find(|known| *known == text).ok_or_else(|| D::Error::custom("no source has this"))
}

/// Where records are lost, in summaries and gaps.
const KERNEL_RING: &str = "kernel_ring";
const NESTED: &str = "nested";

/// What became of a source's events on their way out of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceCounts {
    /// The source.
    pub source: &'static str,
    /// Records in the ring, and those made of sums.
    pub sent: u64,
    /// Records for which the ring had no room.
    pub dropped: u64,
    /// Records not made, because the same CPU was in the middle of another.
    pub nested: u64,
    /// Runs of the programs that the kernel left out, because it had interrupted another. At most so many events are missing:
    /// not every run would have made one.
    pub skipped: u64,
    /// Records that made no sense to the decoder.
    pub undecodable: u64,
    /// Records in the ring that did not come out of it.
    pub unread: u64,
    /// Of `dropped` and `nested`, how many of each kind.
    pub lost_by_kind: Vec<(Kind, &'static str, u64)>,
    /// Records that came after later ones had gone on. They are not lost.
    pub late: u64,
    /// Its programs that are attached now.
    pub programs: Vec<ProgramRuns>,
}

/// How a BPF program ran, while the kernel measured that (`sysctl kernel.bpf_stats_enabled=1`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramRuns {
    /// Its name, as the kernel cuts it.
    pub name: String,
    /// How often.
    pub runs: u64,
    /// How long, all runs together.
    pub time: Duration,
}

impl SourceCounts {
    /// Events that happened, of the kinds wanted and within the narrowing.
    pub fn seen(&self) -> u64 {
        self.sent + self.dropped + self.nested + self.skipped
    }

    /// Where events were lost.
    pub fn lost(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let lost = [
            (KERNEL_RING, self.dropped),
            (NESTED, self.nested),
            ("skipped", self.skipped),
            ("undecodable", self.undecodable),
            ("unread", self.unread),
        ];
        lost.into_iter()
    }

    /// Adds what was counted of another life of the source.
    fn add(&mut self, counts: SourceCounts) {
        let SourceCounts { source, sent, dropped, nested, skipped, undecodable, unread, lost_by_kind, late, programs } =
            counts;
        self.source = source;
        self.sent += sent;
        self.dropped += dropped;
        self.nested += nested;
        self.skipped += skipped;
        self.undecodable += undecodable;
        self.unread += unread;
        self.late += late;
        self.lost_by_kind.extend(lost_by_kind);
        self.programs.extend(programs);
    }
}

/// The thread that reads the rings.
pub struct Poller {
    commands: Sender<poll::Command>,
    bell: PipeWriter,
    thread: JoinHandle<Vec<SourceCounts>>,
}

impl Poller {
    /// Starts the thread. `kernel` is served by `serve_sources`. `deliver` gets batches in time order, each `latency` while
    /// events come; while it blocks, the rings fill, and what does not fit is counted.
    pub fn start(kernel: Caller, latency: Duration, deliver: Box<dyn FnMut(Batch) + Send>) -> Result<Self> {
        let (commands, receiver) = channel();
        let (hears, bell) = std::io::pipe().context("cannot make a pipe")?;
        let run = move || poll::Reader::new(kernel, hears, latency, deliver).run(&receiver);
        let thread = std::thread::Builder::new().name("poll".into()).spawn(run).context("cannot start a thread")?;
        Ok(Poller { commands, bell, thread })
    }

    /// The same where this very process may load BPF programs, and has another thread do it.
    pub fn within(narrowing: Narrowing, latency: Duration, deliver: Box<dyn FnMut(Batch) + Send>) -> Result<Self> {
        let (own, its) = UnixStream::pair().context("cannot make a pair of sockets")?;
        let serve = move || serve_sources(narrowing, &its);
        std::thread::Builder::new().name("sources".into()).spawn(serve).context("cannot start a thread")?;
        Self::start(Caller::new(own), latency, deliver)
    }

    /// Attaches the sources of what is wanted and detaches the others. Waits until that is done.
    pub fn want(&self, wanted: impl Into<Wanted>) -> Vec<SourceState> {
        let (reply, answer) = channel();
        self.tell(poll::Command::Want(wanted.into(), reply));
        answer.recv().unwrap_or_default()
    }

    /// Has somebody told, on the thread, what was counted so far: soon, or, while events are delivered to nobody who takes them, later.
    pub fn count(&self, tell: impl FnOnce(Vec<SourceCounts>) + Send + 'static) {
        self.tell(poll::Command::Count(Box::new(tell)));
    }

    fn tell(&self, command: poll::Command) {
        if self.commands.send(command).is_ok() {
            _ = (&self.bell).write(&[0]);
        }
    }

    /// Detaches everything, delivers the last events, and says what was counted.
    pub fn stop(self) -> Vec<SourceCounts> {
        drop((self.commands, self.bell));
        self.thread.join().unwrap_or_default()
    }
}

/// What this kernel offers: every source is really loaded and attached, by one rung after the other.
pub fn probe(narrowing: &Narrowing) -> Vec<SourceState> {
    load::quiet_libbpf();
    let loaded = load::load_all(SOURCES.iter().copied(), Kind::ALL.iter().copied().collect(), narrowing);
    loaded.into_iter().map(|(source, (_, state))| SourceState { source: source.name, state }).collect()
}
