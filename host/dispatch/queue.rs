//! What waits for one plugin: bounded by events and by memory, and counted to the last event. It knows nothing of what
//! the plugin does with it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Serialize, Serializer};
use tokio::sync::Notify;

use super::Only;
use super::gaps::{Ledger, Times, drop_unwanted, gap};
use crate::event::{Batch, CallSet, Keep, Kind, KindSet, Pick, Rows, runs_for};

/// Where a plugin's events can be lost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Where {
    /// Its queue was full.
    Queue,
    /// In a call that failed.
    Fault,
    /// It had failed too often and was set aside.
    Quarantine,
    /// The host stopped before the plugin got to them.
    Shutdown,
}

impl Where {
    /// All of them.
    pub const ALL: [Where; 4] = [Where::Queue, Where::Fault, Where::Quarantine, Where::Shutdown];

    /// Its name, in summaries and gaps.
    pub fn name(self) -> &'static str {
        match self {
            Where::Queue => "queue",
            Where::Fault => "fault",
            Where::Quarantine => "quarantine",
            Where::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Where {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A plugin that lags keeps no batch of which it gets less than one in so many bytes, but a copy of its part: the rest, which is
/// others', would stay in memory for as long as it takes.
const SMALL_PART: usize = 4;

/// A batch for one plugin, with what the filters before it kept.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The events.
    pub batch: Arc<Batch>,
    /// Which of them.
    pub keep: Arc<Keep>,
}

/// What became of events that a plugin was to handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It has handled them.
    Delivered,
    /// They were for another version of it, which handles kinds that this one does not.
    Filtered,
    /// They were lost.
    Lost(Where),
}

/// What a plugin finds in its queue, in time order.
#[derive(Debug)]
pub enum Item {
    /// Events.
    Events(Delivery),
    /// An interval has passed.
    Tick {
        /// Now, in nanoseconds since the epoch.
        now: u64,
    },
}

/// What became of a plugin's events of one kind: `seen = filtered + delivered + lost + waiting` at any moment.
#[derive(Clone, Default, Debug, PartialEq)]
pub struct KindCounts {
    /// Events of this kind that came while the plugin was in the line.
    pub seen: u64,
    /// Dropped by the filters before it.
    pub filtered: u64,
    /// Handled by it.
    pub delivered: u64,
    /// Waiting for it, or being handled.
    pub waiting: u64,
    /// Not handled, and where they were lost.
    pub lost: BTreeMap<Where, u64>,
}

/// A plugin's queue.
pub struct Queue {
    inner: Mutex<Inner>,
    ready: Notify,
    settled: Notify,
    wanted: KindSet,
    calls: Option<CallSet>,
    only: Only,
    max_events: u64,
    max_bytes: u64,
}

#[derive(Default)]
struct Inner {
    items: VecDeque<Item>,
    counts: BTreeMap<Kind, KindCounts>,
    events: u64,
    bytes: u64,
    tick_waits: bool,
    closed: bool,
    /// Gaps that come before what waits: events of calls that failed.
    ahead: Ledger,
    /// Gaps that come behind what waits: events for which there was no room.
    behind: Ledger,
}

impl Inner {
    /// Counts gaps as events that wait. Only now, for until then they may become fewer.
    fn admit_gaps(&mut self, gaps: Option<Delivery>) -> Option<Delivery> {
        let gaps = gaps?;
        let count = gaps.batch.len() as u64;
        let counts = self.counts.entry(Kind::Gap).or_default();
        counts.seen += count;
        counts.waiting += count;
        self.events += count;
        Some(gaps)
    }
}

impl Queue {
    /// A queue for events of the kinds wanted.
    pub fn new(wanted: KindSet, max_events: u64, max_bytes: u64) -> Self {
        let (inner, ready, settled, calls, only) = Default::default();
        Queue { inner, ready, settled, wanted, calls, only, max_events, max_bytes }
    }

    /// The same for these system calls alone; without any for all.
    #[must_use]
    pub fn of_calls(self, calls: Option<CallSet>) -> Self {
        Queue { calls, ..self }
    }

    /// The same for these processes, names, users and cgroups alone.
    #[must_use]
    pub fn narrowed_to(self, only: Only) -> Self {
        Queue { only, ..self }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread panics while it holds this")
    }

    /// The kinds that it takes.
    pub fn wanted(&self) -> KindSet {
        self.wanted
    }

    /// The system calls that it takes of the kinds that are about such; none for all.
    pub fn calls(&self) -> Option<&CallSet> {
        self.calls.as_ref()
    }

    /// What it is narrowed to.
    pub fn only(&self) -> &Only {
        &self.only
    }

    /// Counts events that are for the plugin and that the filters before it have dropped.
    pub(super) fn pass_over(&self, kind: Kind, events: u64) {
        let mut inner = self.lock();
        let counts = inner.counts.entry(kind).or_default();
        counts.seen += events;
        counts.filtered += events;
    }

    /// Adds a batch's events of the kinds wanted, or counts them as lost when there is no room.
    pub fn push(&self, mut delivery: Delivery) {
        if let Some(calls) = &self.calls {
            Arc::make_mut(&mut delivery.keep).select_calls(&delivery.batch, calls);
        }
        if self.tells_gaps() {
            drop_unwanted(&mut delivery, self.wanted);
        }
        let mut inner = self.lock();
        let batch = &delivery.batch;
        let kept: Vec<(Kind, u64, u64)> = self
            .wanted
            .iter()
            .map(|kind| (kind, batch.columns.count(kind) as u64, delivery.keep.count(batch, kind) as u64))
            .filter(|(_, seen, _)| *seen > 0)
            .collect();
        let events: u64 = kept.iter().map(|(_, _, kept)| kept).sum();
        let own: usize = kept.iter().map(|(kind, _, kept)| batch.memory_of(*kind, *kept as usize)).sum();
        let own = own + size_of::<Batch>();
        let copied = inner.events > 0 && own < batch.memory / SMALL_PART;
        let bytes = if copied { own } else { batch.memory } as u64;
        // A batch larger than the whole queue still fits into an empty one, or it could never be delivered.
        let max_bytes = self.max_bytes.min(batch.held.room());
        let fits = inner.events == 0 || (inner.events + events <= self.max_events && inner.bytes + bytes <= max_bytes);
        if !fits && self.tells_gaps() {
            self.note_lost(&mut inner, &delivery);
        }
        for (kind, seen, kept) in kept {
            let counts = inner.counts.entry(kind).or_default();
            counts.filtered += seen - kept;
            match fits {
                true => counts.waiting += kept,
                false if kind == Kind::Gap => {
                    counts.seen += seen - kept; // The others are seen when they are told.
                    continue;
                }
                false => *counts.lost.entry(Where::Queue).or_default() += kept,
            }
            counts.seen += seen;
        }
        if fits && events > 0 {
            let gaps = inner.behind.take();
            let gaps = inner.admit_gaps(gaps);
            inner.items.extend(gaps.map(Item::Events));
            inner.events += events;
            inner.bytes += bytes;
            if copied {
                delivery = Delivery { batch: Arc::new(batch.part(&delivery.keep, self.wanted)), keep: Arc::default() };
            }
            inner.items.push_back(Item::Events(delivery));
            drop(inner);
            self.ready.notify_one();
        }
    }

    /// Whether the plugin wants to know of gaps.
    fn tells_gaps(&self) -> bool {
        self.wanted.has(Kind::Gap)
    }

    /// Notes what there is no room for. Gaps among it are not lost themselves.
    fn note_lost(&self, inner: &mut Inner, delivery: &Delivery) {
        for rows in runs_for(&delivery.batch, &delivery.keep, self.wanted) {
            if rows.kind == Kind::Gap {
                rows.iter().for_each(|row| inner.behind.add(delivery.batch.columns.gap[row as usize].clone()));
            } else {
                inner.behind.add(gap(rows.kind, Where::Queue.name(), rows.len() as u64, times(&rows)));
            }
        }
    }

    /// Adds a tick, unless one already waits.
    pub fn tick(&self, now: u64) {
        let mut inner = self.lock();
        if !inner.tick_waits {
            inner.tick_waits = true;
            inner.items.push_back(Item::Tick { now });
            drop(inner);
            self.ready.notify_one();
        }
    }

    /// Says that nothing more will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_one();
    }

    /// Whether no more comes.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The next item, waited for; none once the queue is closed and empty. For one reader, which settles every event
    /// that it takes. Can be abandoned while it waits without losing anything.
    pub async fn pop(&self) -> Option<Item> {
        loop {
            {
                let mut inner = self.lock();
                let gaps = inner.ahead.take();
                if let Some(gaps) = inner.admit_gaps(gaps) {
                    return Some(Item::Events(gaps));
                }
                if let Some(item) = inner.items.pop_front() {
                    if matches!(item, Item::Tick { .. }) {
                        inner.tick_waits = false;
                    }
                    return Some(item);
                }
                let gaps = inner.behind.take();
                if let Some(gaps) = inner.admit_gaps(gaps) {
                    return Some(Item::Events(gaps));
                }
                if inner.closed {
                    return None;
                }
            }
            self.ready.notified().await;
        }
    }

    /// Says what became of events that were taken.
    pub fn settle(&self, kind: Kind, events: usize, times: Times, fate: Fate) {
        let mut inner = self.lock();
        // What was abandoned in the meantime has been counted.
        let waiting = inner.counts.entry(kind).or_default().waiting;
        let events = waiting.min(events as u64);
        let share = inner.bytes * events / inner.events.max(1);
        inner.events -= events;
        inner.bytes = if inner.events == 0 { 0 } else { inner.bytes - share };
        let counts = inner.counts.entry(kind).or_default();
        counts.waiting -= events;
        match fate {
            Fate::Delivered => counts.delivered += events,
            Fate::Filtered => counts.filtered += events,
            Fate::Lost(place) => {
                *counts.lost.entry(place).or_default() += events;
                if place == Where::Fault && kind != Kind::Gap && self.tells_gaps() {
                    inner.ahead.add(gap(kind, place.name(), events, times));
                }
            }
        }
        if inner.events == 0 {
            drop(inner);
            self.settled.notify_one();
        }
    }

    /// Gaps that come before the next event: to be asked for after a fault in the middle of a delivery.
    pub fn gaps(&self) -> Option<Delivery> {
        let mut inner = self.lock();
        let gaps = inner.ahead.take();
        inner.admit_gaps(gaps)
    }

    /// Whether every event so far has been settled.
    pub fn is_settled(&self) -> bool {
        self.lock().events == 0
    }

    /// Waits until every event so far has been settled. For one who waits.
    pub async fn settled(&self) {
        while !self.is_settled() {
            self.settled.notified().await;
        }
    }

    /// Empties the queue: what waits, or was taken and not settled, is lost.
    pub fn abandon(&self, place: Where) {
        let mut inner = self.lock();
        inner.items.clear();
        inner.ahead.clear();
        inner.behind.clear();
        (inner.events, inner.bytes, inner.tick_waits) = (0, 0, false);
        for counts in inner.counts.values_mut().filter(|counts| counts.waiting > 0) {
            let waiting = std::mem::take(&mut counts.waiting);
            *counts.lost.entry(place).or_default() += waiting;
        }
    }

    /// Whether nothing waits and nothing is being handled.
    pub fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.events == 0 && inner.items.is_empty() && inner.ahead.is_empty() && inner.behind.is_empty()
    }

    /// What became of the events so far, by kind.
    pub fn counts(&self) -> BTreeMap<Kind, KindCounts> {
        self.lock().counts.clone()
    }
}

/// When the first and the last of these events happened.
pub fn times(rows: &Rows) -> Times {
    let time = |row: Option<u32>| row.and_then(|row| rows.batch.columns.time(rows.kind, row as usize)).unwrap_or(0);
    match &rows.pick {
        Pick::Range(range) => (time(Some(range.start)), time(range.end.checked_sub(1))),
        Pick::Each(rows) => (time(rows.first().copied()), time(rows.last().copied())),
    }
}

#[cfg(test)]
mod tests;
