//! What has been read of the rings and has not been delivered yet.

use super::clock;
use super::losses::{Tally, bump};
use crate::event::clock::Clock;
use crate::event::decode::boot_time;
use crate::event::{Batch, Columns, decode};
use crate::wit::gaps::Gap;

/// Events of a kind for which there is room before they come: those of some milliseconds of a flood.
const MOST_RESERVED: usize = 8_192;

/// Events that wait for those before them.
pub struct Pending {
    columns: Columns,
    pub clock: Clock,
    /// Boot time up to which events have been delivered.
    delivered: u64,
}

impl Pending {
    pub fn new() -> Self {
        Pending { columns: Columns::default(), clock: clock::clock(), delivered: 0 }
    }

    /// Takes a record.
    pub fn take(&mut self, tally: &Tally, bytes: &[u8]) {
        match decode(bytes, &self.clock, &mut self.columns) {
            Ok(_) => bump(&tally.decoded),
            Err(_) => bump(&tally.undecodable),
        }
        if boot_time(bytes).is_some_and(|time| time < self.delivered) {
            bump(&tally.late);
        }
    }

    /// Takes gaps.
    pub fn tell(&mut self, gaps: Vec<Gap>) {
        self.columns.gap.extend(gaps);
    }

    /// What is older, to be delivered.
    pub fn cut(&mut self, until: u64) -> impl Iterator<Item = Batch> {
        let until_epoch = if until == u64::MAX { until } else { self.clock.time(until) };
        let batch = Batch::cut(&mut self.columns, until_epoch);
        // As many may come until the next cut: without room, all would be copied each time that there are twice as many.
        self.columns.reserve_like(&batch.columns, MOST_RESERVED);
        self.delivered = self.delivered.max(until);
        let clock = clock::clock();
        // Sums and gaps may wait with times of before. When the time of day has been set back it would take as long to reach those.
        let rest = (!clock.agrees(&self.clock)).then(|| Batch::cut(&mut self.columns, u64::MAX));
        self.clock = clock;
        [Some(batch), rest].into_iter().flatten().filter(|batch| !batch.is_empty())
    }
}
