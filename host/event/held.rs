//! How much memory batches take together, so that those who keep them know how much each may keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What batches take together.
#[derive(Debug)]
pub struct Memory {
    taken: AtomicU64,
    most: u64,
}

impl Memory {
    /// So much for all, in bytes.
    pub fn new(most: u64) -> Arc<Self> {
        Arc::new(Memory { taken: AtomicU64::new(0), most })
    }

    /// Counts what a batch takes, in bytes, for as long as somebody keeps it; so many may.
    pub fn hold(self: &Arc<Self>, bytes: usize, keepers: usize) -> Held {
        self.taken.fetch_add(bytes as u64, Ordering::Relaxed);
        Held(Some(Share { memory: self.clone(), bytes: bytes as u64, keepers }))
    }

    /// What all take now, in bytes.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// A batch's memory, where it is counted.
#[derive(Debug, Default)]
pub struct Held(Option<Share>);

#[derive(Debug)]
struct Share {
    memory: Arc<Memory>,
    bytes: u64,
    keepers: usize,
}

impl Held {
    /// How much each of those who keep batches may keep, in bytes: as much as it likes until all is taken, then an equal share.
    pub fn room(&self) -> u64 {
        match &self.0 {
            Some(Share { memory, keepers, .. }) if memory.taken() >= memory.most => {
                memory.most / (*keepers).max(1) as u64
            }
            _ => u64::MAX,
        }
    }

    /// The same for a copy of some of the batch.
    pub fn of_part(&self, bytes: usize) -> Held {
        self.0.as_ref().map(|share| share.memory.hold(bytes, share.keepers)).unwrap_or_default()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
