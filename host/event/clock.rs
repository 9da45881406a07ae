//! From the kernel's clock, which counts from boot, to the time of day.

/// The time of day is followed when it has moved against the kernel's clock by more than this.
const STEP_NS: i64 = 1_000_000;

/// What is to be added to boot time.
#[derive(Clone, Debug)]
pub struct Clock {
    first: i64,
    current: i64,
}

impl Clock {
    /// A clock for which `boot_ns` since boot is `epoch_ns` since the Unix epoch.
    pub fn new(boot_ns: u64, epoch_ns: u64) -> Self {
        let offset = offset(boot_ns, epoch_ns);
        Clock { first: offset, current: offset }
    }

    /// Follows the time of day when it has been set or has drifted.
    pub fn follow(&mut self, boot_ns: u64, epoch_ns: u64) {
        let offset = offset(boot_ns, epoch_ns);
        if (offset - self.current).abs() > STEP_NS {
            self.current = offset;
        }
    }

    /// Whether times by the one are times by the other.
    pub fn agrees(&self, other: &Clock) -> bool {
        self.current == other.current
    }

    /// When an event at this boot time happened.
    pub fn time(&self, boot_ns: u64) -> u64 {
        boot_ns.saturating_add_signed(self.current)
    }

    /// When a process that started at this boot time started. The same for as long as the host runs, whatever happens
    /// to the time of day, for it is half of what identifies the process.
    pub fn start_time(&self, boot_ns: u64) -> u64 {
        boot_ns.saturating_add_signed(self.first)
    }
}

fn offset(boot_ns: u64, epoch_ns: u64) -> i64 {
    i64::try_from(i128::from(epoch_ns) - i128::from(boot_ns)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_follow_the_time_of_day_and_start_times_do_not() {
        let mut clock = Clock::new(1_000, 500_000_000);
        clock.follow(2_000, 500_500_000);
        assert_eq!((clock.time(1_000), clock.start_time(1_000)), (500_000_000, 500_000_000));
        clock.follow(2_000, 900_000_000);
        assert_eq!((clock.time(2_000), clock.start_time(1_000)), (900_000_000, 500_000_000));
    }
}
