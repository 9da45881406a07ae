//! A plugin's life: `starting -> running -> (faulted -> backing off -> running)* -> quarantined | stopped`. It serves the
//! plugin's queue and its filter requests, and never lets a fault out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::instance::{Blueprint, Fault, Instance};
use super::limits::CALL_EVENTS;
use crate::dispatch::{Delivery, Fate, FilterRequest, Item, Queue, Where, times};
use crate::event::{Keep, Rows, runs_for};

/// The pause after a first fault; each further one doubles it.
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);

/// So many faults within `FAULT_WINDOW` and the plugin is set aside.
const MAX_FAULTS: usize = 5;

/// Faults older than this are forgiven.
const FAULT_WINDOW: Duration = Duration::from_secs(60);

/// What a plugin should do after a fault, by its settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
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
    /// Alerts raised.
    pub alerts: Arc<AtomicU64>,
    /// Events that it let pass as a filter.
    pub passed: AtomicU64,
    /// Events that it dropped as a filter.
    pub dropped: AtomicU64,
    /// Events that it was asked about as a filter while it had no answer.
    pub unanswered: AtomicU64,
}

pub(super) struct Life {
    blueprint: Blueprint,
    /// None once the plugin is set aside.
    instance: Option<Instance>,
    queue: Arc<Queue>,
    requests: mpsc::Receiver<FilterRequest>,
    interval: Duration,
    on_fault: OnFault,
    counts: Arc<CallCounts>,
    state: Arc<Mutex<&'static str>>,
    faults: VecDeque<Instant>,
}

/// How a plugin's life is connected with the rest.
pub(super) struct Connections {
    pub queue: Arc<Queue>,
    pub requests: mpsc::Receiver<FilterRequest>,
    pub counts: Arc<CallCounts>,
    pub state: Arc<Mutex<&'static str>>,
}

impl Life {
    pub fn new(
        blueprint: Blueprint,
        instance: Instance,
        connections: Connections,
        interval: Duration,
        on_fault: OnFault,
    ) -> Self {
        let Connections { queue, requests, counts, state } = connections;
        let (instance, faults) = (Some(instance), VecDeque::new());
        Life { blueprint, instance, queue, requests, interval, on_fault, counts, state, faults }
    }

    /// Serves the plugin until its queue is closed and empty. `after`, where there is one, is the end of the version
    /// that this one replaces: that one handles its last event first.
    pub async fn run(mut self, after: Option<oneshot::Receiver<()>>) {
        if let Some(mut after) = after {
            loop {
                tokio::select! {
                    biased;
                    _ = &mut after => break,
                    // Without a filter there is nobody to ask, which is no reason to go on.
                    Some(request) = self.requests.recv() => self.answer(request).await,
                }
            }
        }
        self.say_state("running");
        loop {
            tokio::select! {
                biased;
                Some(request) = self.requests.recv() => self.answer(request).await,
                item = self.queue.pop() => match item {
                    Some(Item::Events(delivery)) => self.handle(delivery).await,
                    Some(Item::Tick { now }) => self.tick(now).await,
                    None => break,
                },
            }
        }
        if let Some(instance) = self.instance.take()
            && let Err(fault) = instance.stop().await
        {
            self.counts.faults.fetch_add(1, Ordering::Relaxed);
            log::error!("plugin {}: its stop function failed: {fault}", self.blueprint.name);
        }
        self.say_state("stopped");
    }

    fn say_state(&self, state: &'static str) {
        *self.state.lock().expect("no thread panics while it holds this") = state;
    }

    /// Handles a delivery to its end, across faults: what was not in the failed call goes to the next instance.
    async fn handle(&mut self, delivery: Delivery) {
        let runs = runs_for(&delivery.batch, &delivery.keep, self.queue.wanted());
        for rows in runs.into_iter().flat_map(|rows| rows.pieces(CALL_EVENTS)) {
            self.handle_part(rows).await;
            // What was lost in a call that failed comes before the rest.
            while let Some(gaps) = self.queue.gaps() {
                for rows in runs_for(&gaps.batch, &gaps.keep, self.queue.wanted()) {
                    self.handle_part(rows).await;
                }
            }
            // The events behind a filter wait for it: they come before its own.
            while let Ok(request) = self.requests.try_recv() {
                self.answer(request).await;
            }
        }
    }

    /// Has a part of a delivery handled, which is one call.
    async fn handle_part(&mut self, rows: Rows) {
        let (kind, events, times) = (rows.kind, rows.len(), times(&rows));
        let Some(instance) = &mut self.instance else {
            return self.queue.settle(kind, events, times, Fate::Lost(Where::Quarantine));
        };
        match instance.handle(rows).await {
            Ok(()) => {
                self.counts.calls.fetch_add(1, Ordering::Relaxed);
                self.queue.settle(kind, events, times, Fate::Delivered);
            }
            Err(fault) => {
                self.queue.settle(kind, events, times, Fate::Lost(Where::Fault));
                self.recover(fault.losing(events, kind)).await;
            }
        }
    }

    async fn tick(&mut self, now: u64) {
        let Some(instance) = &mut self.instance else { return };
        match instance.tick(now, self.interval).await {
            Ok(()) => _ = self.counts.calls.fetch_add(1, Ordering::Relaxed),
            Err(fault) => self.recover(fault).await,
        }
    }

    async fn answer(&mut self, request: FilterRequest) {
        let Some(instance) = &mut self.instance else { return self.give_no_answer(request) };
        let runs = runs_for(&request.delivery.batch, &request.delivery.keep, request.kinds);
        match keep(instance, &request.delivery, runs, &self.counts).await {
            Ok(keep) => _ = request.reply.send(Some(keep)),
            Err(fault) => {
                self.give_no_answer(request);
                self.recover(fault).await;
            }
        }
    }

    fn give_no_answer(&self, request: FilterRequest) {
        let runs = runs_for(&request.delivery.batch, &request.delivery.keep, request.kinds);
        let events: usize = runs.iter().map(Rows::len).sum();
        self.counts.unanswered.fetch_add(events as u64, Ordering::Relaxed);
        _ = request.reply.send(None);
    }

    /// After a fault: a fresh instance after a pause, or none when there have been too many.
    async fn recover(&mut self, mut fault: Fault) {
        self.instance = None;
        while let Some(pause) = self.pause_after(&fault) {
            self.say_state("backing off");
            self.without_answers(sleep(pause)).await;
            match self.blueprint.start().await {
                Ok(instance) => {
                    self.instance = Some(instance);
                    return self.say_state("running");
                }
                Err(error) => fault = Fault::new(format!("{error:#}")),
            }
        }
        self.say_state("quarantined");
    }

    fn pause_after(&mut self, fault: &Fault) -> Option<Duration> {
        self.counts.faults.fetch_add(1, Ordering::Relaxed);
        let (name, now) = (&self.blueprint.name, Instant::now());
        self.faults.push_back(now);
        self.faults.retain(|at| now.duration_since(*at) < FAULT_WINDOW);
        if self.on_fault == OnFault::Stop || self.faults.len() >= MAX_FAULTS {
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
                Some(request) = self.requests.recv() => self.give_no_answer(request),
            }
        }
    }
}

/// What a filter keeps of the runs.
async fn keep(
    instance: &mut Instance,
    delivery: &Delivery,
    runs: Vec<Rows>,
    counts: &CallCounts,
) -> Result<Keep, Fault> {
    let mut keep = (*delivery.keep).clone();
    for rows in runs.into_iter().flat_map(|rows| rows.pieces(CALL_EVENTS)) {
        let answers = instance.keep(rows.clone()).await?;
        let dropped = answers.iter().filter(|kept| !**kept).count();
        counts.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
        counts.passed.fetch_add((answers.len() - dropped) as u64, Ordering::Relaxed);
        counts.calls.fetch_add(1, Ordering::Relaxed);
        keep.drop_rows(&rows, &answers);
    }
    Ok(keep)
}
