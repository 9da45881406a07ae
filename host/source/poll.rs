//! The thread that reads the rings: drains them in batches, merges them by time, decodes and delivers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapFlags};
use rustix::process::setpriority_process;

use super::load::{Loaded, load};
use super::losses::{Losses, Tally, bump, counts, runs};
use super::maps::{control, map, narrow_to_plugins, select_calls};
use super::rings::{Rings, Take};
use super::{Narrowing, SOURCES, Source, SourceCounts, SourceState, State, Sums, Wanted, clock};
use crate::event::clock::Clock;
use crate::event::decode::boot_time;
use crate::event::layout::c;
use crate::event::{Batch, Columns, Kind, KindSet, decode};

/// Records are stamped just before they enter the ring, so that one may enter after another with a later time. Events
/// are held back for so long, in which all that happened before them has arrived.
const REORDER_WINDOW_NS: u64 = 1_000_000;

/// How much time's records one pass reads when the reader has fallen behind: batches of some thousand events in a flood, which
/// the CPUs' caches hold.
const PASS_NS: u64 = 2_000_000;

/// The reader's priority, as of nice(1): before ordinary programs, which may keep all CPUs busy.
const NICE: i32 = -10;

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

/// How many entries of sums are read by one system call.
const SUM_BATCH: u32 = 1024;

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
    loaded: Loaded,
    tally: Rc<Tally>,
    /// Which of its two maps the programs sum into.
    sums: usize,
    /// When to exchange the two, and when the old one is at rest.
    next_sum: Instant,
    settled: Option<Instant>,
    losses: Losses,
}

/// What the rings' callbacks share.
struct Pending {
    columns: Columns,
    clock: Clock,
    /// Boot time up to which events have been delivered.
    delivered: u64,
}

/// The reader of all rings.
pub struct Reader {
    narrowing: Narrowing,
    deliver: Box<dyn FnMut(Batch) + Send>,
    attached: BTreeMap<&'static str, Attached>,
    states: BTreeMap<&'static str, State>,
    /// The kinds that somebody wants.
    kinds: KindSet,
    /// Counts of sources' earlier lives.
    before: BTreeMap<&'static str, SourceCounts>,
    rings: Option<Rings>,
    /// The programs have been told to wake it.
    asleep: bool,
    pending: Rc<RefCell<Pending>>,
}

impl Reader {
    pub fn new(narrowing: Narrowing, deliver: Box<dyn FnMut(Batch) + Send>) -> Self {
        let pending = Pending { columns: Columns::default(), clock: clock::clock(), delivered: 0 };
        let (attached, states, before) = Default::default();
        let (rings, kinds, pending) = (None, KindSet::default(), Rc::new(RefCell::new(pending)));
        Reader { narrowing, deliver, attached, states, kinds, before, rings, asleep: false, pending }
    }

    /// Runs until nobody is left to give commands. Returns the counts of all sources that were ever attached.
    pub fn run(mut self, commands: &Receiver<Command>) -> Vec<SourceCounts> {
        // It runs for a moment, as seldom as it can, and what it does not get to in time is lost.
        if let Err(error) = setpriority_process(None, NICE) {
            log::debug!("the thread that reads the rings has no priority: {error}");
        }
        let latency = self.narrowing.reading.latency;
        let mut idle_drains = 0;
        loop {
            // With nothing to read there is nothing to do but to wait for a command.
            let command = match self.rings {
                Some(_) => commands.try_recv(),
                None => commands.recv().map_err(|_| TryRecvError::Disconnected),
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
                    std::thread::sleep(latency);
                }
                Drained::Nothing if idle_drains < IDLE_DRAINS => {
                    idle_drains += 1;
                    std::thread::sleep(latency);
                }
                Drained::Nothing => self.fall_asleep(),
            }
        }
        self.detach(&SOURCES.iter().map(|source| source.name).collect::<Vec<_>>());
        self.cut(u64::MAX);
        self.before.into_values().collect()
    }

    /// What was counted of all sources so far.
    fn counted(&self) -> Vec<SourceCounts> {
        let mut all = self.before.clone();
        for (name, Attached { source, loaded, tally, .. }) in &self.attached {
            let (skipped, programs) = runs(loaded);
            let counts = SourceCounts { skipped, programs, ..counts(source, &loaded.object, tally) };
            all.entry(name).or_default().add(counts);
        }
        all.into_values().collect()
    }

    /// Exchanges and reads what is summed in the kernel, when it is time. Whether any was read.
    fn read_sums(&mut self) -> bool {
        let (now, mut any) = (Instant::now(), false);
        for attached in self.attached.values_mut() {
            let Some(sums) = attached.source.sums.as_ref().filter(|sums| self.kinds.has(sums.kind)) else { continue };
            if attached.settled.is_some_and(|at| now >= at) {
                attached.settled = None;
                any |= take_sums(&mut self.pending.borrow_mut(), attached, sums, 1 - attached.sums) > 0;
            } else if attached.settled.is_none() && now >= attached.next_sum {
                attached.sums = 1 - attached.sums;
                control(&attached.loaded.object, c::control_key::CONTROL_SUMS, attached.sums as u64);
                attached.settled = Some(now + SUM_SETTLES);
                attached.next_sum = (attached.next_sum + SUM_EVERY).max(now);
            }
        }
        any
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
            let Some(Attached { source, loaded, tally, .. }) = self.attached.get(name) else { continue };
            let counts = SourceCounts { skipped: runs(loaded).0, ..counts(source, &loaded.object, tally) };
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
        let Some(rings) = &self.rings else { return Drained::Nothing };
        let old_enough = clock::boot_ns().saturating_sub(REORDER_WINDOW_NS);
        // What waits is the oldest that there is: a ring without such a record was read to its end.
        let until = rings.oldest().map_or(old_enough, |oldest| old_enough.min(oldest + PASS_NS));
        rings.read(until);
        let waits = rings.oldest().is_some();
        let any = self.cut(until);
        match (until < old_enough, any || waits) {
            (true, _) => Drained::Behind,
            (false, true) => Drained::Some,
            (false, false) => Drained::Nothing,
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
        let summed = self.attached.values().filter(|attached| {
            let sums = attached.source.sums.as_ref();
            sums.is_some_and(|sums| self.kinds.has(sums.kind))
        });
        let next = summed.map(|attached| attached.settled.unwrap_or(attached.next_sum)).min();
        let wait = next.map_or(LONGEST_SLEEP, |next| next.saturating_duration_since(Instant::now()) + SLEEP_STEP);
        self.rings.as_ref().is_some_and(|rings| rings.sleep(wait.min(LONGEST_SLEEP)))
    }

    fn say_asleep(&mut self, asleep: bool) {
        self.asleep = asleep;
        for attached in self.attached.values() {
            control(&attached.loaded.object, c::control_key::CONTROL_READER_ASLEEP, u64::from(asleep));
        }
    }

    fn want(&mut self, wanted: &Wanted) -> Vec<SourceState> {
        let kinds = wanted.kinds;
        self.kinds = kinds;
        let unwanted: Vec<_> =
            SOURCES.iter().filter(|source| source.kinds().and(kinds).is_empty()).map(|source| source.name).collect();
        self.detach(&unwanted);
        for source in SOURCES.iter().filter(|source| !source.kinds().and(kinds).is_empty()) {
            if !self.attached.contains_key(source.name) {
                self.attach(source, kinds);
            }
            if let Some(attached) = self.attached.get_mut(source.name) {
                let bits = kinds.iter().filter_map(Kind::record_number).fold(0, |bits, number| bits | 1 << number);
                select_calls(&attached.loaded.object, source, wanted);
                if source.is_narrowed() {
                    narrow_to_plugins(&attached.loaded.object, source, wanted.whom.get(source.name));
                }
                control(&attached.loaded.object, c::control_key::CONTROL_WANTED, bits);
                if let Err(error) = attached.loaded.attach(source, kinds) {
                    log::error!("source {}: not all of its programs could be attached again: {error}", source.name);
                }
            }
        }
        self.open_rings();
        let state = |source: &&Source| self.states.get(source.name).cloned().unwrap_or(State::Off);
        SOURCES.iter().map(|source| SourceState { source: source.name, state: state(source) }).collect()
    }

    fn attach(&mut self, source: &'static Source, kinds: KindSet) {
        let (loaded, state) = load(source, kinds, &self.narrowing);
        self.states.insert(source.name, state);
        if let Some(loaded) = loaded {
            if source.is_narrowed()
                && let Some(containers) = &self.narrowing.containers
            {
                containers.join(source.name, &loaded.object);
            }
            let next_sum = Instant::now() + SUM_EVERY;
            let losses = Losses::new(clock::boot_ns());
            let attached = Attached { source, loaded, tally: Rc::default(), sums: 0, next_sum, settled: None, losses };
            self.attached.insert(source.name, attached);
        }
    }

    /// Detaches sources, once all that their programs have sent has been read.
    fn detach(&mut self, names: &[&'static str]) {
        for name in names {
            self.states.remove(name);
            if let Some(containers) = &self.narrowing.containers {
                containers.leave(name);
            }
            let Some(attached) = self.attached.get_mut(name) else { continue };
            attached.loaded.detach();
            let deadline = Instant::now() + LAST_RECORDS;
            loop {
                // Up to now, for another source's flood has no end.
                if let Some(rings) = &self.rings {
                    rings.read(clock::boot_ns());
                }
                let Attached { source, loaded, tally, .. } = &self.attached[name];
                let sent = counts(source, &loaded.object, tally).sent;
                if sent == tally.read() && Instant::now() > deadline - LAST_RECORDS + DETACH_STEP * 5 {
                    break;
                }
                if Instant::now() > deadline {
                    log::error!("source {name}: {sent} records were sent and {} came", tally.read());
                    break;
                }
                std::thread::sleep(DETACH_STEP);
            }
            let attached = &self.attached[name];
            if let Some(sums) = &attached.source.sums {
                take_sums(&mut self.pending.borrow_mut(), attached, sums, 1 - attached.sums);
                take_sums(&mut self.pending.borrow_mut(), attached, sums, attached.sums);
            }
            let counts = counts(attached.source, &attached.loaded.object, &attached.tally);
            let counts = SourceCounts {
                unread: counts.sent.saturating_sub(attached.tally.read()),
                skipped: runs(&attached.loaded).0,
                ..counts
            };
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
            self.open_rings();
        }
    }

    fn open_rings(&mut self) {
        // The old reader first: the new one finds its place in the rings' own memory.
        self.rings = None;
        self.say_asleep(false);
        // What can flood comes last, so that of all others as much as can be is read before.
        let mut attached: Vec<&Attached> = self.attached.values().collect();
        attached.sort_by_key(|attached| attached.source.floods);
        let rings = attached.iter().flat_map(|attached| {
            let (pending, tally) = (self.pending.clone(), attached.tally.clone());
            let taken: Take = Rc::new(move |bytes| take(&mut pending.borrow_mut(), &tally, bytes));
            attached.loaded.rings.iter().map(move |ring| (ring, taken.clone()))
        });
        if !attached.is_empty() {
            self.rings = Rings::open(rings).map_err(|error| log::error!("the rings cannot be read: {error}")).ok();
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

fn take(pending: &mut Pending, tally: &Tally, bytes: &[u8]) {
    match decode(bytes, &pending.clock, &mut pending.columns) {
        Ok(_) => bump(&tally.decoded),
        Err(_) => bump(&tally.undecodable),
    }
    if boot_time(bytes).is_some_and(|time| time < pending.delivered) {
        bump(&tally.late);
    }
}

/// Makes records of a map's sums, and empties it. How many.
fn take_sums(pending: &mut Pending, attached: &Attached, sums: &Sums, which: usize) -> usize {
    let Some(map) = map(&attached.loaded.object, sums.maps[which]) else { return 0 };
    let time = clock::boot_ns();
    let entries = match map.lookup_and_delete_batch(SUM_BATCH, MapFlags::ANY, MapFlags::ANY) {
        Ok(entries) => entries,
        Err(error) => {
            log::error!("source {}: its sums cannot be read: {error}", attached.source.name);
            return 0;
        }
    };
    let mut taken = 0;
    for (key, value) in entries {
        if let Some(record) = (sums.record)(&key, &value, time) {
            bump(&attached.tally.summed);
            take(pending, &attached.tally, &record);
            taken += 1;
        }
    }
    taken
}
