//! A plugin's versions take turns between two events, with what they know, and go back where the new one is good for nothing.
//! Needs no privilege.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use eunomia_host::dispatch::Where;
use eunomia_host::event::clock::Clock;
use eunomia_host::event::{Columns, Kind, decode};
use eunomia_host::plugin::{Plugin, Settings};
use eunomia_host::wit::process::Fork;
use support::line::Line;

fn sequence() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures/sequence.wasm")
}

/// A fork as the kernel sent one, with a running number as its child.
fn fork(number: u32) -> Fork {
    let bytes = include_bytes!("fixtures/process.records");
    let (mut rest, mut columns) = (&bytes[..], Columns::default());
    while columns.fork.is_empty() {
        let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        decode(&rest[4..4 + length], &Clock::new(0, 0), &mut columns).unwrap();
        rest = &rest[4 + length..];
    }
    let mut fork = columns.fork.remove(0);
    (fork.time, fork.child_pid) = (u64::from(number), number);
    fork
}

/// The next events, numbered on.
fn forks(next: &AtomicU32, count: u32) -> Columns {
    let first = next.fetch_add(count, Ordering::Relaxed);
    let sample = fork(0);
    let numbered = |number| Fork { time: u64::from(number), child_pid: number, ..sample.clone() };
    Columns { fork: (first..first + count).map(numbered).collect(), ..Default::default() }
}

/// What was printed: the plugin's own number, the event's, and the version.
fn printed(lines: &[String]) -> Vec<[u64; 3]> {
    let numbers = |line: &String| -> Vec<u64> { line.split(' ').map(|number| number.parse().unwrap()).collect() };
    lines.iter().map(|line| numbers(line).try_into().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_exchanges_under_load_lose_and_repeat_nothing() {
    const EXCHANGES: u64 = 1_000;
    let line = Arc::new(Line::new());
    let compiled = line.compile(&sequence()).unwrap();
    let next = Arc::new(AtomicU32::new(1));
    let (mut version, member) = line.start_compiled("sequence", &compiled, &Settings::default(), None).await.unwrap();
    line.join(member).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (line, next, stop) = (line.clone(), next.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..10 {
                    line.send(forks(&next, 7)).await;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    let (mut delivered, mut idle) = (0, 0);
    for number in 1..=EXCHANGES {
        let settings = Settings { config: format!(r#"{{"version": {number}}}"#), ..Default::default() };
        let started = line.start_compiled("sequence", &compiled, &settings, Some(&mut version)).await;
        let (new, member) = started.unwrap();
        line.join(member).await;
        let mut old = std::mem::replace(&mut version, new);
        old.ended().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let counts = old.queue.counts().remove(&Kind::Fork).unwrap_or_default();
        assert_eq!(counts.seen, counts.delivered, "{counts:?}");
        assert_eq!(old.counts.faults.load(Ordering::Relaxed), 0);
        delivered += counts.delivered;
        idle += u64::from(counts.delivered == 0);
    }
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    let line = Arc::into_inner(line).unwrap();
    let outcome = line.finish(BTreeMap::from([("sequence", version)])).await;
    delivered += outcome.kinds["sequence"].get(&Kind::Fork).map_or(0, |counts| counts.delivered);
    let lines = printed(&outcome.lines);
    let sent = u64::from(next.load(Ordering::Relaxed)) - 1;
    assert_eq!((lines.len() as u64, delivered), (sent, sent));
    for (expected, [number, event, _]) in (1..).zip(&lines) {
        assert_eq!((*number, *event), (expected, expected), "each event once, in order, numbered on");
    }
    assert!(lines.iter().map(|line| line[2]).is_sorted(), "the versions take turns");
    assert!(idle < EXCHANGES / 2, "{idle} versions had nothing to do: that is no load");
}

/// Exchanges a version that has handled 10 events for one with these settings, sends 10 more, and 10 after a rest.
async fn exchange(config: &str) -> (Vec<[u64; 3]>, BTreeMap<&'static str, Plugin>, u64) {
    let line = Line::new();
    let compiled = line.compile(&sequence()).unwrap();
    let next = AtomicU32::new(1);
    let (mut old, member) = line.start_compiled("sequence", &compiled, &Settings::default(), None).await.unwrap();
    line.join(member).await;
    line.send(forks(&next, 10)).await;
    let settings = Settings { config: config.to_owned(), ..Default::default() };
    let started = line.start_compiled("sequence", &compiled, &settings, Some(&mut old)).await;
    let (mut new, member) = started.unwrap();
    line.join(member).await;
    for _ in 0..10 {
        line.send(forks(&next, 1)).await;
    }
    old.ended().await;
    // All have come to it, and none waits.
    while !new.queue.is_idle() || new.queue.counts().get(&Kind::Fork).is_none_or(|counts| counts.seen < 10) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // What the host does when it is woken.
    if let Some(version) = line.version_before(&mut new).await {
        let (before, member) = version.unwrap();
        line.join(member).await;
        let mut failed = std::mem::replace(&mut new, before);
        line.send(forks(&next, 10)).await;
        failed.ended().await;
        assert_eq!(failed.state(), "stopped");
        let lost = failed.queue.counts()[&Kind::Fork].lost.get(&Where::Fault).copied().unwrap_or(0);
        let outcome = line.finish(BTreeMap::from([("sequence", new), ("failed", failed)])).await;
        return (printed(&outcome.lines), outcome.plugins, lost);
    }
    line.send(forks(&next, 10)).await;
    let outcome = line.finish(BTreeMap::from([("sequence", new)])).await;
    (printed(&outcome.lines), outcome.plugins, 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_take_the_state_gives_its_place_back_and_nothing_is_lost() {
    let (lines, plugins, lost) = exchange(r#"{"version": 1, "refuses_state": true}"#).await;
    let expected: Vec<_> = (1..=30).map(|number| [number, number, 0]).collect();
    assert_eq!((lines, lost), (expected, 0), "the version before goes on where it was");
    assert_eq!(plugins["failed"].counts.faults.load(Ordering::Relaxed), 1);
    assert_eq!(plugins["sequence"].counts.faults.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_soon_gives_its_place_back_with_the_state_as_it_was() {
    let (lines, _, lost) = exchange(r#"{"version": 1, "traps_after": 4}"#).await;
    let new: Vec<_> = lines.iter().filter(|line| line[2] == 1).collect();
    assert!(new.len() <= 4 && lost >= 1, "{lines:?}");
    // The version before numbers on from where it was exchanged.
    let first = 11 + new.len() as u64 + lost;
    let expected: Vec<_> = (11..).zip(first..=30).map(|(number, event)| [number, event, 0]).collect();
    assert_eq!(lines[10 + new.len()..], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_version_keeps_its_place_and_a_state_that_is_too_large_is_left() {
    let (lines, ..) = exchange(r#"{"version": 1}"#).await;
    let expected: Vec<_> = (1..=30).map(|number| [number, number, u64::from(number > 10)]).collect();
    assert_eq!(lines, expected);

    let line = Line::new();
    let compiled = line.compile(&sequence()).unwrap();
    let settings = Settings { config: r#"{"saves_bytes": 10485760}"#.to_owned(), ..Default::default() };
    let (mut old, member) = line.start_compiled("sequence", &compiled, &settings, None).await.unwrap();
    line.join(member).await;
    let next = AtomicU32::new(1);
    line.send(forks(&next, 5)).await;
    let started = line.start_compiled("sequence", &compiled, &Settings::default(), Some(&mut old)).await;
    let (new, member) = started.unwrap();
    line.join(member).await;
    line.send(forks(&next, 5)).await;
    old.ended().await;
    assert_eq!(old.counts.faults.load(Ordering::Relaxed), 1);
    let lines = printed(&line.finish(BTreeMap::from([("sequence", new)])).await.lines);
    assert_eq!(lines.iter().map(|line| line[0]).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]);
}
