//! The clock of epochs, by which deadlines of calls pass. It slows down while plugins' calls are short, and stands still while there
//! are none: its ticking would be a tenth of what a busy host costs, and most of an idle one.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, Thread, park_timeout, sleep};
use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

/// How often a running plugin is looked at: it yields to the others, and its deadline is counted in these slices.
const SLICE: Duration = Duration::from_millis(1);

/// While nothing runs when it is looked at, each next look comes twice as late, up to this: most calls are over long before. One that
/// begins then may run for so much longer, and no longer.
const LONGEST_SLICE: Duration = Duration::from_millis(8);

/// After so many of those the clock stands still. To set it going costs as much as some looks.
const IDLE_LOOKS: u32 = 5;

/// The longest that it stands still: then it looks whether the engine still is there.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// The clock, and the calls that run by it.
#[derive(Default)]
pub struct Epochs {
    running: AtomicUsize,
    rests: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Epochs {
    /// Starts the thread that counts an engine's epochs, which ends with the engine.
    pub fn start(engine: &Engine) -> io::Result<Arc<Epochs>> {
        let epochs = Arc::new(Epochs::default());
        let (clock, engine) = (epochs.clone(), engine.weak());
        // A thread of its own: a task among the plugins' could be starved by the very plugin it is to stop.
        let thread = Builder::new().name("epochs".into()).spawn(move || clock.tick(&engine))?;
        _ = epochs.thread.set(thread.thread().clone());
        Ok(epochs)
    }

    fn tick(&self, engine: &EngineWeak) {
        let mut idle_looks = 0;
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            idle_looks = if self.running.load(Ordering::SeqCst) > 0 { 0 } else { idle_looks + 1 };
            if idle_looks < IDLE_LOOKS {
                sleep((SLICE * (1 << idle_looks)).min(LONGEST_SLICE));
                continue;
            }
            self.rests.store(true, Ordering::SeqCst);
            // A call that began before it could know of the rest is seen here.
            if self.running.load(Ordering::SeqCst) == 0 {
                park_timeout(LONGEST_REST);
            }
            self.rests.store(false, Ordering::SeqCst);
        }
    }

    /// A call begins. It runs until what is returned is dropped.
    pub fn begin(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.rests.load(Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
        Running(self)
    }
}

/// A call that runs.
pub struct Running<'a>(&'a Epochs);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
