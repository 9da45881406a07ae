//! The thread that reads the rings: drains them in batches, merges them by time, decodes and delivers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::thread::gettid;
use serde::de::DeserializeOwned;

use super::kernel::{self, Question, summed};
use super::losses::{KernelCounts, Losses, Tally, bump, counts};
use super::rings::Rings;
use super::{Refusal, SOURCES, Source, SourceCounts, SourceState, State, Wanted, clock};
use crate::broker::{Caller, Frame};
use crate::event::clock::Clock;
use crate::event::decode::boot_time;
use crate::event::{Batch, Columns, KindSet, decode};

/// Records are stamped just before they enter the ring, so that one may enter after another with a later time. Events
/// are held back for so long, in which all that happened before them has arrived.
const REORDER_WINDOW_NS: u64 = 1_000_000;

/// How much time's records one pass reads when the reader has fallen behind: batches of some thousand events in a flood, which
/// the CPUs' caches hold.
const PASS_NS: u64 = 2_000_000;

/// After so many drains that found nothing the reader sleeps until the kernel wakes it.
const IDLE_DRAINS: u32 = 20;

/// The longest sleep: how long a command may wait, and nothing else, for the kernel wakes the reader when a record comes.
const LONGEST_SLEEP: Duration = Duration::from_millis(200);

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

/// What the thread is told. It stops when nobody is left to tell it anything.
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
    /// Which of its two maps the programs sum into.
    sums: usize,
    /// When to exchange the two, and when the old one is at rest.
    next_sum: Instant,
    settled: Option<Instant>,
    losses: Losses,
}

/// What has been read and not been delivered.
struct Pending {
    columns: Columns,
    clock: Clock,
    /// Boot time up to which events have been delivered.
    delivered: u64,
}

/// The reader of all rings.
pub struct Reader {
    kernel: Arc<Caller>,
    latency: Duration,
    deliver: Box<dyn FnMut(Batch) + Send>,
    attached: BTreeMap<&'static str, Attached>,
    /// The kinds that somebody wants.
    kinds: KindSet,
    /// Counts of sources' earlier lives.
    before: BTreeMap<&'static str, SourceCounts>,
    /// The programs have been told to wake it.
    asleep: bool,
    pending: RefCell<Pending>,
}

impl Reader {
    pub fn new(kernel: Caller, latency: Duration, deliver: Box<dyn FnMut(Batch) + Send>) -> Self {
        drop(black_box(Vec::<u8>::with_capacity(LARGE_BATCH_BYTES)));
        let pending = Pending { columns: Columns::default(), clock: clock::clock(), delivered: 0 };
        let (attached, before, pending) = (BTreeMap::new(), BTreeMap::new(), RefCell::new(pending));
        let kernel = Arc::new(kernel);
        Reader { kernel, latency, deliver, attached, kinds: KindSet::default(), before, asleep: false, pending }
    }

    /// Runs until nobody is left to give commands. Returns the counts of all sources that were ever attached.
    pub fn run(mut self, commands: &Receiver<Command>) -> Vec<SourceCounts> {
        // It runs for a moment, as seldom as it can, and what it does not get to in time is lost.
        self.ask::<()>(&Question::Prefer(gettid().as_raw_nonzero().get()));
        let mut idle_drains = 0;
        loop {
            // With nothing to read there is nothing to do but to wait for a command.
            let command = match self.attached.is_empty() {
                false => commands.try_recv(),
                true => commands.recv().map_err(|_| TryRecvError::Disconnected),
            };
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

    /// Asks whoever may use BPF. Without an answer nothing more comes, and the host learns of it elsewhere.
    fn ask<A: DeserializeOwned + Default>(&self, question: &Question) -> (A, Option<Frame>) {
        match self.kernel.ask(question, &[]) {
            Ok((answer, frame)) => (answer, Some(frame)),
            Err(error) => {
                log::error!("the sources are out of reach: {error:#}");
                Default::default()
            }
        }
    }

    /// What was counted of a source that is attached.
    fn count(&self, Attached { source, tally, .. }: &Attached) -> SourceCounts {
        let (counted, _) = self.ask::<KernelCounts>(&Question::Count(source.name.to_owned()));
        counts(source, counted, tally)
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
        let (mut settled, mut exchanged) = (Vec::new(), Vec::new());
        for attached in self.attached.values_mut().filter(|attached| attached.sums(self.kinds)) {
            if attached.settled.is_some_and(|at| now >= at) {
                attached.settled = None;
                settled.push(attached.source.name);
            } else if attached.settled.is_none() && now >= attached.next_sum {
                attached.sums = 1 - attached.sums;
                attached.settled = Some(now + SUM_SETTLES);
                attached.next_sum = (attached.next_sum + SUM_EVERY).max(now);
                exchanged.push((attached.source.name, attached.sums));
            }
        }
        for (name, sums) in exchanged {
            self.ask::<()>(&Question::SumInto(name.to_owned(), sums));
        }
        settled.into_iter().map(|name| self.take_sums(name, 1 - self.attached[name].sums)).sum::<usize>() > 0
    }

    /// Takes what a source has summed into one of its maps. How many records that makes.
    fn take_sums(&self, name: &'static str, which: usize) -> usize {
        let (count, frame) = self.ask(&Question::TakeSums(name.to_owned(), which));
        let (tally, pending) = (&self.attached[name].tally, &mut *self.pending.borrow_mut());
        for record in summed(frame.as_ref().map_or(&[], |frame| &frame.bytes)) {
            bump(&tally.summed);
            take(pending, tally, record);
        }
        count
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
        pending.columns.gap.extend(gaps);
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
                rings.take(until, |record| take(pending, tally, record));
            }
        }
    }

    /// Delivers what is older. Whether there was anything.
    fn cut(&mut self, until: u64) -> bool {
        let batches = {
            let pending = &mut *self.pending.borrow_mut();
            let until_epoch = if until == u64::MAX { until } else { pending.clock.time(until) };
            let batch = Batch::cut(&mut pending.columns, until_epoch);
            pending.delivered = pending.delivered.max(until);
            let clock = clock::clock();
            // Sums and gaps may wait with times of before. When the time of day has been set back it would take as long to reach those.
            let rest = (!clock.agrees(&pending.clock)).then(|| Batch::cut(&mut pending.columns, u64::MAX));
            pending.clock = clock;
            [Some(batch), rest]
        };
        let mut any = false;
        for batch in batches.into_iter().flatten().filter(|batch| !batch.is_empty()) {
            any = true;
            (self.deliver)(batch);
        }
        any
    }

    /// Has the programs wake it, unless a record came before they knew.
    fn fall_asleep(&mut self) {
        self.say_asleep(true);
        if !matches!(self.drain(), Drained::Nothing) {
            self.say_asleep(false);
        }
    }

    /// Sleeps until the kernel has a record, sums are to be read, or for a while. Whether there was a record.
    fn sleep(&self) -> bool {
        let summed = self.attached.values().filter(|attached| attached.sums(self.kinds));
        let next = summed.map(|attached| attached.settled.unwrap_or(attached.next_sum)).min();
        let wait = next.map_or(LONGEST_SLEEP, |next| next.saturating_duration_since(Instant::now()) + SLEEP_STEP);
        Rings::sleep(self.attached.values().map(|attached| &attached.rings), wait.min(LONGEST_SLEEP))
    }

    fn say_asleep(&mut self, asleep: bool) {
        self.asleep = asleep;
        self.ask::<()>(&Question::Asleep(asleep));
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
            let next_sum = Instant::now() + SUM_EVERY;
            let losses = Losses::new(clock::boot_ns());
            let attached =
                Attached { source, rings, tally: Tally::default(), sums: 0, next_sum, settled: None, losses };
            self.attached.insert(source.name, attached);
        }
        Ok(states)
    }

    /// Detaches sources, once all that their programs have sent has been read.
    fn detach(&mut self, names: &[&'static str]) {
        for &name in names {
            if !self.attached.contains_key(name) {
                continue;
            }
            self.ask::<()>(&Question::Detach(name.to_owned()));
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
            let attached = &self.attached[name];
            if attached.source.sums.is_some() {
                self.take_sums(name, 1 - attached.sums);
                self.take_sums(name, attached.sums);
            }
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
            self.ask::<()>(&Question::Forget(name.to_owned()));
        }
    }
}

impl Attached {
    /// Whether it sums events of these kinds in the kernel.
    fn sums(&self, kinds: KindSet) -> bool {
        self.source.sums.as_ref().is_some_and(|sums| kinds.has(sums.kind))
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

fn take(pending: &mut Pending, tally: &Tally, bytes: &[u8]) {
    match decode(bytes, &pending.clock, &mut pending.columns) {
        Ok(_) => bump(&tally.decoded),
        Err(_) => bump(&tally.undecodable),
    }
    if boot_time(bytes).is_some_and(|time| time < pending.delivered) {
        bump(&tally.late);
    }
}
