//! What bounds a call into an instance: its deadline, its time in all, and what is told when it fails.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap};

use super::epochs::Epochs;
use super::life::CallCounts;
use super::limits::{START_DEADLINE_MS, WALL_PER_DEADLINE};
use super::services::State;
use crate::event::Kind;
use crate::output::Output;

/// Why an instance has ended. It is never called again.
#[derive(Clone, Debug)]
pub struct Fault {
    what: String,
    /// Whether it is not the plugin's own: others have what it needs.
    is_others: bool,
}

impl Fault {
    pub(super) fn new(what: String) -> Self {
        Fault { what, is_others: false }
    }

    /// The same, with what it costs.
    pub(super) fn losing(self, events: usize, kind: Kind) -> Self {
        Fault { what: format!("{}; {events} {kind} events of that call are lost to it", self.what), ..self }
    }

    /// An error's, with all that led to it.
    pub(super) fn of(error: anyhow::Error) -> Self {
        let is_others = error.downcast_ref().is_some_and(Fault::is_others);
        Fault { what: format!("{error:#}"), is_others }
    }

    /// Whether it is that others have what the plugin needs.
    pub(super) fn is_others(&self) -> bool {
        self.is_others
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// A call that goes on.
pub(super) type CallFuture<'a, T> = Pin<Box<dyn Future<Output = wasmtime::Result<T>> + Send + 'a>>;

/// What calls are bounded by, and where they are counted.
pub(super) struct Bounds {
    pub deadline_ms: u64,
    pub wall_ms: u64,
    pub epochs: Arc<Epochs>,
    pub counts: Arc<CallCounts>,
    /// Knows whether it waits for standard output.
    pub output: Output,
    /// The limiter's.
    pub refused: Arc<AtomicBool>,
}

/// Tells how long a call took when it is over, however that comes.
struct Timed<'a> {
    since: Instant,
    counts: &'a CallCounts,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.counts.times.observe(self.since.elapsed());
    }
}

impl Bounds {
    /// A call by which the instance starts or ends, which may take longer than others.
    pub async fn starting<'s, T, F>(&self, store: &'s mut Store<State>, call: F) -> Result<T, Fault>
    where
        F: FnOnce(&'s mut Store<State>) -> CallFuture<'s, T>,
    {
        self.bounded(store, START_DEADLINE_MS, call).await
    }

    /// Any other call.
    pub async fn call<'s, T, F>(&self, store: &'s mut Store<State>, call: F) -> Result<T, Fault>
    where
        F: FnOnce(&'s mut Store<State>) -> CallFuture<'s, T>,
    {
        self.bounded(store, self.deadline_ms, call).await
    }

    /// Calls into the instance: so much time to run, and some more to sleep or wait for the host, but time in which
    /// standard output takes nothing does not count, for that is not the plugin's doing.
    async fn bounded<'s, T, F>(&self, store: &'s mut Store<State>, deadline_ms: u64, call: F) -> Result<T, Fault>
    where
        F: FnOnce(&'s mut Store<State>) -> CallFuture<'s, T>,
    {
        // A deadline of n slices is over at the n-th tick after this one, so that it runs for at least that long.
        store.data_mut().slices_left = deadline_ms + 1;
        store.set_epoch_deadline(1);
        let _running = self.epochs.begin();
        // One reading of the clock for two purposes: it costs a tenth of a call with nothing in it.
        let since = Instant::now();
        let _timed = Timed { since, counts: &self.counts };
        let mut call = call(store);
        let returned = |result: wasmtime::Result<T>| {
            result.map_err(|error| explain(&error, deadline_ms, self.refused.load(Ordering::Relaxed)))
        };
        // Most calls return at once, and a timer costs as much as such a call.
        if let Poll::Ready(result) = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
            return returned(result);
        }
        let wall_ms = self.wall_ms.max(deadline_ms * WALL_PER_DEADLINE);
        // The time that it may run comes on top: on a busy machine it passes more slowly, and is the better reason.
        let longest = Duration::from_millis(wall_ms + deadline_ms);
        let mut until = since + longest;
        loop {
            match timeout_at(until, &mut call).await {
                Ok(result) => return returned(result),
                Err(_) if self.output.is_waiting() => until = Instant::now() + longest,
                Err(_) => {
                    return Err(Fault::new(format!(
                        "it did not return within {wall_ms} ms, sleeping or waiting (limits.wall_ms)"
                    )));
                }
            }
        }
    }
}

/// What the engine's error says, which has no type of its own, of a call that hands over too much.
const FUEL: &str = "hostcalls has been exhausted";

/// The same of one that has too many instances, memories or tables.
const PARTS: &str = "resource limit exceeded";

/// What a person needs to know of a trap.
fn explain(error: &wasmtime::Error, deadline_ms: u64, memory_refused: bool) -> Fault {
    let is_others = error.root_cause().is::<PoolConcurrencyLimitError>();
    let what = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => format!("it ran for more than {deadline_ms} ms in one call (limits.deadline_ms)"),
        Some(Trap::StackOverflow) => "its stack overflowed: endless recursion?".to_owned(),
        Some(trap) => format!("it trapped: {trap}"),
        None if error.root_cause().to_string().contains(FUEL) => {
            "it handed the host too much in one call (limits.call_bytes)".to_owned()
        }
        None if matches!(error.root_cause().downcast_ref(), Some(ResourceTableError::Full)) => {
            "it holds too many handles (limits.handles)".to_owned()
        }
        None if error.root_cause().to_string().starts_with(PARTS) => {
            format!("it has too many parts (limits.parts): {}", error.root_cause())
        }
        None if is_others => {
            format!(
                "all plugins together have too many parts ({}): run fewer plugins, or ones of fewer parts",
                error.root_cause()
            )
        }
        // What is above the cause tells where in the component it was.
        None => error.root_cause().to_string().lines().next().unwrap_or_default().to_owned(),
    };
    let what = match memory_refused {
        true => format!("{what}; before that it was refused more memory than limits.memory_bytes allows"),
        false => what,
    };
    Fault { what, is_others }
}
