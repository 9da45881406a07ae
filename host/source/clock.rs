//! The machine's clocks.

use std::sync::{LazyLock, Mutex};

use rustix::time::{ClockId, clock_gettime};

use crate::event::clock::Clock;
use crate::event::now;

/// How far apart the moments may be at which the two clocks are read: far less than what a clock is taken to have been set by.
const MAX_APART_NS: u64 = 100_000;

/// How often they are read at first. The closest two count, for there is nothing else to go by.
const FIRST_READINGS: usize = 10;

/// The process's one clock: start times must be the same wherever they come from.
static CLOCK: LazyLock<Mutex<Clock>> = LazyLock::new(|| {
    let readings = (0..FIRST_READINGS).map(|_| Reading::take());
    let best = readings.min_by_key(|reading| reading.apart_ns).expect("there is one");
    Mutex::new(Clock::new(best.boot_ns, best.epoch_ns))
});

/// Both clocks at a moment. Between one and the other the thread may have lost its CPU.
struct Reading {
    boot_ns: u64,
    epoch_ns: u64,
    apart_ns: u64,
}

impl Reading {
    fn take() -> Self {
        let before = boot_ns();
        let epoch_ns = now();
        let apart_ns = boot_ns() - before;
        Reading { boot_ns: before + apart_ns / 2, epoch_ns, apart_ns }
    }
}

/// Nanoseconds since boot, sleep included.
pub fn boot_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The clock as it stands, having followed the time of day.
pub fn clock() -> Clock {
    let mut clock = CLOCK.lock().expect("no thread panics while it holds this");
    let reading = Reading::take();
    if reading.apart_ns <= MAX_APART_NS {
        clock.follow(reading.boot_ns, reading.epoch_ns);
    }
    clock.clone()
}
