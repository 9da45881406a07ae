//! The bounds within which a plugin runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wasmtime::{ResourceLimiter, Result};

use super::life::CallCounts;
use crate::compile::{CompileLimits, MAX_PLUGIN_BYTES};

/// Memory that a plugin may use, all its memories and tables together, unless its settings say otherwise.
pub const MEMORY_BYTES: u64 = 16 << 20;

/// How long a call may run unless the plugin's settings say otherwise. Healthy calls take microseconds.
pub const DEADLINE_MS: u64 = 50;

/// How long a call may take in all, sleeping and waiting for the host included, unless the plugin's settings say otherwise.
pub const WALL_MS: u64 = 2_000;

/// At least so many times its running time a call may take, so that on a busy machine one that runs is not taken for one that
/// sleeps.
pub const WALL_PER_DEADLINE: u64 = 4;

/// How long `life.start` and `life.stop` may run: language run times initialise there.
pub const START_DEADLINE_MS: u64 = 1_000;

/// How many events may wait for a plugin unless its settings say otherwise: a second of a flood of system calls, for which CPUs may
/// be busy with something else. Larger events meet the bound in bytes before.
pub const QUEUE_EVENTS: u64 = 1_048_576;

/// How much memory the events that wait for a plugin may take, whatever their number. Those that wait for others too are in memory
/// once.
pub const QUEUE_BYTES: u64 = 128 << 20;

/// The most events of one call. The largest records have about 20 KiB, so that a call's events fit in a plugin's memory.
pub const CALL_EVENTS: u32 = 256;

/// The most that a plugin may hand over to its next version: a quarter of a plugin's memory, which also has to hold it.
pub const STATE_BYTES: usize = 4 << 20;

/// What a plugin may hand to the host in one call, all strings and lists together, unless its settings say otherwise: twice the
/// largest state.
pub const CALL_BYTES: u64 = 8 << 20;

/// The handles (streams, pollables) that a plugin may hold at once unless its settings say otherwise; a language's run time
/// needs about ten.
pub const HANDLES: u64 = 256;

/// Core instances, memories and tables of one plugin, of each so many, unless its settings say otherwise: components of several
/// modules need a handful.
pub const PARTS: u64 = 64;

/// Lines, and bytes, that a plugin may write to the host's log in a second unless its settings say otherwise: a screenful, and
/// less than what a log on a slow disk takes.
pub const LOG_LINES_PER_SECOND: u64 = 100;
pub const LOG_BYTES_PER_SECOND: u64 = 64 << 10;

/// Alerts that a plugin may raise in a second unless its settings say otherwise: more than anybody can follow.
pub const ALERTS_PER_SECOND: u64 = 1_000;

/// What an alert's strings and lists may take unless the plugin's settings say otherwise: the longest command line with room for
/// more. Alerts wait in queues, so what they may take bounds memory.
pub const ALERT_BYTES: u64 = 64 << 10;

/// Metrics of its own, each combination of labels being one, that a plugin may have unless its settings say otherwise.
pub const METRICS: u64 = 1_000;

/// What names and labels of a plugin's own metrics may take, as often as they are served: those of a histogram come once for each
/// bound. A thousand metrics of the usual length; it bounds what a scrape of many plugins takes, whatever they do.
pub const METRIC_BYTES: usize = 128 << 10;

/// What a table's element costs the host.
const TABLE_ELEMENT_BYTES: usize = 8;

/// A plugin's limits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Running time of a call in milliseconds.
    pub deadline_ms: u64,
    /// Time of a call in milliseconds, sleeping and waiting included.
    pub wall_ms: u64,
    /// Events that may wait.
    pub queue_events: u64,
    /// Bytes that it may hand to the host in a call.
    pub call_bytes: u64,
    /// Handles that it may hold.
    pub handles: u64,
    /// Core instances, memories and tables, of each so many.
    pub parts: u64,
    /// Lines that it may log in a second.
    pub log_lines_per_second: u64,
    /// Bytes that it may log in a second.
    pub log_bytes_per_second: u64,
    /// Alerts that it may raise in a second.
    pub alerts_per_second: u64,
    /// Bytes of an alert.
    pub alert_bytes: u64,
    /// Metrics of its own that it may have.
    pub metrics: u64,
    /// Bytes of its file.
    pub component_bytes: u64,
    /// What compiling it may use.
    pub compile: CompileLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: MEMORY_BYTES,
            deadline_ms: DEADLINE_MS,
            wall_ms: WALL_MS,
            queue_events: QUEUE_EVENTS,
            call_bytes: CALL_BYTES,
            handles: HANDLES,
            parts: PARTS,
            log_lines_per_second: LOG_LINES_PER_SECOND,
            log_bytes_per_second: LOG_BYTES_PER_SECOND,
            alerts_per_second: ALERTS_PER_SECOND,
            alert_bytes: ALERT_BYTES,
            metrics: METRICS,
            component_bytes: MAX_PLUGIN_BYTES as u64,
            compile: CompileLimits::default(),
        }
    }
}

/// A limit as a size.
pub(super) fn bounded(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Sums all memories and tables of one instance.
pub(super) struct Limiter {
    limit: usize,
    parts: usize,
    used: usize,
    /// Where what is used is told.
    counts: Arc<CallCounts>,
    /// A growth was refused, which explains most traps that follow it.
    pub refused: Arc<AtomicBool>,
}

impl Limiter {
    pub fn new(limits: &Limits, counts: Arc<CallCounts>) -> Self {
        let (limit, parts) = (bounded(limits.memory_bytes), bounded(limits.parts));
        Limiter { limit, parts, used: 0, counts, refused: Arc::default() }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        let granted = used <= self.limit;
        if granted {
            // A difference: for a moment, the last instance may still be there beside this one.
            self.counts.memory_bytes.fetch_add((used - self.used) as u64, Ordering::Relaxed);
            self.used = used;
        } else {
            self.refused.store(true, Ordering::Relaxed);
        }
        granted
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.counts.memory_bytes.fetch_sub(self.used as u64, Ordering::Relaxed);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        Ok(self.grow(current * TABLE_ELEMENT_BYTES, desired.saturating_mul(TABLE_ELEMENT_BYTES)))
    }

    fn instances(&self) -> usize {
        self.parts
    }

    fn memories(&self) -> usize {
        self.parts
    }

    fn tables(&self) -> usize {
        self.parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_and_tables_together_stay_below_the_limit() {
        let mut limiter = Limiter::new(&Limits { memory_bytes: 1000, ..Default::default() }, Arc::default());
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        assert!(limiter.memory_growing(0, 400, None).unwrap(), "another memory");
        assert!(!limiter.memory_growing(400, 601, None).unwrap());
        assert!(limiter.refused.load(Ordering::Relaxed));
        assert!(limiter.table_growing(0, 20, None).unwrap(), "160 bytes");
        assert!(!limiter.table_growing(20, 26, None).unwrap());
        assert!(limiter.memory_growing(400, 440, None).unwrap(), "to the last byte");
        assert!(!limiter.table_growing(20, usize::MAX, None).unwrap());
    }
}
