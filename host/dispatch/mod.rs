//! From a batch to the plugins' queues: the line of plugins, their filters, what is known of processes and containers, and
//! the counts. It knows nothing of libbpf or of how a plugin runs.

mod containers;
mod filter;
mod gaps;
mod inbox;
mod narrow;
mod processes;
mod queue;
mod route;
mod share;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

pub use containers::{Containers, SHORT_ID, Tree, Watch};
pub use filter::{Filter, FilterRequest};
pub use gaps::Times;
pub use inbox::{AlertInbox, INBOX};
pub use narrow::{CGROUP_KINDS, First, Only};
pub use processes::{Fallback, Processes};
pub use queue::{Delivery, Fate, Item, KindCounts, Queue, Where, times};

use crate::event::{Batch, Keep, Kind, KindSet, Memory, Picked};
use route::Router;
use share::Offered;

/// Batches that may wait between the thread that polls the kernel and the dispatcher. When they do, the thread waits
/// and the kernel's rings, whose losses are counted, take the rest.
const MAX_BATCHES: usize = 16;

/// How much memory the events that wait may take together, where plugins lag: events for several are there once. When it is taken,
/// whoever keeps more than an equal share gets no more.
const WAITING_BYTES: u64 = 256 << 20;

/// How long plugins may take to handle what is left when the host stops.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// How long all others wait for a plugin that tells of containers, so that they know the container of its very first event.
/// It may ask an engine meanwhile, which answers within some milliseconds or is in trouble. Then events go on without.
const REGISTRY_TIME: Duration = Duration::from_millis(500);

/// How far an event's time may be ahead of the clock, which is followed by steps of a millisecond.
const MAX_AHEAD_NS: u64 = 1_000_000_000;

const LOCK: &str = "no thread panics while it holds this";

/// A plugin's place in the line.
pub struct Member {
    /// The plugin's name.
    pub name: Arc<str>,
    /// The line is sorted by this.
    pub place: Place,
    /// What waits for it.
    pub queue: Arc<Queue>,
    /// What it filters.
    pub filter: Option<Filter>,
    /// How often it wants a tick.
    pub tick: Option<Duration>,
    /// It tells of containers: it stands before all others, who wait until it has handled what is told of cgroups.
    pub registers: bool,
}

impl Member {
    /// The line is sorted by this, which no two share. First those who tell of containers.
    fn standing(&self) -> (bool, &Place) {
        (!self.registers, &self.place)
    }
}

/// What is kept of a member, by its name.
struct Known {
    registers: bool,
    place: Place,
    next_tick: Option<Instant>,
}

impl Known {
    fn standing(&self) -> (bool, &Place) {
        (!self.registers, &self.place)
    }
}

/// Where a plugin stands in the line: by its settings' `order`, then as named on the command line, then by file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// `order` in its settings; 0 without.
    pub order: i64,
    /// Its number on the command line; the largest for a plugin of a directory.
    pub argument: usize,
    /// Its file name.
    pub name: String,
}

/// What the dispatcher is told.
pub enum Message {
    /// Events from the kernel.
    Batch(Box<Batch>),
    /// A plugin joins the line. One with the same name leaves between the same two batches.
    Join(Box<Member>),
    /// A plugin leaves the line. Its queue is closed.
    Leave(Arc<str>),
    /// Nothing more will come: let the plugins finish, then close their queues.
    Stop,
}

/// Counts of one kind over all plugins. `seen = filtered + delivered`.
#[derive(Clone, Copy, Default, Debug)]
pub struct DispatchCounts {
    /// Events that some plugin was offered.
    pub delivered: u64,
    /// Events that no plugin wanted, or that filters dropped for all that did.
    pub filtered: u64,
}

/// What a dispatcher has counted so far, for others to look at.
pub type Dispatched = Arc<Mutex<BTreeMap<Kind, DispatchCounts>>>;

/// Hands batches to plugins. One task, so that a change of the line falls between two batches.
pub struct Dispatcher {
    line: Vec<Member>,
    /// Who of the line gets which events; none since it has changed.
    router: Option<Router>,
    known: HashMap<Arc<str>, Known>,
    next_ticks: BTreeSet<(Instant, Arc<str>)>,
    messages: mpsc::Receiver<Message>,
    inbox: inbox::AlertReceiver,
    processes: Arc<Processes>,
    containers: Arc<Containers>,
    only: Only,
    memory: Arc<Memory>,
    counts: Dispatched,
    latest: u64,
    /// Batches that went on before their containers were known.
    went_on: u64,
    /// Plugins that were too slow to tell of containers, and have not caught up yet.
    late: BTreeSet<Arc<str>>,
}

impl Dispatcher {
    /// A dispatcher, where to send it messages, and where plugins put their alerts.
    pub fn new(
        processes: Arc<Processes>,
        containers: Arc<Containers>,
        only: Only,
    ) -> (Self, mpsc::Sender<Message>, AlertInbox) {
        let (sender, messages) = mpsc::channel(MAX_BATCHES);
        let (alerts, inbox) = inbox::alert_inbox();
        let (line, router, known, next_ticks, counts, latest, went_on, late) = Default::default();
        let dispatcher = Dispatcher {
            line,
            router,
            known,
            next_ticks,
            messages,
            inbox,
            processes,
            containers,
            only,
            memory: Memory::new(WAITING_BYTES),
            counts,
            latest,
            went_on,
            late,
        };
        (dispatcher, sender, alerts)
    }

    /// What it counts.
    pub fn counts(&self) -> Dispatched {
        self.counts.clone()
    }

    /// Runs until it is told to stop; then says what it has counted.
    pub async fn run(mut self) -> BTreeMap<Kind, DispatchCounts> {
        loop {
            let next_tick = self.next_ticks.first().map(|(at, _)| *at);
            tokio::select! {
                biased;
                message = self.messages.recv() => match message {
                    Some(Message::Batch(batch)) => self.dispatch(*batch).await,
                    Some(Message::Join(member)) => self.join(*member),
                    Some(Message::Leave(name)) => self.leave(&name),
                    Some(Message::Stop) | None => break,
                },
                batch = self.inbox.receive() => self.dispatch(batch).await,
                () = sleep_until(next_tick.unwrap_or_else(Instant::now)), if next_tick.is_some() => self.tick(Instant::now()),
            }
        }
        self.drain().await;
        self.line.iter().for_each(|member| member.queue.close());
        if self.went_on > 1 {
            log::warn!("{} batches of events went on before their containers were known", self.went_on);
        }
        self.counts.lock().expect(LOCK).clone()
    }

    fn join(&mut self, member: Member) {
        self.leave(&member.name);
        // The first tick of one that tells of containers comes at once: what it read of them when it started is older than the
        // events that it gets from now on.
        let next_tick = member.tick.map(|tick| Instant::now() + if member.registers { Duration::ZERO } else { tick });
        self.next_ticks.extend(next_tick.map(|at| (at, member.name.clone())));
        let known = Known { registers: member.registers, place: member.place.clone(), next_tick };
        self.known.insert(member.name.clone(), known);
        self.line.insert(self.at(member.standing()), member);
        self.router = None;
    }

    fn leave(&mut self, name: &str) {
        self.late.remove(name);
        let Some((name, known)) = self.known.remove_entry(name) else { return };
        let at = self.at(known.standing());
        known.next_tick.map(|at| self.next_ticks.remove(&(at, name)));
        self.line.remove(at).queue.close();
        self.router = None;
    }

    /// The place in the line of a member's standing.
    fn at(&self, standing: (bool, &Place)) -> usize {
        self.line.partition_point(|other| other.standing() < standing)
    }

    async fn dispatch(&mut self, mut batch: Batch) {
        self.processes.apply(&batch);
        self.containers.apply(&batch);
        if let Some(last) = batch.last_time() {
            self.latest = last;
        }
        batch.held = self.memory.hold(batch.memory, self.line.len());
        let batch = Arc::new(batch);
        let present: KindSet = batch.runs.iter().map(|run| run.kind).collect();
        let mut keep = Arc::new(Keep::default());
        let router = self.router.get_or_insert_with(|| Router::new(&self.line));
        let shares = router.route(&batch, &self.containers);
        let mut offered = Offered::default();
        let mut narrowed = false;
        // Whoever is narrowed and gets nothing of the batch costs nothing.
        let mut places: Vec<usize> = router.whole().iter().chain(shares.keys()).copied().collect();
        places.sort_unstable();
        for at in places {
            let Some((member, behind)) = self.line[at..].split_first_mut() else { break };
            let share = shares.get(&at);
            // Those who tell of containers come first and need to see all cgroups.
            if !member.registers && !std::mem::replace(&mut narrowed, true) {
                self.containers.judge(&batch);
                keep = self.only.narrow(&batch, keep, &self.containers);
            }
            if member.queue.is_settled() {
                self.late.remove(&member.name);
            }
            let wanted = member.queue.wanted().and(present);
            match share {
                Some(picked) => {
                    offered.share(&batch, &keep, wanted, picked);
                    share::push(&member.queue, &batch, &keep, picked);
                }
                None => {
                    offered.whole(&batch, &keep, wanted);
                    member.queue.push(Delivery { batch: batch.clone(), keep: keep.clone() });
                }
            }
            // One that was too slow is not waited for again until it has caught up.
            let tells = member.registers && !CGROUP_KINDS.and(present).is_empty();
            if tells
                && !self.late.contains(&member.name)
                && timeout(REGISTRY_TIME, member.queue.settled()).await.is_err()
            {
                self.late.insert(member.name.clone());
                self.went_on += 1;
                if self.went_on == 1 {
                    warn_of_late(&member.name);
                }
            }
            if let Some(filter) = &mut member.filter {
                let wanted = behind.iter().fold(KindSet::default(), |all, other| all.or(other.queue.wanted()));
                let asked = filter.kinds().and(present).and(wanted);
                if !asked.is_empty() {
                    let delivery = Delivery { batch: batch.clone(), keep };
                    keep = ask_about(filter, &member.name, delivery, asked, share).await;
                }
            }
        }
        if !narrowed {
            self.containers.judge(&batch);
        }
        let mut all = self.counts.lock().expect(LOCK);
        for kind in present.iter() {
            let counts = all.entry(kind).or_default();
            let delivered = offered.count(kind);
            counts.delivered += delivered;
            counts.filtered += batch.columns.count(kind) as u64 - delivered;
        }
    }

    fn tick(&mut self, now: Instant) {
        while let Some((due, name)) = self.next_ticks.first().cloned()
            && due <= now
        {
            self.next_ticks.pop_first();
            let member = &self.line[self.at(self.known[&name].standing())];
            member.queue.tick(self.tick_time());
            let next = member.tick.map(|every| (due + every).max(now));
            self.next_ticks.extend(next.map(|at| (at, name.clone())));
            self.known.entry(name).and_modify(|known| known.next_tick = next);
        }
    }

    /// Now; or when the last event happened where that is a moment later, for what a plugin gets is in time order. Not much later: the time
    /// of day may have been set back.
    fn tick_time(&self) -> u64 {
        let now = crate::event::now();
        if self.latest.saturating_sub(now) < MAX_AHEAD_NS { self.latest.max(now) } else { now }
    }

    /// Lets the plugins handle what is in their queues, and the alerts that come of it.
    async fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN_TIME;
        loop {
            // Idle first, then the inbox: an alert is put there before the events that caused it are settled.
            let idle = self.line.iter().all(|member| member.queue.is_idle());
            match self.inbox.try_receive() {
                Some(batch) => self.dispatch(batch).await,
                None if idle || Instant::now() > deadline => break,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        for member in self.line.iter().filter(|member| !member.queue.is_idle()) {
            log::error!(
                "plugin {} did not handle its last events within {} s; they are counted as lost",
                member.name,
                DRAIN_TIME.as_secs()
            );
            member.queue.abandon(Where::Shutdown);
        }
    }
}

fn warn_of_late(plugin: &str) {
    log::warn!(
        "plugin {plugin} did not tell within {} ms which container a new cgroup belongs to: the engine that it asks may hang. \
         Events go on, and may lack their container",
        REGISTRY_TIME.as_millis()
    );
}

/// Asks about what is the filter's share of a batch; the rest passes.
async fn ask_about(
    filter: &mut Filter,
    plugin: &str,
    delivery: Delivery,
    kinds: KindSet,
    share: Option<&Picked>,
) -> Arc<Keep> {
    let Some(picked) = share else { return filter.ask(plugin, delivery, kinds).await };
    let Delivery { batch, keep } = delivery;
    let within = Arc::new(keep.within(&batch, kinds, picked));
    let answer = filter.ask(plugin, Delivery { batch: batch.clone(), keep: within }, kinds).await;
    let mut keep = (*keep).clone();
    keep.drop_picked(&batch, kinds, picked, &answer);
    Arc::new(keep)
}

#[cfg(test)]
mod tests;
