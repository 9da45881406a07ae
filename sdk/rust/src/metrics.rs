//! Metrics of the plugin's own, which the host serves to whoever monitors it.
//!
//! ```no_run
//! use eunomia_plugin::metrics;
//!
//! _ = metrics::add("connections", &[("port", "443")], 1);
//! _ = metrics::set("open", &[], 12.0);
//! ```
//!
//! What breaks a rule (see `wit/metrics.wit`), or is one metric too many, is answered with an error that says so, and told once in the
//! host's log: there is no need to care.

use crate::bindings::metrics::{self, Label};

fn labels(labels: &[(&str, &str)]) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label { name: (*name).to_owned(), value: (*value).to_owned() }).collect()
}

/// Adds to a counter.
pub fn add(name: &str, labels: &[(&str, &str)], amount: u64) -> Result<(), String> {
    metrics::add(name, &self::labels(labels), amount)
}

/// Sets a gauge.
pub fn set(name: &str, labels: &[(&str, &str)], value: f64) -> Result<(), String> {
    metrics::set(name, &self::labels(labels), value)
}

/// Counts a value in a histogram.
pub fn observe(name: &str, labels: &[(&str, &str)], value: f64) -> Result<(), String> {
    metrics::observe(name, &self::labels(labels), value)
}

/// Gives the bounds of a name's histograms, before the first of them.
pub fn bound(name: &str, bounds: &[f64]) -> Result<(), String> {
    metrics::bound(name, bounds)
}
