//! A plugin's life: `starting -> running -> (faulted -> backing off -> running)* -> quarantined | stopped`. It serves the
//! plugin's queue and its filter requests, and never lets a fault out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::bounds::Fault;
use super::instance::{Blueprint, Instance};
use super::limits::CALL_EVENTS;
use super::metrics::{CallTimes, Metrics};
use crate::dispatch::{Delivery, Fate, FilterRequest, Item, Queue, Where, times};
use crate::event::{Keep, Rows, runs_for};

/// The pause after a first fault; each further one doubles it.
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);

/// So many faults within `FAULT_WINDOW` and the plugin is set aside.
const MAX_FAULTS: usize = 5;

/// Faults older than this are forgiven.
const FAULT_WINDOW: Duration = Duration::from_secs(60);

/// How long the version before a new one is kept: a new version that fails meanwhile gives its place back. Long enough for
/// events of most sorts to have come, short enough for the operator who has put it there to be still looking.
const PROBATION: Duration = Duration::from_secs(10);

/// How often a plugin that waits for others to leave it room looks for that.
const ROOM_PAUSE: Duration = Duration::from_millis(500);

/// What a plugin should do after a fault, by its settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFault {
    /// Start a fresh instance after a pause.
    #[default]
    Restart,
    /// Set it aside at once.
    Stop,
}

/// What is counted of a plugin's calls.
#[derive(Default, Debug)]
pub struct CallCounts {
    /// Calls that returned.
    pub calls: AtomicU64,
    /// Calls that failed, each the end of an instance.
    pub faults: AtomicU64,
    /// Fresh instances after a fault.
    pub restarts: AtomicU64,
    /// Alerts raised.
    pub alerts: AtomicU64,
    /// Alerts beyond the allowance, which nobody saw.
    pub alerts_lost: Arc<AtomicU64>,
    /// Lines beyond the allowance, which are not in the log.
    pub log_lines_lost: Arc<AtomicU64>,
    /// Metrics of its own.
    pub metrics: Metrics,
    /// How long calls took, those that failed included.
    pub times: CallTimes,
    /// What its memories and tables take now.
    pub memory_bytes: AtomicU64,
    /// Events that it let pass as a filter.
    pub passed: AtomicU64,
    /// Events that it dropped as a filter.
    pub dropped: AtomicU64,
    /// Events that it was asked about as a filter while it had no answer.
    pub unanswered: Arc<AtomicU64>,
}

pub(super) struct Life {
    blueprint: Arc<Blueprint>,
    /// None once the plugin is set aside.
    instance: Option<Instance>,
    connections: Connections,
    faults: VecDeque<Instant>,
    /// What to go back to, for as long as the plugin is a new version.
    before: Option<(Handover, Instant)>,
    on_probation: bool,
}

/// How a plugin's life is connected with the rest.
pub(super) struct Connections {
    pub queue: Arc<Queue>,
    pub requests: mpsc::Receiver<FilterRequest>,
    pub counts: Arc<CallCounts>,
    pub state: Arc<Mutex<&'static str>>,
    /// A new version takes its place: it is to save its state.
    pub replaced: Arc<AtomicBool>,
    /// Where it says to which version it has gone back.
    pub version_before: Arc<Mutex<Option<Arc<Blueprint>>>>,
    pub rolled_back: Arc<Notify>,
}

/// What a version leaves to the one that takes its place.
pub(super) struct Handover {
    blueprint: Arc<Blueprint>,
    state: Option<Vec<u8>>,
}

impl Life {
    /// One on probation is a new version of a plugin, which gives its place back if it fails soon.
    pub fn new(blueprint: Arc<Blueprint>, instance: Instance, connections: Connections, on_probation: bool) -> Self {
        let (faults, before) = Default::default();
        Life { blueprint, instance: Some(instance), connections, faults, before, on_probation }
    }

    /// Serves the plugin until its queue is closed and empty. `after`, where there is one, is the end of the version
    /// that this one replaces: that one handles its last event first. What it leaves to the version that takes its place, if
    /// one does.
    pub async fn run(mut self, after: Option<oneshot::Receiver<Handover>>) -> Option<Handover> {
        if let Some(mut after) = after {
            let handover = loop {
                tokio::select! {
                    biased;
                    handover = &mut after => break handover.ok(),
                    // Without a filter there is nobody to ask, which is no reason to go on.
                    Some(request) = self.connections.requests.recv() => self.answer(request).await,
                }
            };
            self.take_over(handover).await;
        }
        self.say_state(if self.instance.is_some() { "running" } else { "quarantined" });
        loop {
            tokio::select! {
                biased;
                Some(request) = self.connections.requests.recv() => self.answer(request).await,
                item = self.connections.queue.pop() => match item {
                    Some(Item::Events(delivery)) => self.handle(delivery).await,
                    Some(Item::Tick { now }) => self.tick(now).await,
                    None => break,
                },
            }
        }
        let state = self.end().await;
        self.say_state("stopped");
        let replaced = self.connections.replaced.load(Ordering::Relaxed);
        replaced.then_some(Handover { blueprint: self.blueprint, state })
    }

    /// Ends the instance; what it leaves to the version that takes its place.
    async fn end(&mut self) -> Option<Vec<u8>> {
        let mut instance = self.instance.take()?;
        let mut state = None;
        if self.connections.replaced.load(Ordering::Relaxed) {
            match instance.save().await {
                Ok(saved) => state = saved,
                Err(fault) => {
                    self.connections.counts.faults.fetch_add(1, Ordering::Relaxed);
                    log::error!(
                        "plugin {}: its state is lost: {fault}. The new version begins anew",
                        self.blueprint.name
                    );
                    return None; // After a fault an instance is never called again.
                }
            }
        }
        if let Err(fault) = instance.stop().await {
            self.connections.counts.faults.fetch_add(1, Ordering::Relaxed);
            log::error!("plugin {}: its stop function failed: {fault}", self.blueprint.name);
        }
        state
    }

    /// Takes the place of the version before.
    async fn take_over(&mut self, handover: Option<Handover>) {
        let Some(handover) = handover else { return };
        let result = match (&mut self.instance, &handover.state) {
            (Some(instance), Some(state)) => instance.restore(state.clone()).await,
            _ => Ok(()),
        };
        if self.on_probation {
            self.before = Some((handover, Instant::now() + PROBATION));
        }
        if let Err(fault) = result {
            self.recover(fault).await;
        }
    }

    /// Goes back to the version before, where this one is so new that there is one. Whether that runs.
    async fn roll_back(&mut self, fault: &Fault) -> Result<(), Fault> {
        let Some((Handover { blueprint, state }, until)) = self.before.take() else { return Err(fault.clone()) };
        if Instant::now() > until {
            return Err(fault.clone());
        }
        self.connections.counts.faults.fetch_add(1, Ordering::Relaxed);
        log::error!(
            "plugin {}: its new version fails: {fault}. The version before is back{}; put a mended file in its place",
            blueprint.name,
            if state.is_some() { ", with the state that it had" } else { "" }
        );
        let counts = self.connections.counts.clone();
        self.blueprint = Arc::new(Blueprint { counts, ..(*blueprint).clone() });
        let mut instance = self.start_anew().await?;
        if let Some(state) = state {
            instance.restore(state).await?;
        }
        self.instance = Some(instance);
        *self.connections.version_before.lock().expect("no thread panics while it holds this") =
            Some(self.blueprint.clone());
        self.connections.rolled_back.notify_one();
        Ok(())
    }

    fn say_state(&self, state: &'static str) {
        *self.connections.state.lock().expect("no thread panics while it holds this") = state;
    }

    /// Handles a delivery to its end, across faults: what was not in the failed call goes to the next instance.
    async fn handle(&mut self, delivery: Delivery) {
        let runs = runs_for(&delivery.batch, &delivery.keep, self.connections.queue.wanted());
        for rows in runs.into_iter().flat_map(|rows| rows.pieces(CALL_EVENTS)) {
            let mut failed = self.handle_part(rows).await;
            // What was lost in a call that failed comes before the rest.
            while failed && let Some(gaps) = self.connections.queue.gaps() {
                for rows in runs_for(&gaps.batch, &gaps.keep, self.connections.queue.wanted()) {
                    failed = self.handle_part(rows).await;
                }
            }
            // The events behind a filter wait for it: they come before its own.
            while let Ok(request) = self.connections.requests.try_recv() {
                self.answer(request).await;
            }
        }
    }

    /// Has a part of a delivery handled, which is one call. Whether that failed.
    async fn handle_part(&mut self, rows: Rows) -> bool {
        let (kind, events, times) = (rows.kind, rows.len(), times(&rows));
        let result = match &mut self.instance {
            None => Ok(Fate::Lost(Where::Quarantine)),
            Some(instance) if !instance.handles(kind) => Ok(Fate::Filtered),
            Some(instance) => instance.handle(rows).await.map(|()| Fate::Delivered),
        };
        if let Ok(Fate::Delivered) = result {
            self.connections.counts.calls.fetch_add(1, Ordering::Relaxed);
        }
        let fate = *result.as_ref().unwrap_or(&Fate::Lost(Where::Fault));
        self.connections.queue.settle(kind, events, times, fate);
        match result {
            Ok(_) => false,
            Err(fault) => {
                self.recover(fault.losing(events, kind)).await;
                true
            }
        }
    }

    async fn tick(&mut self, now: u64) {
        let Some(instance) = &mut self.instance else { return };
        match instance.tick(now, Duration::from_millis(self.blueprint.settings.tick_ms)).await {
            Ok(()) => _ = self.connections.counts.calls.fetch_add(1, Ordering::Relaxed),
            Err(fault) => self.recover(fault).await,
        }
    }

    async fn answer(&mut self, request: FilterRequest) {
        let Some(instance) = &mut self.instance else { return self.give_no_answer(request) };
        let runs = runs_for(&request.delivery.batch, &request.delivery.keep, request.kinds);
        let counts = &self.connections.counts;
        match keep(instance, &request.delivery, runs, counts).await {
            Ok((keep, passed, dropped)) => match request.reply.send(Some(keep)) {
                Ok(()) => {
                    counts.passed.fetch_add(passed, Ordering::Relaxed);
                    counts.dropped.fetch_add(dropped, Ordering::Relaxed);
                }
                // Too late: the events have gone on without.
                Err(_) => _ = counts.unanswered.fetch_add(passed + dropped, Ordering::Relaxed),
            },
            Err(fault) => {
                self.give_no_answer(request);
                self.recover(fault).await;
            }
        }
    }

    fn give_no_answer(&self, request: FilterRequest) {
        let runs = runs_for(&request.delivery.batch, &request.delivery.keep, request.kinds);
        let events: usize = runs.iter().map(Rows::len).sum();
        self.connections.counts.unanswered.fetch_add(events as u64, Ordering::Relaxed);
        _ = request.reply.send(None);
    }

    /// After a fault: a fresh instance after a pause, or none when there have been too many.
    async fn recover(&mut self, mut fault: Fault) {
        self.instance = None;
        match self.roll_back(&fault).await {
            Ok(()) => return,
            Err(last) => fault = last,
        }
        while let Some(pause) = self.pause_after(&fault) {
            self.say_state("backing off");
            self.without_answers(sleep(pause)).await;
            match self.start_anew().await {
                Ok(instance) => {
                    self.instance = Some(instance);
                    self.connections.counts.restarts.fetch_add(1, Ordering::Relaxed);
                    return self.say_state("running");
                }
                // It ends before there was room.
                Err(last) if last.is_others() => break,
                Err(last) => fault = last,
            }
        }
        self.say_state("quarantined");
    }

    /// A fresh instance, as soon as there is room for one: that others have it all is none of its faults.
    async fn start_anew(&mut self) -> Result<Instance, Fault> {
        let mut is_told = false;
        loop {
            let fault = match self.blueprint.start().await.map_err(Fault::of) {
                Err(fault) if fault.is_others() && !self.connections.queue.is_closed() => fault,
                started => return started,
            };
            if !is_told {
                log::error!("plugin {}: {fault}. It waits until others leave it room", self.blueprint.name);
                is_told = true;
            }
            self.without_answers(sleep(ROOM_PAUSE)).await;
        }
    }

    fn pause_after(&mut self, fault: &Fault) -> Option<Duration> {
        self.connections.counts.faults.fetch_add(1, Ordering::Relaxed);
        let (name, now) = (&self.blueprint.name, Instant::now());
        self.faults.push_back(now);
        self.faults.retain(|at| now.duration_since(*at) < FAULT_WINDOW);
        if self.blueprint.settings.on_fault == OnFault::Stop || self.faults.len() >= MAX_FAULTS {
            log::error!(
                "plugin {name}: {fault}. Faults within {} s: {}. It is set aside and gets no more events; put a new \
                 file in its place, or start the host again, to bring it back",
                FAULT_WINDOW.as_secs(),
                self.faults.len()
            );
            return None;
        }
        let pause = FIRST_BACK_OFF * (1 << (self.faults.len() - 1));
        log::error!("plugin {name}: {fault}. A fresh instance starts in {} ms; the others go on", pause.as_millis());
        Some(pause)
    }

    /// Waits, and meanwhile has no answer for any filter request.
    async fn without_answers(&mut self, until: impl Future<Output = ()>) {
        tokio::pin!(until);
        loop {
            tokio::select! {
                biased;
                () = &mut until => return,
                Some(request) = self.connections.requests.recv() => self.give_no_answer(request),
            }
        }
    }
}

/// What a filter keeps of the runs, how many events that are, and how many it drops.
async fn keep(
    instance: &mut Instance,
    delivery: &Delivery,
    runs: Vec<Rows>,
    counts: &CallCounts,
) -> Result<(Keep, u64, u64), Fault> {
    let (mut keep, mut passed, mut dropped) = ((*delivery.keep).clone(), 0, 0);
    for rows in runs.into_iter().flat_map(|rows| rows.pieces(CALL_EVENTS)) {
        let answers = instance.keep(rows.clone()).await?;
        let kept = answers.iter().filter(|kept| **kept).count();
        passed += kept as u64;
        dropped += (answers.len() - kept) as u64;
        counts.calls.fetch_add(1, Ordering::Relaxed);
        keep.drop_rows(&rows, &answers);
    }
    Ok((keep, passed, dropped))
}
