//! The bounds within which a plugin runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wasmtime::{ResourceLimiter, Result};

/// Memory that a plugin may use, all its memories and tables together, unless its settings say otherwise.
pub const MEMORY_BYTES: u64 = 16 << 20;

/// How long a call may run unless the plugin's settings say otherwise. Healthy calls take microseconds.
pub const DEADLINE_MS: u64 = 50;

/// How long a call may take in all, sleeping and waiting for the host included.
pub const WALL_MS: u64 = 2_000;

/// How long `life.start` and `life.stop` may run: language run times initialise there.
pub const START_DEADLINE_MS: u64 = 1_000;

/// How many events may wait for a plugin unless its settings say otherwise: some seconds of a busy machine's processes.
pub const QUEUE_EVENTS: u64 = 65_536;

/// How much memory the events that wait for a plugin may take, whatever their number.
pub const QUEUE_BYTES: u64 = 64 << 20;

/// The most events of one call. The largest records have about 20 KiB, so that a call's events fit in a plugin's memory.
pub const CALL_EVENTS: u32 = 256;

/// The most that a plugin may hand over to its next version: a quarter of a plugin's memory, which also has to hold it.
pub const STATE_BYTES: usize = 4 << 20;

/// Core instances, memories and tables of one plugin: components of several modules need a handful.
const MAX_PARTS: usize = 64;

/// What a table's element costs the host.
const TABLE_ELEMENT_BYTES: usize = 8;

/// A plugin's limits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Running time of a call in milliseconds.
    pub deadline_ms: u64,
    /// Events that may wait.
    pub queue_events: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { memory_bytes: MEMORY_BYTES, deadline_ms: DEADLINE_MS, queue_events: QUEUE_EVENTS }
    }
}

/// Sums all memories and tables of one instance.
pub(super) struct Limiter {
    limit: usize,
    used: usize,
    /// A growth was refused, which explains most traps that follow it.
    pub refused: Arc<AtomicBool>,
}

impl Limiter {
    pub fn new(memory_bytes: u64) -> Self {
        Limiter { limit: usize::try_from(memory_bytes).unwrap_or(usize::MAX), used: 0, refused: Arc::default() }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        let granted = used <= self.limit;
        if granted {
            self.used = used;
        } else {
            self.refused.store(true, Ordering::Relaxed);
        }
        granted
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
        MAX_PARTS
    }

    fn memories(&self) -> usize {
        MAX_PARTS
    }

    fn tables(&self) -> usize {
        MAX_PARTS
    }
}
