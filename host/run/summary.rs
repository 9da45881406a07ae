//! What happened, to the last event: per source and per plugin.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::dispatch::{DispatchCounts, INBOX, Where};
use crate::event::Kind;
use crate::plugin::{CallTimesSum, Plugin};
use crate::source::SourceCounts;

/// The whole run. Serialised, it is what `--summary` writes.
#[derive(Serialize, Debug)]
pub struct Summary {
    sources: BTreeMap<String, SourceSummary>,
    plugins: BTreeMap<String, PluginSummary>,
}

/// What became of a source's events: `seen = filtered + delivered + lost`.
#[derive(Serialize, Default, Debug)]
pub struct SourceSummary {
    pub(super) seen: u64,
    pub(super) filtered: u64,
    pub(super) delivered: u64,
    pub(super) lost: BTreeMap<&'static str, u64>,
    /// Delivered, but so late that later events had gone before.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) late: u64,
}

/// What became of a plugin's events: `seen = filtered + delivered + lost`.
#[derive(Serialize, Default, Clone, Debug)]
pub struct PluginSummary {
    pub(super) seen: u64,
    pub(super) filtered: u64,
    pub(super) delivered: u64,
    pub(super) lost: BTreeMap<Where, u64>,
    pub(super) calls: u64,
    pub(super) alerts: u64,
    /// Beyond its allowance.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) alerts_lost: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) log_lines_lost: u64,
    /// Calls about metrics of its own that were answered with an error.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) metrics_refused: u64,
    pub(super) faults: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) restarts: u64,
    #[serde(skip)]
    pub(super) call_times: CallTimesSum,
    /// The same by kind.
    pub(super) kinds: BTreeMap<&'static str, KindSummary>,
    #[serde(skip_serializing_if = "FilterSummary::is_unused")]
    pub(super) filter: FilterSummary,
    pub(super) state: &'static str,
}

/// What became of a plugin's events of one kind: `seen = filtered + delivered + lost`, and while it runs some wait besides.
#[derive(Serialize, Default, Clone, Debug)]
pub struct KindSummary {
    pub(super) seen: u64,
    pub(super) filtered: u64,
    pub(super) delivered: u64,
    pub(super) lost: BTreeMap<Where, u64>,
    #[serde(skip)]
    pub(super) waiting: u64,
}

/// What a plugin did as a filter.
#[derive(Serialize, Default, Clone, Debug)]
pub struct FilterSummary {
    pub(super) passed: u64,
    pub(super) dropped: u64,
    pub(super) unanswered: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl FilterSummary {
    pub(super) fn is_unused(&self) -> bool {
        self.passed + self.dropped + self.unanswered == 0
    }
}

impl PluginSummary {
    /// Adds what a plugin did; a name has several when it was exchanged.
    pub fn add(&mut self, plugin: &Plugin) {
        for (kind, counts) in plugin.queue.counts() {
            self.seen += counts.seen;
            self.filtered += counts.filtered;
            self.delivered += counts.delivered;
            let of_kind = self.kinds.entry(kind.name()).or_default();
            of_kind.seen += counts.seen;
            of_kind.filtered += counts.filtered;
            of_kind.delivered += counts.delivered;
            of_kind.waiting += counts.waiting;
            for (place, count) in counts.lost.into_iter().filter(|(_, count)| *count > 0) {
                *self.lost.entry(place).or_default() += count;
                *of_kind.lost.entry(place).or_default() += count;
            }
        }
        let calls = &plugin.counts;
        self.calls += calls.calls.load(Ordering::Relaxed);
        self.faults += calls.faults.load(Ordering::Relaxed);
        self.alerts += calls.alerts.load(Ordering::Relaxed);
        self.alerts_lost += calls.alerts_lost.load(Ordering::Relaxed);
        self.log_lines_lost += calls.log_lines_lost.load(Ordering::Relaxed);
        self.metrics_refused += calls.metrics.refused.load(Ordering::Relaxed);
        self.restarts += calls.restarts.load(Ordering::Relaxed);
        calls.times.add_to(&mut self.call_times);
        self.filter.passed += calls.passed.load(Ordering::Relaxed);
        self.filter.dropped += calls.dropped.load(Ordering::Relaxed);
        self.filter.unanswered += calls.unanswered.load(Ordering::Relaxed);
        self.state = plugin.state();
    }
}

/// Puts together what was counted of sources: on their way out of the kernel, by the dispatcher, and of alerts, how many there were
/// and were lost.
pub fn sources(
    sources: &[SourceCounts],
    dispatched: &BTreeMap<Kind, DispatchCounts>,
    (alerts, alerts_lost): (u64, u64),
) -> BTreeMap<String, SourceSummary> {
    let mut all: BTreeMap<String, SourceSummary> = BTreeMap::new();
    for (kind, counts) in dispatched {
        let source = all.entry(kind.source().to_owned()).or_default();
        source.delivered += counts.delivered;
        source.filtered += counts.filtered;
    }
    for counts in sources {
        let source = all.entry(counts.source.to_owned()).or_default();
        source.seen += counts.seen();
        source.late += counts.late;
        source.lost.extend(counts.lost());
    }
    if alerts > 0 {
        let host = all.entry("host".to_owned()).or_default();
        host.seen += alerts;
        host.lost.insert(INBOX, alerts_lost);
    }
    all
}

/// The file for the summary. It is opened at the start: at the end the host could no longer write where it likes.
pub struct SummaryFile {
    file: File,
    path: PathBuf,
}

impl SummaryFile {
    /// Opens or makes it; what is in it stays until the end.
    pub fn open(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(path).with_context(|| format!("cannot write the summary to {}", path.display()))?;
        Ok(SummaryFile { file, path: path.to_owned() })
    }

    /// Writes the summary as JSON.
    pub fn write(mut self, summary: &Summary) -> Result<()> {
        let mut text = serde_json::to_string_pretty(summary)?;
        text.push('\n');
        // What is no regular file, such as a pipe, has no length to set.
        _ = self.file.set_len(0);
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| format!("cannot write the summary to {}", self.path.display()))
    }
}

impl Summary {
    /// Puts together what the rooms have counted.
    pub fn new(
        sources: &[SourceCounts],
        dispatched: &BTreeMap<Kind, DispatchCounts>,
        alerts: (u64, u64),
        plugins: BTreeMap<String, PluginSummary>,
    ) -> Self {
        let mut sources = self::sources(sources, dispatched, alerts);
        sources.values_mut().for_each(|source| source.lost.retain(|_, count| *count > 0));
        Summary { sources, plugins }
    }

    /// As a table.
    pub fn for_people(&self) -> String {
        let mut text = format!("{:<22}{:>12}{:>12}{:>12}{:>12}\n", "", "seen", "filtered", "delivered", "lost");
        let mut row = |name: &str, [seen, filtered, delivered, lost]: [u64; 4], rest: &str| {
            let line = format!("{name:<22}{seen:>12}{filtered:>12}{delivered:>12}{lost:>12}{rest}");
            _ = writeln!(text, "{}", line.trim_end());
        };
        for (name, source) in &self.sources {
            let rest = losses(source.lost.iter().map(|(place, count)| ((*place).to_owned(), *count)));
            let lost = source.lost.values().sum();
            row(&format!("source {name}"), [source.seen, source.filtered, source.delivered, lost], &rest);
        }
        for (name, plugin) in &self.plugins {
            let mut rest = losses(plugin.lost.iter().map(|(place, count)| (place.to_string(), *count)));
            for (what, count) in [
                ("calls", plugin.calls),
                ("alerts", plugin.alerts),
                ("alerts lost", plugin.alerts_lost),
                ("log lines lost", plugin.log_lines_lost),
                ("metrics refused", plugin.metrics_refused),
                ("faults", plugin.faults),
                ("dropped", plugin.filter.dropped),
            ] {
                if count > 0 {
                    _ = write!(rest, "  {what} {count}");
                }
            }
            let lost = plugin.lost.values().sum();
            row(&format!("plugin {name}"), [plugin.seen, plugin.filtered, plugin.delivered, lost], &rest);
        }
        text.trim_end().to_owned()
    }
}

fn losses(places: impl Iterator<Item = (String, u64)>) -> String {
    let list: Vec<_> = places.map(|(place, count)| format!("{place} {count}")).collect();
    if list.is_empty() { String::new() } else { format!(" ({})", list.join(", ")) }
}
