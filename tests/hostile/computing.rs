//! Processor and memory: plugins that take more of either than they may.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use eunomia_host::dispatch::Where;
use eunomia_host::event::Kind;
use eunomia_host::plugin::{Limits, Plugin, Settings};
use tokio::time::sleep;

use super::beside::{
    Memory, assert_named_once, assert_whole, beside, forks, in_time, listen, log_of, misbehave, neighbour, recorded,
    sample, send, settings,
};
use super::support::Folder;
use super::support::line::Line;
use super::wasm;

/// Memories of a plugin that has many: some dozens of such plugins have all that there are.
const MEMORIES: usize = 300;

/// How often it is looked at whether something has come about.
const POLL: Duration = Duration::from_millis(1);

/// A plugin of so many memories.
fn of_memories(folder: &Folder) -> PathBuf {
    let file = folder.0.join("memories.wasm");
    std::fs::write(&file, wasm::with_instances(&std::fs::read(misbehave()).unwrap(), wasm::MEMORY, MEMORIES)).unwrap();
    file
}

/// Limits within which it may have them.
fn roomy() -> Limits {
    Limits { parts: 400, memory_bytes: 64 << 20, ..Default::default() }
}

/// Ends a plugin that is not in the line.
async fn end(line: &Line, plugin: Plugin) {
    plugin.queue.close();
    line.leave(plugin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_all_it_can_is_stopped_alone() {
    beside("warm-up", &settings("nothing", Limits::default())).await;
    assert_eq!(log_of("warm-up"), [""; 0]);
    let memory = Memory::now();
    for (name, deed, cause) in [
        ("bad-loop", "loop", "it ran for more than 50 ms in one call (limits.deadline_ms)"),
        ("bad-realloc", "loop-in-realloc", "it ran for more than 50 ms in one call (limits.deadline_ms)"),
        ("bad-fill", "fill", "it ran for more than 50 ms in one call (limits.deadline_ms)"),
        ("bad-grow", "grow", "it was refused more memory than limits.memory_bytes allows"),
        ("bad-recurse", "recurse", "its stack overflowed: endless recursion?"),
        ("bad-trap", "trap", "it trapped"),
    ] {
        let outcome = beside(name, &settings(deed, Limits::default())).await;
        assert_named_once(name, cause);
        let counts = &outcome.kinds[name][&Kind::Fork];
        assert!(counts.lost[&Where::Fault] > 0 && counts.lost.contains_key(&Where::Quarantine), "{name}: {counts:?}");
        assert_eq!(outcome.plugins[name].counts.faults.load(Ordering::Relaxed), 1, "{name}");
    }
    memory.assert_flat();
}

/// With the default policy an instance is replaced after each fault, until there have been too many.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_traps_at_every_event_is_set_aside_at_last() {
    let restarting = Settings { config: r#"{"deed": "trap"}"#.to_owned(), ..Default::default() };
    let outcome = beside("bad-traps", &restarting).await;
    let faults = outcome.plugins["bad-traps"].counts.faults.load(Ordering::Relaxed);
    let log = log_of("bad-traps");
    assert_eq!(log.iter().filter(|line| line.starts_with("plugin ")).count() as u64, faults, "once for each: {log:#?}");
    let last = log.iter().rfind(|line| line.starts_with("plugin ")).unwrap();
    assert!(faults == 5 && last.contains("set aside") && last.contains("put a new file"), "{log:#?}");
}

/// A component of hundreds of memories, tables or instances, again and again beside one that behaves.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_hundreds_of_parts_does_not_start() {
    let folder = Folder::new("parts");
    let bytes = std::fs::read(misbehave()).unwrap();
    beside("warm-up-parts", &settings("nothing", Limits::default())).await;
    let memory = Memory::now();
    for (name, sections) in [("memories", wasm::MEMORY), ("tables", wasm::TABLE), ("instances", b"")] {
        let file = folder.0.join(format!("{name}.wasm"));
        std::fs::write(&file, wasm::with_instances(&bytes, sections, 300)).unwrap();
        let outcome = in_time(name, async || {
            let line = Line::new();
            let compiled = line.compile(&file).unwrap();
            let good = neighbour(&line).await;
            send(&line, async || {
                let settings = Settings::default();
                let error = line.start_compiled(name, &compiled, &settings, None).await.err().unwrap();
                let text = format!("{error:#}");
                let cause = "it could not be instantiated: it has too many parts (limits.parts)";
                assert!(text.contains(cause), "{name}: {text}");
            })
            .await;
            line.finish(BTreeMap::from([("json-log", good)])).await
        })
        .await;
        assert_whole(&outcome);
        let settings = Settings { limits: roomy(), ..Default::default() };
        let started = Line::new().start_with((name, 0), &file, &settings, None).await;
        assert!(started.is_ok(), "{name}: where it is allowed, it runs");
    }
    memory.assert_flat();
}

/// A table of any size that a module may have is a question of the plugin's own limits alone.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_large_table_starts_where_its_settings_allow_that() {
    // Of functions, without a maximum, with ten million elements: 80 MB.
    const LARGE: &[u8] = b"\x04\x07\x01\x70\0\x80\xad\xe2\x04";
    let folder = Folder::new("large-table");
    let file = folder.0.join("table.wasm");
    std::fs::write(&file, wasm::with_instances(&std::fs::read(misbehave()).unwrap(), LARGE, 1)).unwrap();
    let start = async |memory_bytes| {
        let settings = Settings { limits: Limits { memory_bytes, ..Default::default() }, ..Default::default() };
        Line::new().start_with(("large-table", 0), &file, &settings, None).await.map(drop)
    };
    start(128 << 20).await.unwrap();
    let refused = format!("{:#}", start(16 << 20).await.unwrap_err());
    assert!(refused.contains("it was refused more memory than limits.memory_bytes allows"), "{refused}");
}

/// Plugins of hundreds of memories, which are allowed them, until all plugins together have as many as there can be.
#[tokio::test(flavor = "multi_thread")]
async fn one_too_many_for_what_all_share_does_not_start() {
    let folder = Folder::new("shared-parts");
    let file = of_memories(&folder);
    let outcome = in_time("shared-parts", async || {
        let line = Line::new();
        let compiled = line.compile(&file).unwrap();
        let good = neighbour(&line).await;
        send(&line, async || {
            let settings = Settings { limits: roomy(), ..Default::default() };
            let mut started = Vec::new();
            let refused = loop {
                match line.start_compiled("memories", &compiled, &settings, None).await {
                    Ok((plugin, _)) => started.push(plugin),
                    Err(error) => break format!("{error:#}"),
                }
                assert!(started.len() * MEMORIES < 10_000, "nothing bounds what all plugins have");
            };
            assert!(refused.contains("all plugins together have too many parts"), "{refused}");
            assert!(started.len() > 20, "{}", started.len());
            // Whoever ends makes room.
            end(&line, started.pop().unwrap()).await;
            started.push(line.start_compiled("memories", &compiled, &settings, None).await.unwrap().0);
            for plugin in started {
                end(&line, plugin).await;
            }
        })
        .await;
        line.finish(BTreeMap::from([("json-log", good)])).await
    })
    .await;
    assert_whole(&outcome);
}

/// A plugin that faults once, and whose room another has taken before it is back.
#[tokio::test(flavor = "multi_thread")]
async fn one_for_which_others_left_no_room_waits_for_it() {
    const NAME: &str = "crowded-out";
    listen();
    let folder = Folder::new("crowded-out");
    let file = of_memories(&folder);
    let line = Line::new();
    let compiled = line.compile(&file).unwrap();
    let settings = Settings { limits: roomy(), config: r#"{"deed": "trap"}"#.to_owned(), ..Default::default() };
    let start = async |name| line.start_compiled(name, &compiled, &settings, None).await.ok();
    let (faulty, member) = start(NAME).await.unwrap();
    line.join(member).await;
    let mut others = Vec::new();
    while let Some((plugin, _)) = start("other").await {
        others.push(plugin);
    }
    line.send(forks(&sample())).await;
    let squatter = loop {
        match start("squatter").await {
            Some((plugin, _)) => break plugin,
            None => sleep(POLL).await,
        }
    };
    let waits = || log_of(NAME).iter().filter(|line| line.ends_with("It waits until others leave it room")).count();
    while waits() == 0 {
        sleep(POLL).await;
    }
    sleep(Duration::from_secs(1)).await; // It looks for room again meanwhile.
    let faults = || faulty.counts.faults.load(Ordering::Relaxed);
    assert_eq!((faulty.state(), faults(), waits()), ("backing off", 1, 1), "{:#?}", log_of(NAME));
    end(&line, squatter).await;
    while faulty.state() != "running" {
        sleep(POLL).await;
    }
    assert_eq!((faults(), faulty.counts.restarts.load(Ordering::Relaxed)), (1, 1));
    for plugin in others {
        end(&line, plugin).await;
    }
    line.finish(BTreeMap::from([(NAME, faulty)])).await;
}

/// A filter whose answer the host takes, and which then never comes back.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_loops_when_its_answer_is_taken_is_stopped_alone() {
    const NAME: &str = "bad-post-return";
    const EXECS: usize = 30;
    beside("warm-up-filter", &settings("nothing", Limits::default())).await;
    let memory = Memory::now();
    let outcome = in_time(NAME, async || {
        let line = Line::new();
        let mut settings = settings("loop-in-post-return", Limits::default());
        settings.limits.wall_ms = Limits::default().wall_ms; // Where others want the processor, running takes longer.
        let (bad, member) = line.start_with((NAME, 0), &misbehave(), &settings, None).await.unwrap();
        line.join(member).await;
        let good = neighbour(&line).await;
        for _ in 0..EXECS {
            let mut columns = recorded();
            (columns.exit, columns.fork) = Default::default();
            line.send(columns).await;
        }
        send(&line, async || {}).await;
        line.finish(BTreeMap::from([(NAME, bad), ("json-log", good)])).await
    })
    .await;
    assert_whole(&outcome);
    assert_named_once(NAME, "it ran for more than 50 ms in one call (limits.deadline_ms)");
    let execs = (EXECS * recorded().exec.len()) as u64;
    let counts = &outcome.kinds["json-log"][&Kind::Exec];
    assert_eq!((counts.seen, counts.filtered, counts.delivered), (execs, 0, execs), "what has no answer passes");
    let bad = &outcome.plugins[NAME].counts;
    assert_eq!(bad.passed.load(Ordering::Relaxed) + bad.unanswered.load(Ordering::Relaxed), execs);
    memory.assert_flat();
}
