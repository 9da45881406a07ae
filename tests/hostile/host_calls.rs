//! Calls of the host: plugins that never come back from one, make too many, or hand over what they should not.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use eunomia_host::dispatch::Where;
use eunomia_host::event::Kind;
use eunomia_host::plugin::Limits;

use super::beside::{
    EVENTS, Memory, SENT, assert_named_once, beside, forks, in_time, log, log_of, misbehave, neighbour, sample, send,
    settings, unhurried,
};
use super::support::line::Line;
use super::support::plugin;

#[tokio::test(flavor = "multi_thread")]
async fn one_that_misuses_the_hosts_calls_is_stopped_alone() {
    beside("warm-up-calls", &settings("nothing", Limits::default())).await;
    let memory = Memory::now();
    let large = Limits { memory_bytes: 64 << 20, ..Default::default() };
    for (name, deed, limits, cause) in [
        ("bad-sleep", "sleep", Limits::default(), "did not return within 300 ms, sleeping or waiting (limits.wall_ms)"),
        ("bad-poll", "poll", Limits::default(), "it ran for more than 50 ms in one call (limits.deadline_ms)"),
        ("bad-call", "call", Limits::default(), "it ran for more than 50 ms in one call (limits.deadline_ms)"),
        (
            "bad-writes",
            "empty-writes",
            Limits::default(),
            "it ran for more than 50 ms in one call (limits.deadline_ms)",
        ),
        ("bad-huge", "huge-alert", large, "it handed the host too much in one call (limits.call_bytes)"),
        ("bad-leak", "leak-handles", Limits::default(), "it holds too many handles (limits.handles)"),
        ("bad-utf8", "bad-utf8", Limits::default(), "utf-8"),
    ] {
        let outcome = beside(name, &settings(deed, limits)).await;
        assert_named_once(name, cause);
        assert_eq!(outcome.plugins[name].counts.faults.load(Ordering::Relaxed), 1, "{name}");
    }
    memory.assert_flat();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_lines_is_cut_to_the_allowance() {
    let begun = Instant::now();
    let outcome = beside("bad-log", &unhurried("log-flood", Limits::default())).await;
    let periods = begun.elapsed().as_secs() + 2;
    assert_named_once("bad-log", "more log lines than 100 in a second are lost");
    let lines = log_of("bad-log").len() as u64 - 1;
    assert!((100..=100 * periods).contains(&lines), "{lines} lines in {periods} s at most");
    let counts = &outcome.plugins["bad-log"].counts;
    let calls = counts.calls.load(Ordering::Relaxed);
    assert_eq!(counts.log_lines_lost.load(Ordering::Relaxed) + lines, calls * 2_000, "every line is shown or counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_line_cannot_look_like_the_hosts_own() {
    beside("bad-forge", &settings("log-forge", Limits::default())).await;
    let log = log();
    let forged: Vec<_> = log.iter().filter(|line| line.contains("forged")).collect();
    assert!(!forged.is_empty());
    for line in forged {
        assert!(line.starts_with("[bad-forge] "), "{line:?}");
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_alerts_is_cut_to_the_allowance() {
    let limits = Limits { alerts_per_second: 50, ..Default::default() };
    let begun = Instant::now();
    let outcome = beside("bad-alerts", &unhurried("alert-flood", limits)).await;
    let periods = begun.elapsed().as_secs() + 2;
    assert_named_once("bad-alerts", "more alerts than 50 in a second are lost");
    let counts = &outcome.plugins["bad-alerts"].counts;
    let (raised, lost) = (counts.alerts.load(Ordering::Relaxed), counts.alerts_lost.load(Ordering::Relaxed));
    assert_eq!(raised + lost, counts.calls.load(Ordering::Relaxed) * 200, "every alert is shown or counted");
    assert!((50..=50 * periods).contains(&raised), "{raised} alerts in {periods} s at most");
    let shown = outcome.lines.iter().filter(|line| line.contains(r#""plugin":"bad-alerts""#)).count() as u64;
    assert_eq!(shown, 2 * raised, "once by the host, and once by json-log");
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_that_are_too_long_are_lost_and_counted() {
    let limits = Limits { alert_bytes: 10, ..Default::default() };
    let outcome = beside("bad-long-alerts", &unhurried("alert-flood", limits)).await;
    assert_named_once("bad-long-alerts", "alerts of more than 10 bytes are lost");
    let counts = &outcome.plugins["bad-long-alerts"].counts;
    let (raised, lost) = (counts.alerts.load(Ordering::Relaxed), counts.alerts_lost.load(Ordering::Relaxed));
    assert_eq!((raised, lost), (0, counts.calls.load(Ordering::Relaxed) * 200), "every one is counted");
}

/// A plugin that is exchanged while it waits in a call of the host: what it had is counted, the new version gets the rest.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_exchanged_in_the_middle_of_a_call_keeps_nothing_from_the_next() {
    const NAME: &str = "bad-exchanged";
    let memory = Memory::now();
    let outcome = in_time(NAME, async || {
        let line = Line::new();
        let sleeps = settings("sleep", Limits::default());
        let (mut old, member) = line.start_with((NAME, 0), &misbehave(), &sleeps, None).await.unwrap();
        line.join(member).await;
        let good = neighbour(&line).await;
        line.send(forks(&sample())).await;
        tokio::time::sleep(Duration::from_millis(50)).await; // It sleeps, for 300 ms at most.
        let (new, member) = line.start((NAME, 0), &plugin("count"), "{}", Some(&mut old)).await.unwrap();
        line.join(member).await;
        send(&line, async || {}).await;
        line.finish(BTreeMap::from([("old", old), ("new", new), ("json-log", good)])).await
    })
    .await;
    let (old, new) = (&outcome.kinds["old"][&Kind::Fork], &outcome.kinds["new"][&Kind::Fork]);
    let first = EVENTS as u64;
    assert_eq!((old.seen, old.lost.get(&Where::Fault)), (first, Some(&first)), "{old:?}");
    assert_eq!((new.seen, new.delivered), (SENT, SENT), "{new:?}");
    let good = &outcome.kinds["json-log"][&Kind::Fork];
    assert_eq!((good.seen, good.delivered), (first + SENT, first + SENT), "{good:?}");
    assert_named_once(NAME, "did not return within 300 ms");
    memory.assert_flat();
}
