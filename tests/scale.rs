//! A thousand plugins, of which a hundred misbehave, while a thread makes system calls: the others lose nothing, memory stays
//! what it was, and every sum adds up. Needs root. `make test-scale` does it for five minutes.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eunomia_host::event::{Kind, KindSet};
use eunomia_host::plugin::Settings;
use eunomia_host::source::{LATENCY, Narrowing, Poller, State, Wanted};
use serde_json::Value;
use support::line::Line;
use support::{can_load_bpf, fixture, plugin, resident_kib};

const PLUGINS: usize = 1_000;

/// Those of each hundred, in turn.
const MISDEEDS: [&str; 10] =
    ["loop", "trap", "grow", "recurse", "sleep", "fill", "call", "leak-handles", "log-flood", "alert-flood"];

/// How long it takes unless EUNOMIA_SCALE_SECONDS says otherwise.
const SECONDS: u64 = 30;

/// System calls come in bursts, as they do: so many at full speed, and then a pause. Each is delivered to every plugin, so that
/// ten thousand a second are ten million deliveries.
const BURST: u64 = 1_000;
const PAUSE: Duration = Duration::from_millis(100);

/// How many events may wait for one that misbehaves. With what is usual, one that is slow fills its queue for minutes, which
/// looks like a leak.
const BAD_QUEUE_EVENTS: u64 = 16_384;

/// The thread's name, by which the kernel picks its calls.
const NAME: &str = "scale-storm";

/// How much resident memory may grow from a quarter of the time, when those that misbehave have been set aside, to the end.
/// What the test itself keeps of what was printed does not count.
const MAX_GROWTH_KIB: u64 = 16 << 10;

/// Makes system calls until it is told to stop; how many.
fn storm(stop: &AtomicBool, made: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        (0..BURST).for_each(|_| _ = std::os::unix::process::parent_id());
        made.fetch_add(BURST, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_that_misbehave_cost_the_other_nine_hundred_nothing() {
    if !can_load_bpf() {
        return;
    }
    let seconds = std::env::var("EUNOMIA_SCALE_SECONDS").map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let line = Line::new();
    let (good, bad) = (line.compile(&plugin("count")).unwrap(), line.compile(&fixture("misbehave")).unwrap());
    let events = Some(KindSet::of(&[Kind::Syscall]));
    let mut plugins = BTreeMap::new();
    for number in 0..PLUGINS {
        let misdeed = (number % 10 == 9).then_some(MISDEEDS[number / 10 % 10]);
        let name: &'static str = format!("{}-{number}", misdeed.unwrap_or("good")).leak();
        let config = misdeed.map_or("{}".to_owned(), |deed| format!(r#"{{"deed": "{deed}"}}"#));
        let mut settings = Settings { config, events, ..Default::default() };
        if misdeed.is_some() {
            settings.limits.queue_events = BAD_QUEUE_EVENTS;
        }
        let compiled = if misdeed.is_some() { &bad } else { &good };
        let (plugin, member) = line.start_compiled(name, compiled, &settings, None).await.unwrap();
        line.join(member).await;
        plugins.insert(name, plugin);
    }
    let narrowing = Narrowing { comms: vec![NAME.to_owned()], ..Default::default() };
    let poller = Poller::within(narrowing, LATENCY, line.deliver()).unwrap();
    let states = poller.want(Wanted::from(KindSet::of(&[Kind::Syscall])));
    assert!(states.iter().any(|state| matches!(state.state, State::Attached { .. })), "{states:?}");

    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let thread = {
        let (stop, made) = (stop.clone(), made.clone());
        std::thread::Builder::new().name(NAME.to_owned()).spawn(move || storm(&stop, &made)).unwrap()
    };
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds) / 4).await;
    let before = resident_kib() - line.captured_kib();
    tokio::time::sleep((Duration::from_secs(seconds)).saturating_sub(start.elapsed())).await;
    let after = resident_kib() - line.captured_kib();
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    let sources = tokio::task::spawn_blocking(|| poller.stop()).await.unwrap();
    let outcome = line.finish(plugins).await;

    let made = made.load(Ordering::Relaxed);
    let source = sources.iter().find(|counts| counts.source == "syscall").unwrap();
    let (sent, lost) = (source.sent, source.lost().map(|(_, count)| count).sum::<u64>());
    let dispatched = outcome.dispatched[&Kind::Syscall];
    println!(
        "{seconds} s: {made} calls made, {sent} events, {lost} lost in the kernel; {before} KiB, then {after} KiB"
    );
    assert_eq!(lost, 0, "{source:?}");
    assert!(sent >= made, "every call is an event: {sent} of {made}");
    assert_eq!(dispatched.delivered + dispatched.filtered, sent);

    let of_kind = |line: &&Value| line["kind"] == "count";
    let printed: Vec<Value> = outcome.lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let counted: Vec<_> = printed.iter().filter(of_kind).map(|line| line["events"]["syscall"].as_u64()).collect();
    assert_eq!(counted, vec![Some(sent); PLUGINS * 9 / 10], "each of them has counted every event");
    let (mut faults, mut set_aside) = (0, 0);
    for (name, plugin) in &outcome.plugins {
        let counts = &outcome.kinds[name][&Kind::Syscall];
        assert_eq!(counts.seen, sent, "{name}");
        if name.starts_with("good-") {
            assert_eq!(
                (counts.delivered, plugin.counts.faults.load(Ordering::Relaxed)),
                (sent, 0),
                "{name}: {counts:?}"
            );
        } else {
            faults += plugin.counts.faults.load(Ordering::Relaxed);
            set_aside += u64::from(counts.delivered < sent);
        }
    }
    println!("{faults} faults; {set_aside} of {} that misbehave lost events to that", PLUGINS / 10);
    assert!(faults >= 100 && set_aside >= 80, "they did not misbehave");
    assert!(after < before + MAX_GROWTH_KIB, "resident memory grew from {before} to {after} KiB");
}
