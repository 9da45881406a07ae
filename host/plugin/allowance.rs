//! How much a plugin may do in a second of what costs others: log lines, alerts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What allowances are for.
const PERIOD: Duration = Duration::from_secs(1);

/// So much in a second. What is not used is not saved up.
pub(super) struct Allowance {
    per_second: u64,
    left: u64,
    since: Instant,
}

impl Allowance {
    pub fn new(per_second: u64) -> Self {
        Allowance { per_second, left: per_second, since: Instant::now() }
    }

    /// Takes so much, if there is as much left.
    pub fn take(&mut self, amount: u64) -> bool {
        if self.since.elapsed() >= PERIOD {
            (self.left, self.since) = (self.per_second, Instant::now());
        }
        let left = self.left.checked_sub(amount);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

/// Counts what was beyond a limit, and tells of the first.
pub(super) fn refuse(lost: &Arc<AtomicU64>, plugin: &str, what: &str, limit: &str) {
    if lost.fetch_add(1, Ordering::Relaxed) == 0 {
        log::warn!(
            "plugin {plugin}: {what} are lost, and counted in the summary; {limit} below [limits] in its settings allows more"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_is_refused_until_the_second_is_over() {
        let mut allowance = Allowance::new(3);
        assert!(allowance.take(2) && !allowance.take(2) && allowance.take(1) && !allowance.take(1));
        allowance.since -= PERIOD;
        assert!(allowance.take(3) && !allowance.take(1));
    }
}
