//! What it costs to see everything: storms of known size without anybody who looks, with the host and plugins that count, and with
//! the tools that people have for it now; and what the host costs when nothing happens. `make bench` runs it, as root. Times are
//! this machine's; the ratios are what there is to compare.

mod host;
mod measure;
mod reader;
mod tools;
mod workload;

use std::process::Command;
use std::time::Duration;

use host::Host;
use reader::Reader;
use tools::TOOLS;
use workload::{STORMS, Storm};

/// How often a storm runs in each way; the best run counts, for others disturb it. With many plugins once: that takes long.
const ROUNDS: usize = 3;
const MANY: usize = 100;

/// Numbers of plugins that each get every event.
const PLUGINS: [usize; 3] = [1, 10, 100];

/// Numbers of plugins whose memory is measured.
const LOADED: [usize; 4] = [1, 10, 100, 1_000];

/// What a lost event counts for among the seconds of a run.
const LOSS_SECONDS: f64 = 1.0;

/// How long the host does nothing while that is measured, and for how long a start has something left to do.
const SETTLES: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(10);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let storm = |name: &str| STORMS.iter().find(|storm| storm.name == name).expect("a storm's name");
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["workload", name, times] => return storm(name).run(times.parse().expect("a number")),
        ["reader", number] => return reader::read(number.parse().expect("a number")),
        ["workload", name, times, file] => {
            storm(name).run(times.parse().expect("a number"));
            let seconds = measure::cpu(std::process::id()).all().to_string();
            return std::fs::write(file, seconds).expect("whoever asks says where");
        }
        [] => {
            STORMS.iter().for_each(run);
            println!("\nthe host itself");
            ITSELF.iter().for_each(|(_, measure)| measure());
        }
        ref names => {
            for name in names {
                match ITSELF.iter().find(|(other, _)| other == name) {
                    Some((_, measure)) => measure(),
                    None => run(storm(name)),
                }
            }
        }
    }
    host::forget_machine_code();
}

/// What is measured of the host without a storm.
const ITSELF: [(&str, fn()); 4] = [("start", start_up), ("start-many", start_many), ("memory", memory), ("idle", idle)];

fn workload(storm: &Storm, times: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(["workload", storm.name, &times.to_string()]);
    command
}

/// The CPU time of a workload by itself, in seconds.
fn time(storm: &Storm, times: u64) -> f64 {
    measure::finish(&mut workload(storm, times).spawn().expect("this program runs")).all()
}

/// The best of some rounds.
fn best<T>(rounds: usize, mut round: impl FnMut() -> T, cost: impl Fn(&T) -> f64) -> T {
    let rounds = (0..rounds).map(|_| round());
    rounds.min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("there is a round")
}

/// A line of the table.
struct Row {
    with: String,
    times: u64,
    seen: u64,
    lost: u64,
    tracer: f64,
    workload: f64,
}

fn run(storm: &Storm) {
    println!("\n{} x {}", storm.times, storm.what);
    println!(
        "{:<22}{:>10}{:>10}{:>10}{:>12}{:>12}{:>14}{:>8}",
        "", "expected", "seen", "lost", "tracer s", "ns/event", "workload s", "ratio"
    );
    let alone = best(ROUNDS, || time(storm, storm.times), |seconds| *seconds);
    let print = |row: &Row| {
        let share = row.times as f64 / storm.times as f64;
        println!(
            "{:<22}{:>10}{:>10}{:>10}{:>12.2}{:>12.0}{:>14.2}{:>7.2}x",
            row.with,
            row.times,
            row.seen,
            row.lost,
            row.tracer,
            row.tracer * 1e9 / row.times as f64,
            row.workload,
            row.workload / (alone * share)
        );
    };
    print(&Row { with: "nobody".into(), times: storm.times, seen: 0, lost: 0, tracer: 0.0, workload: alone });
    // What is lost costs nothing: the run that lost least goes first.
    let cost = |row: &Row| row.lost as f64 * LOSS_SECONDS + row.tracer + row.workload;
    if let Some(number) = storm.call {
        print(&best(ROUNDS, || read(storm, number), cost));
    }
    for plugins in PLUGINS {
        let rounds = if plugins < MANY { ROUNDS } else { 1 };
        print(&best(rounds, || watched(storm, plugins), cost));
    }
    for tool in TOOLS {
        if !tool.is_installed() {
            println!("{:<22} not installed", tool.name);
            continue;
        }
        let times = storm.times / tool.divide;
        let (seen, tracer, workload) = tool.run(storm, workload(storm, times));
        let lost = times.saturating_sub(seen);
        print(&Row { with: tool.name.into(), times, seen, lost, tracer, workload });
    }
}

/// A storm of system calls with a native reader that only counts.
fn read(storm: &Storm, number: u32) -> Row {
    let reader = Reader::start(number);
    let workload = time(storm, storm.times);
    let (seen, tracer) = reader.stop();
    let lost = storm.times.saturating_sub(seen);
    Row { with: "native reader".into(), times: storm.times, seen, lost, tracer, workload }
}

/// A storm with the host and so many plugins.
fn watched(storm: &Storm, plugins: usize) -> Row {
    let args = [&["--events", storm.kind.name()], storm.narrow].concat();
    let host = Host::start("count", plugins, &args);
    let workload = time(storm, storm.times);
    let outcome = host.stop();
    let (lost_before, lost_by_plugins) = outcome.lost();
    let with = format!("host, {plugins} x count");
    let seen = outcome.least(storm.kind.name(), storm.call);
    let lost = lost_before * plugins as u64 + lost_by_plugins;
    Row { with, times: storm.times, seen, lost, tracer: outcome.cpu, workload }
}

fn row(what: &str, value: f64, unit: &str) {
    println!("{what:<44}{value:>10.2} {unit}");
}

/// How long it takes until events are seen.
fn start_up() {
    for (events, what) in [("exec", "one source"), ("all", "all sources")] {
        let start = || Host::start("count", 1, &["--events", events]);
        let cold = || {
            host::forget_machine_code();
            start()
        };
        let ready = |host: Host| {
            let after = host.ready_after.as_secs_f64() * 1e3;
            host.stop();
            after
        };
        row(&format!("ready after a cold start, {what}"), best(ROUNDS, || ready(cold()), |ms| *ms), "ms");
        row(&format!("  with machine code kept, {what}"), best(ROUNDS, || ready(start()), |ms| *ms), "ms");
    }
}

/// How long it takes with many plugins, of which none is another's copy.
fn start_many() {
    let ready = || {
        let host = Host::start_each("count", MANY, &["--events", "exec"]);
        let after = host.ready_after.as_secs_f64() * 1e3;
        host.stop();
        after
    };
    host::forget_machine_code();
    row(&format!("ready after a cold start, {MANY} plugins"), ready(), "ms");
    row("  with machine code kept", best(ROUNDS, ready, |ms| *ms), "ms");
}

/// Memory with more and more plugins.
fn memory() {
    let mut before = (0, 0);
    for plugins in LOADED {
        let host = Host::start("count", plugins, &["--events", "exec"]);
        let memory = measure::memory_kib(host.pid());
        row(&format!("memory with {plugins} plugins"), memory as f64 / 1024.0, "MiB");
        if before.0 > 0 {
            row("  each more", (memory as f64 - before.1 as f64) / (plugins - before.0) as f64, "KiB");
        }
        before = (plugins, memory);
        host.stop();
    }
}

/// What is taken while nothing happens.
fn idle() {
    // Nothing happens to whom is looked at, however busy the machine is otherwise.
    let host = Host::start("json-log", 1, &["--comm", "nobody-has-it"]);
    std::thread::sleep(SETTLES);
    let begun = measure::cpu_ns_of_threads(host.pid());
    std::thread::sleep(IDLE);
    // Threads that were needed for the start end meanwhile.
    let now = measure::cpu_ns_of_threads(host.pid());
    let taken: u64 = now.iter().map(|(thread, ns)| ns - begun.get(thread).unwrap_or(&0)).sum();
    let share = taken as f64 / IDLE.as_nanos() as f64;
    row("idle, json-log's sources, of one core", share * 100.0, "%");
    host.stop();
}
