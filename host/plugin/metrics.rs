//! Metrics of a plugin's own, bounded in number and size; and how long its calls take.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::limits::METRIC_BYTES;
use crate::output::Value;
use crate::wit::metrics::Label;

/// The longest name, of a metric or of a label, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// The longest value of a label, in bytes.
const MAX_LABEL_BYTES: usize = 128;

/// The most labels of a metric.
const MAX_LABELS: usize = 8;

/// The most bounds of a histogram.
const MAX_BOUNDS: usize = 32;

/// The most names with bounds of their own.
const MAX_BOUNDED: usize = 128;

/// Bounds of histograms for which the plugin gives none.
const BOUNDS: [f64; 7] = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1_000.0];

/// Labels that the host or the format gives.
const TAKEN: [&str; 3] = ["plugin", "name", "le"];

/// A name, and labels sorted by theirs.
type Key = (String, Vec<(String, String)>);

/// A plugin's metrics.
#[derive(Default, Debug)]
pub struct Metrics {
    inner: Mutex<Inner>,
    /// Calls that were answered with an error.
    pub refused: AtomicU64,
}

#[derive(Default, Debug)]
struct Inner {
    values: BTreeMap<Key, Value>,
    bounds: BTreeMap<String, Vec<f64>>,
    /// What names and labels take as often as they are served.
    bytes: usize,
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread panics while it holds this")
    }

    /// All of them, with name and labels.
    pub fn all(&self) -> Vec<(Key, Value)> {
        self.lock().values.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(super) fn add(&self, name: String, labels: Vec<Label>, amount: u64, most: u64) -> Result<(), String> {
        self.change(name, labels, most, Value::Counter(0), |value| {
            if let Value::Counter(count) = value {
                *count = count.saturating_add(amount);
            }
        })
    }

    pub(super) fn set(&self, name: String, labels: Vec<Label>, to: f64, most: u64) -> Result<(), String> {
        finite(&name, to)?;
        self.change(name, labels, most, Value::Gauge(0.0), |value| *value = Value::Gauge(to))
    }

    pub(super) fn observe(&self, name: String, labels: Vec<Label>, seen: f64, most: u64) -> Result<(), String> {
        finite(&name, seen)?;
        let empty = Value::Histogram { sum: 0.0, buckets: Vec::new() };
        self.change(name, labels, most, empty, |value| {
            if let Value::Histogram { sum, buckets } = value {
                *sum += seen;
                if let Some((_, count)) = buckets.iter_mut().find(|(bound, _)| seen <= *bound) {
                    *count += 1;
                }
            }
        })
    }

    pub(super) fn bound(&self, name: String, bounds: Vec<f64>) -> Result<(), String> {
        check_name("a metric", &name)?;
        let rise = bounds.windows(2).all(|pair| pair[0] < pair[1]) && bounds.iter().all(|bound| bound.is_finite());
        if bounds.is_empty() || bounds.len() > MAX_BOUNDS || !rise {
            return Err(format!("{name}: a histogram has 1 to {MAX_BOUNDS} finite bounds, each above the one before"));
        }
        let mut inner = self.lock();
        if inner.values.keys().any(|(other, _)| *other == name) || inner.bounds.contains_key(&name) {
            return Err(format!("{name}: its bounds are given once, and before anything is observed"));
        }
        if inner.bounds.len() >= MAX_BOUNDED {
            return Err(format!("{name}: at most {MAX_BOUNDED} names have bounds of their own"));
        }
        inner.bounds.insert(name, bounds);
        Ok(())
    }

    /// Changes a metric; makes it, where it is new, of a sort that has no value yet.
    fn change(
        &self,
        name: String,
        labels: Vec<Label>,
        most: u64,
        empty: Value,
        change: impl FnOnce(&mut Value),
    ) -> Result<(), String> {
        let key = check(name, labels)?;
        let mut inner = self.lock();
        if let Some(value) = inner.values.get_mut(&key) {
            same_sort(&key.0, value, &empty)?;
            change(value);
            return Ok(());
        }
        let same_name =
            inner.values.range((key.0.clone(), Vec::new())..).next().filter(|((name, _), _)| *name == key.0);
        if let Some((_, other)) = same_name {
            same_sort(&key.0, other, &empty)?;
        }
        if inner.values.len() as u64 >= most {
            return Err(format!(
                "{}: the plugin has {most} metrics, each combination of labels being one; use labels of fewer values, or \
                 have the operator set limits.metrics",
                key.0
            ));
        }
        let mut value = empty;
        if let Value::Histogram { buckets, .. } = &mut value {
            let bounds = inner.bounds.get(&key.0).map_or(&BOUNDS[..], Vec::as_slice);
            *buckets = bounds.iter().copied().chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
        }
        let bytes = inner.bytes + served_bytes(&key, &value);
        if bytes > METRIC_BYTES {
            return Err(format!(
                "{}: names and labels of the plugin's metrics take more than {METRIC_BYTES} bytes, those of a histogram once \
                 for each bound; use shorter ones, labels of fewer values, or fewer bounds",
                key.0
            ));
        }
        inner.bytes = bytes;
        change(&mut value);
        inner.values.insert(key, value);
        Ok(())
    }
}

/// What a metric's name and labels take where it is served.
fn served_bytes((name, labels): &Key, value: &Value) -> usize {
    let once = name.len() + labels.iter().map(|(label, value)| label.len() + value.len()).sum::<usize>();
    match value {
        // A line for each bucket, for their sum and for their number.
        Value::Histogram { buckets, .. } => once * (buckets.len() + 2),
        _ => once,
    }
}

fn same_sort(name: &str, value: &Value, other: &Value) -> Result<(), String> {
    match std::mem::discriminant(value) == std::mem::discriminant(other) {
        true => Ok(()),
        false => Err(format!("{name}: it is another sort of metric; a name is a counter, a gauge or a histogram")),
    }
}

fn finite(name: &str, value: f64) -> Result<(), String> {
    if value.is_finite() { Ok(()) } else { Err(format!("{}: {value} is not finite", name.escape_debug())) }
}

fn check(name: String, labels: Vec<Label>) -> Result<Key, String> {
    check_name("a metric", &name)?;
    if labels.len() > MAX_LABELS {
        return Err(format!("{name}: it has {} labels, and at most {MAX_LABELS} are allowed", labels.len()));
    }
    let mut pairs = Vec::with_capacity(labels.len());
    for Label { name: label, value } in labels {
        check_name("a label", &label)?;
        if TAKEN.contains(&&*label) || label.starts_with("__") {
            return Err(format!("{name}: a label may not be called {label}"));
        }
        if value.len() > MAX_LABEL_BYTES {
            return Err(format!(
                "{name}: the label {label} has {} bytes, and at most {MAX_LABEL_BYTES} are allowed",
                value.len()
            ));
        }
        pairs.push((label, value));
    }
    pairs.sort();
    match pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(format!("{name}: it has the label {} twice", pair[0].0)),
        None => Ok((name, pairs)),
    }
}

fn check_name(whose: &str, name: &str) -> Result<(), String> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !letters || name.as_bytes()[0].is_ascii_digit() {
        let start: String = name.chars().take(MAX_NAME_BYTES).collect();
        return Err(format!(
            "'{}' is no name of {whose}: 1 to {MAX_NAME_BYTES} letters, digits and _, without a digit in front",
            start.escape_debug()
        ));
    }
    Ok(())
}

/// Upper bounds of calls' times in microseconds, and one more place for those above.
const CALL_BOUNDS_US: [u64; 6] = [10, 100, 1_000, 10_000, 100_000, 1_000_000];

/// How long calls took.
#[derive(Default, Debug)]
pub struct CallTimes {
    counts: [AtomicU64; CALL_BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl CallTimes {
    pub(super) fn observe(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let at = CALL_BOUNDS_US.partition_point(|bound| bound * 1_000 < ns);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Adds them to a sum.
    pub fn add_to(&self, sum: &mut CallTimesSum) {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        sum.counts.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
        sum.sum_ns += self.sum_ns.load(Ordering::Relaxed);
    }
}

/// How long calls took, of all versions of a plugin.
#[derive(Clone, Default, Debug)]
pub struct CallTimesSum {
    counts: [u64; CALL_BOUNDS_US.len() + 1],
    sum_ns: u64,
}

impl CallTimesSum {
    /// As a histogram of seconds.
    pub fn histogram(&self) -> Value {
        let bounds = CALL_BOUNDS_US.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        Value::Histogram { sum: self.sum_ns as f64 / 1e9, buckets: bounds.zip(self.counts).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(name: &str, value: &str) -> Label {
        Label { name: name.into(), value: value.into() }
    }

    #[test]
    fn values_are_kept_by_name_and_labels_in_any_order() {
        let metrics = Metrics::default();
        let (a, b) = (label("a", "1"), label("b", "2"));
        metrics.add("calls".into(), vec![a.clone(), b.clone()], 2, 10).unwrap();
        metrics.add("calls".into(), vec![b, a], 3, 10).unwrap();
        metrics.add("calls".into(), vec![], u64::MAX, 10).unwrap();
        metrics.add("calls".into(), vec![], 1, 10).unwrap();
        metrics.set("open".into(), vec![], 2.5, 10).unwrap();
        metrics.bound("time".into(), vec![1.0, 2.0]).unwrap();
        for seen in [0.5, 1.0, 1.5, 9.0] {
            metrics.observe("time".into(), vec![], seen, 10).unwrap();
        }
        let shown: Vec<String> =
            metrics.all().iter().map(|((name, labels), value)| format!("{name} {labels:?} {value:?}")).collect();
        assert_eq!(
            shown,
            [
                "calls [] Counter(18446744073709551615)",
                "calls [(\"a\", \"1\"), (\"b\", \"2\")] Counter(5)",
                "open [] Gauge(2.5)",
                "time [] Histogram { sum: 12.0, buckets: [(1.0, 2), (2.0, 1), (inf, 1)] }",
            ]
        );
    }

    #[test]
    fn what_breaks_a_rule_is_refused_with_the_reason_and_changes_nothing() {
        let metrics = Metrics::default();
        let add = |name: &str, labels: Vec<Label>| metrics.add(name.into(), labels, 1, 2).unwrap_err();
        for name in ["", "1a", "a-b", "a b", "ä", "a\n", &"a".repeat(65)] {
            assert!(add(name, vec![]).contains("is no name of a metric"), "{name}");
        }
        assert!(add("a", vec![label("b-c", "")]).contains("is no name of a label"));
        assert!(add("a", vec![label("le", "1")]).contains("may not be called le"));
        assert!(add("a", vec![label("__a", "1")]).contains("may not be called __a"));
        assert!(add("a", vec![label("b", &"x".repeat(129))]).contains("129 bytes"));
        assert!(add("a", vec![label("b", "1"), label("b", "2")]).contains("twice"));
        assert!(add("a", (0..9).map(|number| label(&format!("l{number}"), "")).collect()).contains("9 labels"));
        assert!(metrics.set("a".into(), vec![], f64::NAN, 2).unwrap_err().contains("finite"));
        assert!(metrics.bound("a".into(), vec![2.0, 1.0]).unwrap_err().contains("above the one before"));
        assert!(metrics.all().is_empty());
        metrics.add("a".into(), vec![], 1, 2).unwrap();
        metrics.add("a".into(), vec![label("b", "1")], 1, 2).unwrap();
        assert!(metrics.set("a".into(), vec![label("b", "2")], 1.0, 2).unwrap_err().contains("another sort"));
        assert!(metrics.bound("a".into(), vec![1.0]).unwrap_err().contains("before anything is observed"));
        assert!(add("a", vec![label("b", "2")]).contains("limits.metrics"));
        metrics.add("a".into(), vec![label("b", "1")], 1, 2).unwrap();
        assert_eq!(metrics.all().len(), 2);
    }

    #[test]
    fn long_labels_and_many_bounds_are_bounded_whatever_the_number_allowed() {
        let metrics = Metrics::default();
        let long: Vec<Label> = (1..8).map(|number| label(&format!("l{number}"), &"x".repeat(128))).collect();
        let bytes = "calls".len() + 7 * (2 + 128);
        let mut taken = 0;
        let error = loop {
            let labels = [&[label("n", &format!("{taken:03}"))][..], &long].concat();
            match metrics.add("calls".into(), labels, 1, u64::MAX) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(taken, METRIC_BYTES / (bytes + 4), "{error}");
        assert!(error.contains("use shorter ones"), "{error}");

        let metrics = Metrics::default();
        metrics.bound("time".into(), (0..32).map(f64::from).collect()).unwrap();
        let observe = |of: usize| metrics.observe("time".into(), vec![label("of", &format!("{of:04}"))], 1.0, u64::MAX);
        // 33 buckets, the sum and the number.
        let fit = METRIC_BYTES / (35 * "timeof0000".len());
        (0..fit).for_each(|of| observe(of).unwrap());
        assert!(observe(fit).unwrap_err().contains("fewer bounds"));
        observe(0).unwrap();
    }

    #[test]
    fn calls_are_counted_by_their_time() {
        let times = CallTimes::default();
        [3, 10, 11, 2_000_000].into_iter().for_each(|us| times.observe(Duration::from_micros(us)));
        let mut versions = CallTimesSum::default();
        (0..2).for_each(|_| times.add_to(&mut versions));
        let Value::Histogram { sum, buckets } = versions.histogram() else { panic!("it is a histogram") };
        assert_eq!(sum, 4.000_048);
        assert_eq!(buckets.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [4, 2, 0, 0, 0, 0, 2]);
    }
}
