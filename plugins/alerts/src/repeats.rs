//! The same said once: what a process does a thousand times a second is one alert, and again a minute later.

use std::collections::HashMap;

/// After so long the same is said again.
const AGAIN_NS: u64 = 60_000_000_000;

/// The most alerts remembered. Beyond, all are forgotten, and some said again.
const MAX_REMEMBERED: usize = 4096;

/// A rule, a process by pid and start time, and what it did it to.
type Key = (String, u32, u64, String);

/// The alerts of the last minute.
#[derive(Default)]
pub struct Repeats {
    last: HashMap<Key, u64>,
}

impl Repeats {
    /// Whether this has not been said within a minute. Takes it as said.
    pub fn is_new(&mut self, key: Key, time: u64) -> bool {
        if self.last.len() >= MAX_REMEMBERED {
            self.last.retain(|_, said| *said + AGAIN_NS > time);
        }
        if self.last.len() >= MAX_REMEMBERED {
            self.last.clear();
        }
        match self.last.get(&key) {
            Some(said) if *said + AGAIN_NS > time => false,
            _ => {
                self.last.insert(key, time);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_a_minute() {
        let mut repeats = Repeats::default();
        let key = |path: &str| ("rule".to_owned(), 1, 2, path.to_owned());
        assert!(repeats.is_new(key("/a"), 1_000));
        assert!(!repeats.is_new(key("/a"), 2_000));
        assert!(repeats.is_new(key("/b"), 2_000));
        assert!(repeats.is_new(key("/a"), 1_000 + AGAIN_NS));
        (0..10_000).for_each(|number| _ = repeats.is_new(key(&number.to_string()), 5_000));
        assert!(repeats.last.len() <= MAX_REMEMBERED);
    }
}
