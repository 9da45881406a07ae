//! The thread that reads the rings: drains them in batches, merges them by time, decodes and delivers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{PipeReader, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::thread::gettid;
use serde::de::DeserializeOwned;

use super::kernel::{self, Question, summed};
use super::losses::{KernelCounts, Losses, Tally, bump, counts};
use super::pending::Pending;
use super::rings::Rings;
use super::{Refusal, SOURCES, Source, SourceCounts, SourceState, State, Wanted, clock};
use crate::broker::{Caller, Frame};
use crate::event::{Batch, KindSet};

/// Records are stamped just before they enter the ring, so that one may enter after another with a later time. Events
/// are held back for so long, in which all that happened before them has arrived.
const REORDER_WINDOW_NS: u64 = 1_000_000;

/// How much time's records one pass reads when the reader has fallen behind: batches of some thousand events in a flood, which
/// the CPUs' caches hold.
const PASS_NS: u64 = 2_000_000;

/// After so many drains that found nothing the reader sleeps until the kernel wakes it.
const IDLE_DRAINS: u32 = 20;

/// Sleeps are whole milliseconds, and one that ends too early is in vain.
const SLEEP_STEP: Duration = Duration::from_millis(1);

/// How often a source that is being detached is looked at.
const DETACH_STEP: Duration = Duration::from_millis(1);

/// How long programs that run at the moment of detaching may take to send their records.
const LAST_RECORDS: Duration = Duration::from_millis(200);

/// How often what is summed in the kernel is read.
const SUM_EVERY: Duration = Duration::from_secs(1);

/// How long programs that run while the sums' maps are exchanged may still add to the old one.
const SUM_SETTLES: Duration = Duration::from_millis(5);

/// The memory of a large batch. glibc has the kernel take large memory back as soon as it is freed, and give it anew page by page,
/// until something as large has been freed once: that is done before the first batch.
const LARGE_BATCH_BYTES: usize = 16 << 20;

/// The source of gaps.
const HOST: &str = "host";

/// What the thread is told, each with a byte through the pipe that wakes it. It stops when nobody is left to tell it anything.
pub enum Command {
    /// Attach the sources of these events and no others.
    Want(Wanted, Sender<Vec<SourceState>>),
    /// Say what has been counted so far.
    Count(Counted),
}

/// Whoever wants to know what has been counted.
pub type Counted = Box<dyn FnOnce(Vec<SourceCounts>) + Send>;

/// A source that is attached.
struct Attached {
    source: &'static Source,
    rings: Rings,
    tally: Tally,
    losses: Losses,
}

/// The reader of all rings.
pub struct Reader {
    kernel: Arc<Caller>,
    /// Rung for each command.
    bell: PipeReader,
    latency: Duration,
    deliver: Box<dyn FnMut(Batch) + Send>,
    attached: BTreeMap<&'static str, Attached>,
    /// The kinds that somebody wants.
    kinds: KindSet,
    /// Counts of sources' earlier lives.
    before: BTreeMap<&'static str, SourceCounts>,
    /// The programs have been told to wake it.
    asleep: bool,
    /// When to exchange the maps that the programs sum into, and when the old ones are at rest.
    next_sum: Instant,
    settled: Option<Instant>,
    /// A question was not answered, and it was said.
    unanswered: Cell<bool>,
    pending: RefCell<Pending>,
}

impl Reader {
    pub fn new(kernel: Caller, bell: PipeReader, latency: Duration, deliver: Box<dyn FnMut(Batch) + Send>) -> Self {
        drop(black_box(Vec::<u8>::with_capacity(LARGE_BATCH_BYTES)));
        let (attached, before, pending) = (BTreeMap::new(), BTreeMap::new(), RefCell::new(Pending::new()));
        Reader {
            kernel: Arc::new(kernel),
            bell,
            latency,
            deliver,
            attached,
            kinds: KindSet::default(),
            before,
            asleep: false,
            next_sum: Instant::now() + SUM_EVERY,
            settled: None,
            unanswered: Cell::new(false),
            pending,
        }
    }

    /// Runs until nobody is left to give commands. Returns the counts of all sources that were ever attached.
    pub fn run(mut self, commands: &Receiver<Command>) -> Vec<SourceCounts> {
        // It runs for a moment, as seldom as it can, and what it does not get to in time is lost.
        _ = self.ask::<()>(&Question::Prefer(gettid().as_raw_nonzero().get()));
        let mut idle_drains = 0;
        loop {
            // With nothing to read there is nothing to do but to wait for a command.
            let command = match self.attached.is_empty() {
                false => commands.try_recv(),
                true => commands.recv().map_err(|_| TryRecvError::Disconnected),
            };
            if command.is_ok() {
                // With each the bell was rung.
                _ = self.bell.read(&mut [0]);
            }
            match command {
                Ok(Command::Want(wanted, reply)) => _ = reply.send(self.want(&wanted)),
                Ok(Command::Count(tell)) => tell(self.counted()),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => break,
            }
            if self.asleep {
                if !self.tell_losses() && !self.read_sums() && !self.sleep() {
                    continue;
                }
                self.say_asleep(false);
                idle_drains = 0;
            }
            match self.drain() {
                Drained::Behind => idle_drains = 0,
                Drained::Some => {
                    idle_drains = 0;
                    thread::sleep(self.latency);
                }
                Drained::Nothing if idle_drains < IDLE_DRAINS => {
                    idle_drains += 1;
                    thread::sleep(self.latency);
                }
                Drained::Nothing => self.fall_asleep(),
            }
        }
        self.detach(&SOURCES.iter().map(|source| source.name).collect::<Vec<_>>());
        self.cut(u64::MAX);
        self.before.into_values().collect()
    }

    /// Asks whoever may use BPF. No answer where nobody is there any more: then nothing more comes, and the host is told elsewhere.
    fn ask<A: DeserializeOwned>(&self, question: &Question) -> Option<(A, Frame)> {
        match self.kernel.ask(question, &[]) {
            Ok(answer) => Some(answer),
            Err(error) => {
                if !self.unanswered.replace(true) {
                    log::error!("the sources are out of reach: {error:#}");
                }
                None
            }
        }
    }

    /// What was counted of a source that is attached.
    fn count(&self, Attached { source, tally, .. }: &Attached) -> SourceCounts {
        let counted = self.ask::<KernelCounts>(&Question::Count(source.name.to_owned()));
        // Unanswered, what has come is all that is known.
        let come = || KernelCounts { sent: tally.read() - tally.summed.get(), ..Default::default() };
        counts(source, counted.map_or_else(come, |(counted, _)| counted), tally)
    }

    /// What was counted of all sources so far.
    fn counted(&self) -> Vec<SourceCounts> {
        let mut all = self.before.clone();
        for (name, attached) in &self.attached {
            all.entry(name).or_default().add(self.count(attached));
        }
        all.into_values().collect()
    }

    /// Exchanges and reads what is summed in the kernel, when it is time. Whether any was read.
    fn read_sums(&mut self) -> bool {
        let now = Instant::now();
        if !self.sums() {
            return false;
        }
        if self.settled.is_some_and(|at| now >= at) {
            self.settled = None;
            return self.take_sums(&Question::TakeSums) > 0;
        }
        if self.settled.is_none() && now >= self.next_sum {
            _ = self.ask::<()>(&Question::ExchangeSums);
            self.settled = Some(now + SUM_SETTLES);
            self.next_sum = (self.next_sum + SUM_EVERY).max(now);
        }
        false
    }

    /// Whether events that are wanted are summed in the kernel.
    fn sums(&self) -> bool {
        let mut sums = self.attached.values().filter_map(|attached| attached.source.sums.as_ref());
        sums.any(|sums| self.kinds.has(sums.kind))
    }

    /// Takes what sources have summed. How many records that makes.
    fn take_sums(&self, question: &Question) -> usize {
        let Some((counts, frame)) = self.ask::<Vec<(String, usize)>>(question) else { return 0 };
        let (mut records, pending) = (summed(&frame.bytes), &mut *self.pending.borrow_mut());
        for (name, count) in &counts {
            let Some(Attached { tally, .. }) = self.attached.get(name.as_str()) else { continue };
            for record in records.by_ref().take(*count) {
                bump(&tally.summed);
                pending.take(tally, record);
            }
        }
        counts.iter().map(|(_, count)| count).sum()
    }

    /// Tells of what was lost in the kernel, when it is time. Whether it was.
    fn tell_losses(&mut self) -> bool {
        let mut due = Vec::new();
        for attached in self.attached.values_mut() {
            if attached.losses.is_due(attached.tally.read()) {
                due.push(attached.source.name);
            }
        }
        for &name in &due {
            let counts = self.count(&self.attached[name]);
            self.tell(name, &counts);
        }
        !due.is_empty()
    }

    /// Tells of what is lost of a source since it was told last.
    fn tell(&mut self, name: &'static str, counts: &SourceCounts) {
        let Some(Attached { source, losses, .. }) = self.attached.get_mut(name) else { return };
        let pending = &mut *self.pending.borrow_mut();
        let gaps = losses.tell(source, counts, &pending.clock, clock::boot_ns());
        let host = self.before.entry(HOST).or_insert_with(|| SourceCounts { source: HOST, ..Default::default() });
        host.sent += gaps.len() as u64;
        pending.tell(gaps);
    }

    /// Reads what is in the rings and old enough, and delivers it.
    fn drain(&mut self) -> Drained {
        self.read_sums();
        self.tell_losses();
        self.drain_rings()
    }

    fn drain_rings(&mut self) -> Drained {
        let old_enough = clock::boot_ns().saturating_sub(REORDER_WINDOW_NS);
        // What waits is the oldest that there is: a ring without such a record was read to its end.
        let until = self.oldest().map_or(old_enough, |oldest| old_enough.min(oldest + PASS_NS));
        self.take(until);
        let waits = self.oldest().is_some();
        let any = self.cut(until);
        match (until < old_enough, any || waits) {
            (true, _) => Drained::Behind,
            (false, true) => Drained::Some,
            (false, false) => Drained::Nothing,
        }
    }

    /// The boot time of the oldest record that is known to wait in a ring.
    fn oldest(&self) -> Option<u64> {
        self.attached.values().filter_map(|attached| attached.rings.oldest()).min()
    }

    /// Takes what is in the rings, and older.
    fn take(&self, until: u64) {
        // What can flood comes last, so that of all others as much as can be is read before.
        let pending = &mut *self.pending.borrow_mut();
        for floods in [false, true] {
            for Attached { rings, tally, .. } in
                self.attached.values().filter(|attached| attached.source.floods == floods)
            {
                rings.take(until, |record| pending.take(tally, record));
            }
        }
    }

    /// Delivers what is older. Whether there was anything.
    fn cut(&mut self, until: u64) -> bool {
        let batches = self.pending.get_mut().cut(until);
        batches.map(|batch| (self.deliver)(batch)).count() > 0
    }

    /// Has the programs wake it, unless a record came before they knew.
    fn fall_asleep(&mut self) {
        self.say_asleep(true);
        if !matches!(self.drain(), Drained::Nothing) {
            self.say_asleep(false);
        }
    }

    /// Sleeps until the kernel has a record, the bell rings, or it is time for sums or losses. Whether there was a record.
    fn sleep(&self) -> bool {
        let sums = self.sums().then(|| self.settled.unwrap_or(self.next_sum));
        let losses = self.attached.values().filter_map(|attached| attached.losses.due(attached.tally.read()));
        let longest = losses.chain(sums).min().map(|at| at.saturating_duration_since(Instant::now()) + SLEEP_STEP);
        Rings::sleep(self.attached.values().map(|attached| &attached.rings), &self.bell, longest)
    }

    fn say_asleep(&mut self, asleep: bool) {
        self.asleep = asleep;
        _ = self.ask::<()>(&Question::Asleep(asleep));
    }

    fn want(&mut self, wanted: &Wanted) -> Vec<SourceState> {
        let kinds = wanted.kinds;
        self.kinds = kinds;
        let (wanted_sources, unwanted): (Vec<&Source>, Vec<&Source>) =
            SOURCES.iter().partition(|source| !source.kinds().and(kinds).is_empty());
        self.detach(&unwanted.iter().map(|source| source.name).collect::<Vec<_>>());
        self.say_asleep(false);
        let states = self.attach(wanted).unwrap_or_else(|error| {
            // Whatever was attached without anybody to read it.
            let unread = wanted_sources.iter().filter(|source| !self.attached.contains_key(source.name));
            unread.for_each(|source| _ = self.ask::<()>(&Question::Forget(source.name.to_owned())));
            let why = vec![Refusal { hook: "", reason: format!("{error:#}"), log: Vec::new() }];
            let failed =
                |source: &&Source| SourceState { source: source.name, state: State::Failed { why: why.clone() } };
            wanted_sources.iter().map(failed).collect()
        });
        let state = |source: &&'static Source| {
            let state = states.iter().find(|state| state.source == source.name).cloned();
            state.unwrap_or(SourceState { source: source.name, state: State::Off })
        };
        SOURCES.iter().map(state).collect()
    }

    /// Has what is wanted attached, and maps the rings of the sources that are new.
    fn attach(&mut self, wanted: &Wanted) -> Result<Vec<SourceState>> {
        let (kernel, want) = (self.kernel.clone(), Question::Want(wanted.clone()));
        let (tell, told) = channel();
        thread::Builder::new().name("want".into()).spawn(move || tell.send(kernel.ask(&want, &[])))?;
        let asked = loop {
            match told.recv_timeout(self.latency) {
                // Loading takes long enough for what comes meanwhile to fill the other sources' rings.
                Err(RecvTimeoutError::Timeout) => _ = self.drain_rings(),
                answer => break answer.context("the thread that asks for sources failed")?,
            }
        };
        let (kernel::Attached { states, rings }, frame) = asked?;
        let mut files = frame.files.into_iter();
        for (name, count, bytes) in rings {
            let source = SOURCES.iter().find(|source| source.name == name).context("a source that is not known")?;
            let own: Vec<_> = files.by_ref().take(count).collect();
            ensure!(own.len() == count, "not all of its rings have come");
            let rings = Rings::map(own, bytes).context("its rings cannot be read")?;
            let losses = Losses::new(clock::boot_ns());
            self.attached.insert(source.name, Attached { source, rings, tally: Tally::default(), losses });
        }
        Ok(states)
    }

    /// Detaches sources, once all that their programs have sent has been read.
    fn detach(&mut self, names: &[&'static str]) {
        for &name in names {
            if !self.attached.contains_key(name) {
                continue;
            }
            _ = self.ask::<()>(&Question::Detach(name.to_owned()));
            let deadline = Instant::now() + LAST_RECORDS;
            loop {
                // Up to now, for another source's flood has no end.
                self.take(clock::boot_ns());
                let (sent, read) = (self.count(&self.attached[name]).sent, self.attached[name].tally.read());
                if sent == read && Instant::now() > deadline - LAST_RECORDS + DETACH_STEP * 5 {
                    break;
                }
                if Instant::now() > deadline {
                    log::error!("source {name}: {sent} records were sent and {read} came");
                    break;
                }
                thread::sleep(DETACH_STEP);
            }
            if self.attached[name].source.sums.is_some() {
                self.take_sums(&Question::LastSums(name.to_owned()));
            }
            let attached = &self.attached[name];
            let counts = self.count(attached);
            // Its programs are attached no more.
            let unread = counts.sent.saturating_sub(attached.tally.read());
            let counts = SourceCounts { unread, programs: Vec::new(), ..counts };
            self.tell(name, &counts);
            if counts.skipped > 0 {
                log::error!(
                    "source {name}: the kernel left out {} runs of its programs, for it had interrupted them: events are \
                     missing; try --hooks tp, which is interrupted less often",
                    counts.skipped
                );
            }
            self.before.entry(name).or_default().add(counts);
            self.attached.remove(name);
            _ = self.ask::<()>(&Question::Forget(name.to_owned()));
        }
    }
}

/// What a look at the rings has found.
enum Drained {
    /// Events, and more that are old enough.
    Behind,
    /// Events, or some that will be old enough soon.
    Some,
    /// No event.
    Nothing,
}
