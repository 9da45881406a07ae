//! The machine's clocks.

use std::sync::{LazyLock, Mutex};

use rustix::time::{ClockId, clock_gettime};

use crate::event::clock::Clock;
use crate::event::now;

/// The process's one clock: start times must be the same wherever they come from.
static CLOCK: LazyLock<Mutex<Clock>> = LazyLock::new(|| Mutex::new(Clock::new(boot_ns(), now())));

/// Nanoseconds since boot, sleep included.
pub fn boot_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The clock as it stands, having followed the time of day.
pub fn clock() -> Clock {
    let mut clock = CLOCK.lock().expect("no thread panics while it holds this");
    clock.follow(boot_ns(), now());
    clock.clone()
}
