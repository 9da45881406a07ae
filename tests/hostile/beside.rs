//! A plugin that misbehaves beside one that does not: what the log says, what the other gets, and how late.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, Once};
use std::time::Duration;

use eunomia_host::event::clock::Clock;
use eunomia_host::event::{self, Columns, Kind, decode};
use eunomia_host::plugin::{Limits, OnFault, Plugin, Settings};
use eunomia_host::wit::process::Fork;

use super::support::line::{Line, Outcome};
use super::support::{fixture, plugin, resident_kib};

/// How much later than it happened an event may reach the well-behaved plugin's output, but for one in a hundred.
const MAX_DELAY: Duration = Duration::from_millis(50);

/// Batches of events, how many each has, and how often one comes.
const BATCHES: usize = 300;
pub const EVENTS: usize = 10;
const EVERY: Duration = Duration::from_millis(2);

/// Events in all.
pub const SENT: u64 = (BATCHES * EVENTS) as u64;

/// How often a case is tried before it counts as late: other work of the machine delays everything, a plugin that harms others
/// does so every time.
const ATTEMPTS: usize = 4;

/// How much more memory the host may have after a group of cases: less than two plugins may use, so that one that is kept
/// in each case is found.
const MAX_GROWTH_KIB: u64 = 24 << 10;

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LOG.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// What the host's log has so far about a plugin.
pub fn log_of(plugin: &str) -> Vec<String> {
    LOG.lock().unwrap().iter().filter(|line| is_of(line, plugin)).cloned().collect()
}

fn is_of(line: &str, plugin: &str) -> bool {
    line.starts_with(&format!("plugin {plugin}: ")) || line.starts_with(&format!("[{plugin}] "))
}

/// The whole log so far.
pub fn log() -> Vec<String> {
    LOG.lock().unwrap().clone()
}

pub fn misbehave() -> PathBuf {
    fixture("misbehave")
}

/// A plugin that is set aside after its first fault, and whose calls take no longer than the test can wait.
pub fn settings(deed: &str, limits: Limits) -> Settings {
    let limits = Limits { wall_ms: 300, ..limits };
    Settings { config: format!(r#"{{"deed": "{deed}"}}"#), on_fault: OnFault::Stop, limits, ..Default::default() }
}

/// The same for one that does too much, but returns: on a busy machine its calls take long, which is not what it is tried for.
pub fn unhurried(deed: &str, limits: Limits) -> Settings {
    let mut settings = settings(deed, Limits { deadline_ms: 10_000, ..limits });
    settings.limits.wall_ms = 60_000;
    settings
}

pub fn forks(sample: &Fork) -> Columns {
    let time = event::now();
    Columns { fork: vec![Fork { time, ..sample.clone() }; EVENTS], ..Default::default() }
}

pub fn sample() -> Fork {
    recorded().fork.remove(0)
}

/// What the kernel sent once.
pub fn recorded() -> Columns {
    let (mut rest, mut columns) = (&include_bytes!("../fixtures/process.records")[..], Columns::default());
    while let Some((length, after)) = rest.split_at_checked(4) {
        let (record, after) = after.split_at(u32::from_le_bytes(length.try_into().unwrap()) as usize);
        decode(record, &Clock::new(0, 0), &mut columns).unwrap();
        rest = after;
    }
    columns
}

/// Keeps what the host logs from now on.
pub fn listen() {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
}

/// Runs the plugin `name` with these settings beside json-log, which must get everything in time.
pub async fn beside(name: &'static str, settings: &Settings) -> Outcome {
    in_time(name, async || try_beside(name, settings).await).await
}

/// What came of a case about the plugin `name` in which json-log has got everything in time.
pub async fn in_time(name: &str, case: impl AsyncFn() -> Outcome) -> Outcome {
    listen();
    for attempt in 1.. {
        LOG.lock().unwrap().retain(|line| !is_of(line, name));
        let outcome = case().await;
        let delay = delay(&outcome);
        if delay < MAX_DELAY {
            return outcome;
        }
        assert!(attempt < ATTEMPTS, "{name}: the other plugin's calls are late by {delay:?}");
    }
    unreachable!("it returns or fails")
}

async fn try_beside(name: &'static str, settings: &Settings) -> Outcome {
    let line = Line::new();
    let (bad, member) = line.start_with((name, 0), &misbehave(), settings, None).await.unwrap();
    line.join(member).await;
    let good = neighbour(&line).await;
    send(&line, async || {}).await;
    let outcome = line.finish(BTreeMap::from([(name, bad), ("json-log", good)])).await;
    assert_whole(&outcome);
    assert_eq!(outcome.kinds[name][&Kind::Fork].seen, SENT, "{name}");
    outcome
}

/// The well-behaved plugin beside it, which prints each event.
pub async fn neighbour(line: &Line) -> Plugin {
    let (good, member) = line.start(("json-log", 1), &plugin("json-log"), "{}", None).await.unwrap();
    line.join(member).await;
    good
}

/// Sends all batches, each in its time, and does something else in the middle.
pub async fn send(line: &Line, meanwhile: impl AsyncFnOnce()) {
    let sample = sample();
    let mut clock = tokio::time::interval(EVERY);
    let mut meanwhile = Some(meanwhile);
    for batch in 0..BATCHES {
        clock.tick().await;
        line.send(forks(&sample)).await;
        if batch == BATCHES / 2
            && let Some(meanwhile) = meanwhile.take()
        {
            meanwhile().await;
        }
    }
}

/// Asserts that the well-behaved plugin has everything.
pub fn assert_whole(outcome: &Outcome) {
    let counts = &outcome.kinds["json-log"][&Kind::Fork];
    assert_eq!((counts.seen, counts.delivered), (SENT, SENT), "{counts:?}");
}

/// How late nearly all events came to be printed: the 99th percentile.
fn delay(outcome: &Outcome) -> Duration {
    let lines = outcome.lines.iter().zip(&outcome.times).filter(|(line, _)| line.contains(r#""kind":"fork""#));
    let late = |(line, at): (&String, &u64)| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let time = humantime::parse_rfc3339(value["time"].as_str().unwrap()).unwrap();
        let time = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        Duration::from_nanos(u64::try_from(u128::from(*at).saturating_sub(time)).unwrap())
    };
    let mut delays: Vec<_> = lines.map(late).collect();
    delays.sort();
    delays[delays.len() * 99 / 100]
}

/// Asserts that the log names the plugin once, with this cause.
pub fn assert_named_once(name: &str, cause: &str) {
    let log: Vec<_> = log_of(name).into_iter().filter(|line| line.starts_with("plugin ")).collect();
    assert!(log.len() == 1 && log[0].contains(cause), "{name}: not once '{cause}', but {log:#?}");
}

/// Resident memory.
pub struct Memory(u64);

impl Memory {
    pub fn now() -> Self {
        Memory(resident_kib())
    }

    /// Asserts that it is about what it was.
    pub fn assert_flat(&self) {
        let (before, Memory(now)) = (self.0, Memory::now());
        assert!(now < before + MAX_GROWTH_KIB, "resident memory grew from {before} to {now} KiB");
    }
}
