//! Recorded kernel bytes through real plugins: decode, dispatch, filter, handle, output. Needs no privilege.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use eunomia_host::dispatch::{Only, Where};
use eunomia_host::event::clock::Clock;
use eunomia_host::event::{Columns, Kind, decode};
use eunomia_host::plugin::{Limits, Settings};
use serde_json::Value;
use support::line::{Line, Outcome};
use support::{fixture, plugin};

/// The runs of /bin/true in the recording.
const RUNS: usize = 20;

fn misbehave() -> PathBuf {
    fixture("misbehave")
}

/// What the kernel sent once, as `tests/record.rs` recorded it.
fn recorded() -> Columns {
    let mut bytes: &[u8] = include_bytes!("fixtures/process.records");
    let clock = Clock::new(0, 1_700_000_000_000_000_000);
    let mut columns = Columns::default();
    while let Some((length, rest)) = bytes.split_at_checked(4) {
        let (record, rest) = rest.split_at(u32::from_le_bytes(length.try_into().unwrap()) as usize);
        decode(record, &clock, &mut columns).unwrap();
        bytes = rest;
    }
    columns
}

/// Sends the recording `repeat` times through a line of plugins, each with its `[config]`.
async fn run(plugins: &[(&'static str, PathBuf, &str)], repeat: usize) -> Outcome {
    let line = Line::new();
    let mut started = BTreeMap::new();
    for (argument, (name, path, config)) in plugins.iter().enumerate() {
        let (plugin, member) = line.start((name, argument), path, config, None).await.unwrap();
        line.join(member).await;
        started.insert(*name, plugin);
    }
    for _ in 0..repeat {
        line.send(recorded()).await;
    }
    line.finish(started).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_handles_its_first_event_after_the_olds_last() {
    const BATCHES: u64 = 400;
    let line = Line::new();
    let json_log = plugin("json-log");
    let (mut version, member) = line.start(("json-log", 0), &json_log, "{}", None).await.unwrap();
    line.join(member).await;
    let mut old = Vec::new();
    let (next, member) = line.start(("json-log", 0), &json_log, "{}", Some(&mut version)).await.unwrap();
    let mut exchange = Some((next, member));
    for batch in 0..BATCHES {
        let mut columns = recorded();
        (columns.exit, columns.fork) = Default::default();
        columns.exec.iter_mut().for_each(|exec| exec.time += batch * 1_000_000_000);
        line.send(columns).await;
        // The old version still has most of these to handle.
        if batch == BATCHES / 2
            && let Some((next, member)) = exchange.take()
        {
            line.join(member).await;
            old.push(std::mem::replace(&mut version, next));
        }
    }
    let outcome = line.finish(BTreeMap::from([("json-log", version)])).await;
    assert_eq!(outcome.lines.len() as u64, BATCHES * recorded().exec.len() as u64, "none is lost, none comes twice");
    let lines = outcome.json();
    assert!(lines.iter().map(|line| line["time"].as_str().unwrap()).is_sorted(), "the versions take turns");
    assert!(old.iter().all(|plugin| plugin.state() == "stopped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_event_is_printed_once_and_in_order() {
    let outcome = run(&[("json-log", plugin("json-log"), "{}")], 1).await;
    let lines = outcome.json();
    let columns = recorded();
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!((of("exec"), of("exit"), of("fork")), (columns.exec.len(), columns.exit.len(), columns.fork.len()));
    let args = |line: &Value| line["args"][1].as_str().is_some_and(|arg| arg.starts_with("run-"));
    assert_eq!(lines.iter().filter(|line| args(line)).count(), RUNS);
    assert!(lines.iter().map(|line| line["time"].as_str().unwrap()).is_sorted());
    assert!(outcome.lines.iter().all(|line| line.starts_with(r#"{"kind":""#)), "the kind comes first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_affects_those_behind_it_and_alerts_reach_the_sinks() {
    let line = [
        ("first", plugin("json-log"), "{}"),
        ("quiet", plugin("quiet"), r#"{"comm": ["true"]}"#),
        ("alerts", plugin("alerts"), "{}"),
        ("last", plugin("json-log"), "{}"),
    ];
    let outcome = run(&line, 1).await;
    let columns = recorded();
    let exec = |name: &str| outcome.kinds[name][&Kind::Exec].clone();
    assert_eq!((exec("first").filtered, exec("first").delivered), (0, columns.exec.len() as u64));
    assert_eq!((exec("last").filtered, exec("last").delivered), (RUNS as u64, (columns.exec.len() - RUNS) as u64));
    assert!(outcome.plugins["quiet"].counts.dropped.load(Ordering::Relaxed) >= RUNS as u64);
    assert_eq!(outcome.dispatched[&Kind::Exec].filtered, 0, "the first plugin got them all");

    let raised = outcome.plugins["alerts"].counts.alerts.load(Ordering::Relaxed);
    assert_eq!(raised, 1, "curl | sh is in the recording");
    assert_eq!(outcome.kinds["last"][&Kind::Alert].delivered, 1);
    let alerts = outcome.json().into_iter().filter(|line| line["kind"] == "alert");
    let rules: Vec<_> = alerts.map(|line| line["alert"]["rule"].as_str().unwrap().to_owned()).collect();
    assert_eq!(rules, ["interpreter-fed-from-network"; 3], "once as output and once from each sink");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_drops_for_all_is_counted_as_filtered() {
    let line = [("quiet", plugin("quiet"), r#"{"comm": ["*"]}"#), ("json-log", plugin("json-log"), "{}")];
    let outcome = run(&line, 3).await;
    let all = (recorded().exec.len() * 3) as u64;
    assert_eq!((outcome.dispatched[&Kind::Exec].filtered, outcome.dispatched[&Kind::Exec].delivered), (all, 0));
    assert!(outcome.lines.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_plugin_is_told_what_it_missed_between_what_it_got() {
    let line = Line::new();
    let limits = Limits { queue_events: 20, ..Default::default() };
    let settings = Settings { limits, ..Default::default() };
    let (json_log, member) = line.start_with(("json-log", 0), &plugin("json-log"), &settings, None).await.unwrap();
    line.join(member).await;
    for batch in 0..200 {
        let mut columns = recorded();
        (columns.exit, columns.fork) = Default::default();
        columns.exec.iter_mut().for_each(|exec| exec.time += batch * 1_000_000_000);
        line.send(columns).await;
    }
    let outcome = line.finish(BTreeMap::from([("json-log", json_log)])).await;
    let (lines, counts) = (outcome.json(), &outcome.kinds["json-log"]);
    let lost = counts[&Kind::Exec].lost[&Where::Queue];
    let gaps: Vec<_> = lines.iter().filter(|line| line["kind"] == "gap").collect();
    assert!(lost > 0 && !gaps.is_empty());
    assert_eq!(gaps.iter().map(|gap| gap["count"].as_u64().unwrap()).sum::<u64>(), lost);
    assert_eq!(counts[&Kind::Gap].delivered, gaps.len() as u64);
    for gap in gaps {
        assert_eq!(
            (&gap["source"], &gap["missing"], &gap["where"]),
            (&"process".into(), &"exec".into(), &"queue".into())
        );
    }
    assert!(lines.iter().map(|line| line["time"].as_str().unwrap()).is_sorted());
}

/// One that misbehaves, and one behind it that must not notice.
async fn beside(deed: &str) -> (Outcome, Duration) {
    let config = format!(r#"{{"deed": "{deed}"}}"#);
    let start = std::time::Instant::now();
    let outcome = run(&[("bad", misbehave(), &config), ("json-log", plugin("json-log"), "{}")], 30).await;
    let columns = recorded();
    let all = 30 * (columns.exec.len() + columns.exit.len() + columns.fork.len());
    assert_eq!(outcome.lines.len(), all, "{deed}: the other plugin gets and prints everything");
    (outcome, start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_with_the_same_bytes_share_their_machine_code() {
    let line = Line::new();
    let [first, second] = [(), ()].map(|()| line.compile(&plugin("json-log")).unwrap());
    assert!(first.shares(&second));
    assert!(!first.shares(&line.compile(&plugin("count")).unwrap()), "others' is others'");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_are_narrowed_get_what_matches_and_no_other_event() {
    let columns = recorded();
    let pids: Vec<u32> = columns.exec.iter().map(|exec| exec.task.pid).collect();
    let line = Line::new();
    let mut started = BTreeMap::new();
    let one = Only { pids: vec![pids[3]], ..Default::default() };
    let two = Only { pids: vec![pids[5], pids[3]], comms: vec!["true".into()], ..Default::default() };
    let all = Only { uids: columns.exec.iter().map(|exec| exec.task.uid).collect(), ..Default::default() };
    let none = Only { uids: vec![4_000_000_000], ..Default::default() };
    for (argument, (name, only)) in [("one", one), ("two", two), ("all", all), ("none", none)].into_iter().enumerate() {
        let settings = Settings { only, ..Default::default() };
        let (plugin, member) = line.start_with((name, argument), &plugin("json-log"), &settings, None).await.unwrap();
        line.join(member).await;
        started.insert(name, plugin);
    }
    line.send(recorded()).await;
    let outcome = line.finish(started).await;
    let of = |kind: Kind, test: &dyn Fn(u32, &str) -> bool| {
        let tasks: Vec<_> = match kind {
            Kind::Exec => columns.exec.iter().map(|event| &event.task).collect(),
            Kind::Exit => columns.exit.iter().map(|event| &event.task).collect(),
            _ => columns.fork.iter().map(|event| &event.task).collect(),
        };
        tasks.iter().filter(|task| test(task.pid, &task.comm)).count() as u64
    };
    let mut printed = 0;
    for kind in [Kind::Exec, Kind::Exit, Kind::Fork] {
        let expected = [
            ("one", of(kind, &|pid, _| pid == pids[3])),
            ("two", of(kind, &|pid, comm| [pids[3], pids[5]].contains(&pid) && comm == "true")),
            ("all", columns.count(kind) as u64),
            ("none", 0),
        ];
        for (name, expected) in expected {
            let counts = outcome.kinds[name].get(&kind).cloned().unwrap_or_default();
            assert_eq!((counts.seen, counts.delivered), (expected, expected), "{kind} of {name}");
            printed += expected;
        }
        assert_eq!(outcome.dispatched[&kind].delivered, columns.count(kind) as u64);
    }
    assert!(outcome.kinds["one"][&Kind::Exec].seen == 1 && outcome.kinds["two"][&Kind::Exit].seen == 2);
    assert_eq!(outcome.lines.len() as u64, printed);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_plugins_fault_stays_its_own() {
    for deed in ["loop", "trap", "grow", "recurse", "sleep"] {
        let (outcome, _) = beside(deed).await;
        let faults = outcome.plugins["bad"].counts.faults.load(Ordering::Relaxed);
        let lost = &outcome.kinds["bad"][&Kind::Fork].lost;
        assert!(faults >= 1, "{deed}: {faults} faults");
        assert!(lost[&Where::Fault] >= faults, "{deed}: each failed call's events are counted: {lost:?}");
    }
    let (outcome, _) = beside("wrong-length").await;
    let counts = &outcome.plugins["bad"].counts;
    assert!(counts.faults.load(Ordering::Relaxed) >= 1);
    assert!(counts.unanswered.load(Ordering::Relaxed) > 0, "a filter that answers nonsense has no answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_does_not_start_says_why() {
    let line = Line::new();
    for (deed, why) in
        [("start-fails", "it will not"), ("start-loops", "1000 ms"), ("explode", "unknown variant `explode`")]
    {
        let config = format!(r#"{{"deed": "{deed}"}}"#);
        let error = line.start(("bad", 0), &misbehave(), &config, None).await.err().unwrap();
        assert!(format!("{error:#}").contains(why), "{deed}: {error:#}");
    }
}
