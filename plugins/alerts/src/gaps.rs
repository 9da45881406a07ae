//! What the plugin did not get to see: alerts of that time say so, for what led to them may be among it.

use std::collections::VecDeque;

use eunomia_plugin::prelude::*;

/// The gaps that are remembered; there is at most one a second for each kind and place.
const MAX_GAPS: usize = 64;

/// How long before an alert's event a gap may have ended for the alert to name it: what leads to an alert comes within seconds.
const WINDOW_NS: u64 = 10_000_000_000;

/// The last gaps.
#[derive(Default)]
pub struct Gaps(VecDeque<Gap>);

impl Gaps {
    pub fn remember(&mut self, gap: Gap) {
        if self.0.len() == MAX_GAPS {
            self.0.pop_front();
        }
        self.0.push_back(gap);
    }

    /// The alert, which says how many events are missing of the time that it is about, where any are.
    pub fn note(&self, alert: Alert) -> Alert {
        let mut missing: Vec<(String, u64)> = Vec::new();
        for gap in self.0.iter().filter(|gap| gap.from <= alert.time && alert.time <= gap.to + WINDOW_NS) {
            let what = gap.missing.as_ref().unwrap_or(&gap.source);
            match missing.iter_mut().find(|(other, _)| other == what) {
                Some((_, count)) => *count += gap.count,
                None => missing.push((what.clone(), gap.count)),
            }
        }
        if missing.is_empty() {
            return alert;
        }
        let list: Vec<_> = missing.iter().map(|(what, count)| format!("{count} {what}")).collect();
        alert.field("events_missing", list.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(missing: Option<&str>, count: u64, from: u64, to: u64) -> Gap {
        let missing = missing.map(str::to_owned);
        Gap { time: to, source: "files".into(), missing, where_: "queue".into(), count, from, to }
    }

    #[test]
    fn an_alert_in_or_soon_after_a_gap_says_what_is_missing() {
        const S: u64 = 1_000_000_000;
        let mut gaps = Gaps::default();
        gaps.remember(gap(Some("exec"), 3, 10 * S, 12 * S));
        gaps.remember(gap(Some("exec"), 4, 12 * S, 13 * S));
        gaps.remember(gap(None, 5, 12 * S, 13 * S));
        let note = |time| {
            let alert = Alert { time, ..Alert::new(Severity::Low, "rule", "message") };
            gaps.note(alert).fields.pop().map(|field| (field.name, field.value))
        };
        assert_eq!(note(9 * S), None);
        let name = "events_missing".to_owned();
        assert_eq!(note(11 * S), Some((name.clone(), "3 exec".to_owned())));
        assert_eq!(note(13 * S), Some((name, "7 exec, 5 files".to_owned())));
        assert_eq!(note(24 * S), None);
    }
}
