//! What an event costs on its way from the kernel's bytes into plugins, against a loop over those bytes in this process that does
//! the same work; and what a plugin's calls, instances and exchanges cost: `cargo bench --bench events`, after `make build`. CPU time
//! of all threads, so that it does not matter how many CPUs there are. Criterion says how sure each figure is and how it differs from
//! the run before, and takes a part of a name to measure that alone; the table at the end has the medians, to be read as ratios.

mod plugins;
mod records;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, SamplingMode, Throughput};
use eunomia_host::dispatch::Only;
use eunomia_host::event::Batch;
use eunomia_host::event::clock::Clock;
use eunomia_host::event::layout::bytes_of;
use eunomia_host::wit::syscall::Syscall;
use plugins::{Bare, EVENTS, Fed, Starting};
use records::{count_natively, decoded, syscall, syscall_return, with_strings};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use support::plugin;
use wasmtime::component::{ComponentType, Lower};

/// How often each thing is measured, how long in all, and how long before that.
const SAMPLES: usize = 20;
const MEASURING: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(500);

/// CPU time that this process has taken.
struct CpuTime;

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, begun: Duration) -> Duration {
        cpu_time() - begun
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, taken: &Duration) -> f64 {
        taken.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// What is measured, and the table of it.
struct Bench {
    criterion: Criterion<CpuTime>,
    /// What the same takes natively, in nanoseconds an event; none where that is not measured.
    native: Option<f64>,
    table: Vec<String>,
}

impl Bench {
    /// Measures what is told how often to do something, of which each time is so many elements, between what is not measured.
    /// Nanoseconds of an element, or none where the command line asks for other things.
    fn measure<S>(
        &mut self,
        (group, name): (&str, &str),
        elements: usize,
        set_up: impl Fn() -> S,
        mut routine: impl FnMut(&mut S, u64) -> Duration,
        end: impl FnOnce(S),
    ) -> Option<f64> {
        let mut ready = None;
        let mut benchmarks = self.criterion.benchmark_group(group);
        benchmarks.throughput(Throughput::Elements(elements as u64)).sampling_mode(SamplingMode::Flat);
        benchmarks.bench_function(name, |bencher| {
            let ready = ready.get_or_insert_with(&set_up);
            bencher.iter_custom(|times| routine(ready, times));
        });
        benchmarks.finish();
        ready.map(|ready| {
            end(ready);
            median(group, name) / elements as f64
        })
    }

    /// The same of what this thread does with a batch.
    fn batch(&mut self, group: &str, name: &str, mut what: impl FnMut()) -> Option<f64> {
        let routine = |(): &mut (), times| {
            let begun = cpu_time();
            (0..times).for_each(|_| what());
            cpu_time() - begun
        };
        self.measure((group, name), EVENTS, || (), routine, drop)
    }

    /// Puts nanoseconds into the table, and how many times what the same takes natively.
    fn row(&mut self, what: &str, ns: Option<f64>) {
        let Some(ns) = ns else { return };
        let ratio = self.native.map(|native| format!("{:>9.1}x", ns / native)).unwrap_or_default();
        self.table.push(format!("{what:<64}{ns:>10.1} ns{ratio}"));
    }

    /// What is delivered to one plugin, and to each more on the same batch.
    fn delivered(&mut self, group: &str, records: &[Vec<u8>]) -> (Option<f64>, Option<f64>) {
        let mut to = |plugins, name| {
            let set_up = || Fed::start(plugins, |_| Only::default());
            self.measure(
                (group, name),
                EVENTS,
                set_up,
                |fed, times| fed.send(records, times),
                |fed| fed.finish(plugins),
            )
        };
        let (one, ten) = (to(1, "deliver to one"), to(10, "deliver to ten"));
        (one, one.zip(ten).map(|(one, ten)| (ten - one) / 9.0))
    }

    /// The same to so many plugins of which each wants its own cgroup, and events of so many cgroups in turn.
    fn narrowed(&mut self, name: &str, plugins: usize, cgroups: usize) {
        let call = |at: u64| {
            let mut call = syscall(at);
            call.flat.cgroup = at % cgroups as u64;
            bytes_of(&call).to_vec()
        };
        let records: Vec<Vec<u8>> = (0..EVENTS as u64).map(call).collect();
        let set_up = || Fed::start(plugins, |number| Only { cgroups: vec![number as u64], ..Default::default() });
        let send = |fed: &mut Fed, times| fed.send(&records, times);
        let ns = self.measure(("narrowed", name), EVENTS, set_up, send, |fed| fed.finish(1));
        self.row(&format!("syscall: {name}"), ns);
    }

    /// Flat events on their way.
    fn flat(&mut self) {
        let records: Vec<Vec<u8>> = (0..EVENTS as u64).map(|at| bytes_of(&syscall(at)).to_vec()).collect();
        let clock = Clock::new(0, 0);
        self.native = self.batch("syscall", "native", || _ = black_box(count_natively(black_box(&records))));
        self.row("syscall: count the kernel's bytes natively", self.native);
        let copied = self.batch("syscall", "copy", || drop(black_box(black_box(&records).concat())));
        self.row("syscall: copy the kernel's bytes", copied);
        let decoding = self.batch("syscall", "decode", || drop(black_box(decoded(&records, &clock))));
        self.row("syscall: decode", decoding);
        let two_rings: Vec<Vec<u8>> =
            records.iter().step_by(2).chain(records.iter().skip(1).step_by(2)).cloned().collect();
        let cut = || drop(black_box(Batch::cut(&mut decoded(&two_rings, &clock), u64::MAX)));
        let in_order = self.batch("syscall", "merge", cut);
        self.row("syscall: decode, put two CPUs' events in order", in_order);
        let (one, more) = self.delivered("syscall", &records);
        self.row("syscall: decode, deliver to a plugin that counts", one);
        self.row("syscall: each more plugin", more);
        let calls: Vec<Syscall> = decoded(&records, &clock).syscall.iter().map(Syscall::from).collect();
        self.engine_alone("syscall", calls.leak());
    }

    /// Events with strings.
    fn strings(&mut self) {
        let clock = Clock::new(0, 0);
        let kinds = with_strings();
        let mut each_more = Vec::new();
        for (group, record) in &kinds {
            let records = vec![record.clone(); EVENTS];
            let decoding = self.batch(group, "decode", || drop(black_box(decoded(&records, &clock))));
            self.row(&format!("{group}: decode"), decoding);
            let (one, more) = self.delivered(group, &records);
            self.row(&format!("{group}: decode, deliver to a plugin that counts"), one);
            self.row(&format!("{group}: each more plugin"), more);
            each_more.extend(more);
        }
        if each_more.len() == kinds.len() {
            let mean = each_more.iter().sum::<f64>() / kinds.len() as f64;
            self.row(&format!("kinds with strings: each more plugin, mean of {}", kinds.len()), Some(mean));
        }
        let [(exec, record), ..] = kinds;
        self.engine_alone(exec, decoded(&vec![record; EVENTS], &clock).exec.leak());
    }

    /// What the engine takes alone, with lowering as it derives it, of events that are decoded.
    fn engine_alone<E>(&mut self, group: &str, events: &'static [E])
    where
        E: ComponentType + Lower + Send + Sync,
    {
        let count = || Bare::of(&plugin("count"));
        let call = |bare: &mut Bare, times| bare.call(&format!("on-{group}"), (events,), times);
        let taken = self.measure((group, "engine alone"), EVENTS, count, call, drop);
        self.row(&format!("{group}: to a plugin that counts, by the engine alone"), taken);
    }

    /// Calls, with nothing in them and with an event of two kinds in turn.
    fn calls(&mut self) {
        let ticks = || Bare::of(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/plugin/ticks").as_ref());
        let call = |bare: &mut Bare, times| bare.call("on-tick", (1u64, 2u64), times);
        let empty = self.measure(("call", "engine alone"), 1, ticks, call, drop);
        self.row("a call with nothing in it, by the engine alone", empty);
        let turns: Vec<Vec<u8>> = (0..EVENTS as u64)
            .map(|at| match at % 2 {
                0 => bytes_of(&syscall(at)).to_vec(),
                _ => bytes_of(&syscall_return(at)).to_vec(),
            })
            .collect();
        let (_, more) = self.delivered("call", &turns);
        self.row("a call for each event, kinds in turn", more);
    }

    /// Instances and exchanges.
    fn starts(&mut self) {
        let count = || Bare::of(&plugin("count"));
        let alone = self.measure(("instance", "engine alone"), 1, count, |bare, times| bare.start(times), drop);
        self.row("an instance of a plugin that is compiled, by the engine alone", alone);
        for (name, what, exchanged) in [
            ("start", "an instance of a plugin that is compiled", false),
            ("exchange", "an exchange of a plugin with the same", true),
        ] {
            let start = |starting: &mut Starting, times| starting.start(times, exchanged);
            let taken = self.measure(("instance", name), 1, Starting::new, start, drop);
            self.row(what, taken);
        }
    }
}

/// What criterion has found of a benchmark: the median of its samples, in nanoseconds.
fn median(group: &str, name: &str) -> f64 {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("criterion").join(group).join(name);
    let text = fs::read_to_string(file.join("new/estimates.json")).expect("criterion keeps its estimates");
    let estimates: Value = serde_json::from_str(&text).expect("they are JSON");
    estimates["median"]["point_estimate"].as_f64().expect("a number")
}

fn main() {
    // Where a part of it all is asked for, it is of what follows.
    if std::env::args().skip(1).all(|arg| arg.starts_with("--")) {
        plugins::memory();
    }
    let criterion = Criterion::default().with_measurement(CpuTime).configure_from_args();
    let criterion = criterion.sample_size(SAMPLES).measurement_time(MEASURING).warm_up_time(WARM_UP);
    let mut bench = Bench { criterion, native: None, table: Vec::new() };
    bench.flat();
    for plugins in [1, 10, 100, 1_000] {
        bench.narrowed(&format!("all for one of {plugins} plugins by its cgroup"), plugins, 1);
    }
    for plugins in [10, 100, 1_000] {
        bench.narrowed(&format!("in turn for {plugins} plugins by cgroup"), plugins, plugins.min(EVENTS));
    }
    bench.strings();
    bench.calls();
    bench.starts();
    println!("{:<64}{:>13}{:>10}", "an event in batches of 256, a call, an instance", "CPU time", "native");
    bench.table.iter().for_each(|row| println!("{row}"));
}
