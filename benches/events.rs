//! What an event costs on its way from the kernel's bytes into plugins, against a loop over those bytes in this process that does
//! the same work; and what a plugin's calls, instances and exchanges cost: `cargo bench --bench events`, after `make build`. CPU time
//! of all threads, so that it does not matter how many CPUs there are; the best of some rounds, to be read as ratios.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::hint::black_box;

use eunomia_host::dispatch::Only;
use eunomia_host::event::clock::Clock;
use eunomia_host::event::layout::bytes_of;
use eunomia_host::event::layout::c::{
    record_kind, syscall_flat, syscall_record, syscall_return_flat, syscall_return_record,
};
use eunomia_host::event::{Batch, Columns, decode};
use eunomia_host::plugin::{Limits, Settings};
use rustix::time::{ClockId, clock_gettime};
use support::line::Line;
use support::{plugin, resident_kib};

/// Events of a batch, how many batches are sent, and how many before all plugins have what came before.
const EVENTS: usize = 256;
const BATCHES: usize = 1_000;
const AT_ONCE: usize = 32;

/// The best of so many rounds counts.
const ROUNDS: usize = 5;

/// Instances and exchanges of a round.
const TIMES: usize = 1_000;

/// Numbers of system calls, as count has them.
const NUMBERS: usize = 1_024;

/// CPU time that this process has taken, in nanoseconds.
fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Nanoseconds of an event, where a round does all batches.
fn best(mut round: impl FnMut()) -> f64 {
    let time = |_| {
        let begun = cpu_ns();
        round();
        cpu_ns() - begun
    };
    (0..ROUNDS).map(time).fold(f64::MAX, f64::min) / (EVENTS * BATCHES) as f64
}

/// A system call as the kernel gives it.
fn syscall(at: u64) -> syscall_record {
    let comm = std::array::from_fn(|index| b"worker\0\0\0\0\0\0\0\0\0\0"[index] as i8);
    let flat = syscall_flat {
        time: 1_000_000 + at,
        start_time: 1_000,
        cgroup: 77,
        comm,
        pid: 1_234,
        tid: 1_235,
        ppid: 1,
        uid: 1_000,
        gid: 1_000,
        number: (at % 300) as u32,
        arg0: at,
        arg1: 2,
        arg2: 3,
        arg3: 4,
        arg4: 5,
        arg5: 6,
        abi: 0,
        padding: [0; 7],
    };
    syscall_record { kind: record_kind::RECORD_SYSCALL.0, length: size_of::<syscall_record>() as u32, flat }
}

/// The return of the same.
fn syscall_return(at: u64) -> syscall_return_record {
    let syscall_flat { time, start_time, cgroup, comm, pid, tid, ppid, uid, gid, number, abi, padding, .. } =
        syscall(at).flat;
    let (value, duration) = (0, 100);
    let flat = syscall_return_flat {
        time,
        start_time,
        cgroup,
        comm,
        pid,
        tid,
        ppid,
        uid,
        gid,
        number,
        value,
        duration,
        abi,
        padding,
    };
    let length = size_of::<syscall_return_record>() as u32;
    syscall_return_record { kind: record_kind::RECORD_SYSCALL_RETURN.0, length, flat }
}

/// A recorded event of a kind.
fn recorded(kind: record_kind) -> Vec<u8> {
    let mut rest = &include_bytes!("../tests/fixtures/process.records")[..];
    loop {
        let length = u32::from_le_bytes(rest[..4].try_into().expect("four bytes")) as usize;
        let bytes = &rest[4..4 + length];
        if decode::number(bytes) == Ok(kind) {
            return bytes.to_vec();
        }
        rest = &rest[4 + length..];
    }
}

/// What a plugin that counts does, natively, on the kernel's bytes.
fn count_natively(records: &[Vec<u8>]) -> [u64; NUMBERS] {
    let number_at = std::mem::offset_of!(syscall_record, flat) + std::mem::offset_of!(syscall_flat, number);
    let mut counts = [0; NUMBERS];
    for record in records {
        let number = u32::from_le_bytes(record[number_at..number_at + 4].try_into().expect("four bytes"));
        counts[(number as usize).min(NUMBERS - 1)] += 1;
    }
    counts
}

fn decoded(records: &[Vec<u8>], clock: &Clock) -> Columns {
    let mut columns = Columns::default();
    for record in records {
        eunomia_host::event::decode(record, clock, &mut columns).expect("it is a record");
    }
    columns
}

/// Sends all batches to so many plugins that count. Decoding, dispatching, lowering and the plugins' own work; starting them not.
fn delivered(records: &[Vec<u8>], plugins: usize) -> f64 {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a run time");
    let round = |_| {
        tokio.block_on(async {
            let line = Line::new();
            let limits = Limits { queue_events: (EVENTS * BATCHES) as u64, ..Default::default() };
            let settings = Settings { limits, ..Default::default() };
            let mut started = BTreeMap::new();
            for number in 0..plugins {
                let name: &'static str = Box::leak(format!("count-{number}").into_boxed_str());
                let (plugin, member) =
                    line.start_with((name, number), &plugin("count"), &settings, None).await.expect("it starts");
                line.join(member).await;
                started.insert(name, plugin);
            }
            let clock = Clock::new(0, 0);
            let begun = cpu_ns();
            for batch in 0..BATCHES {
                line.send(decoded(records, &clock)).await;
                if batch % AT_ONCE == 0 {
                    for plugin in started.values() {
                        plugin.queue.settled().await;
                    }
                }
            }
            let outcome = line.finish(started).await;
            let taken = cpu_ns() - begun;
            for kinds in outcome.kinds.values() {
                let delivered: u64 = kinds.values().map(|counts| counts.delivered).sum();
                assert_eq!(delivered, (EVENTS * BATCHES) as u64, "none is lost");
            }
            taken
        })
    };
    (0..ROUNDS).map(round).fold(f64::MAX, f64::min) / (EVENTS * BATCHES) as f64
}

/// The same of plugins of which each wants the events of its own cgroup alone, and events of so many cgroups in turn. What their end
/// takes, which is more than the events where there are many, is left out.
fn narrowed(plugins: usize, cgroups: usize) -> f64 {
    (narrowed_run(plugins, cgroups, BATCHES) - narrowed_run(plugins, cgroups, 0)) / (EVENTS * BATCHES) as f64
}

/// Nanoseconds of so many batches and the plugins' end.
fn narrowed_run(plugins: usize, cgroups: usize, batches: usize) -> f64 {
    let call = |at: u64| {
        let mut call = syscall(at);
        call.flat.cgroup = at % cgroups as u64;
        bytes_of(&call).to_vec()
    };
    let records: Vec<Vec<u8>> = (0..EVENTS as u64).map(call).collect();
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a run time");
    let round = |_| {
        tokio.block_on(async {
            let line = Line::new();
            let compiled = line.compile(&plugin("count")).expect("it compiles");
            let mut started = BTreeMap::new();
            for number in 0..plugins {
                let limits = Limits { queue_events: (EVENTS * BATCHES) as u64, ..Default::default() };
                let only = Only { cgroups: vec![number as u64], ..Default::default() };
                let settings = Settings { limits, only, ..Default::default() };
                let name: &'static str = format!("count-{number}").leak();
                let (plugin, member) = line.start_compiled(name, &compiled, &settings, None).await.expect("it starts");
                line.join(member).await;
                started.insert(name, plugin);
            }
            let clock = Clock::new(0, 0);
            let begun = cpu_ns();
            for _ in 0..batches {
                line.send(decoded(&records, &clock)).await;
            }
            let outcome = line.finish(started).await;
            let taken = cpu_ns() - begun;
            let counts = outcome.kinds.values().flat_map(|kinds| kinds.values());
            let delivered: u64 = counts.map(|counts| counts.delivered).sum();
            assert_eq!(delivered, (EVENTS * batches) as u64, "each goes to one plugin, and none is lost");
            taken
        })
    };
    (0..ROUNDS).map(round).fold(f64::MAX, f64::min)
}

/// Microseconds of an instance, from a component that is compiled; and of an exchange with one that runs.
fn starts() -> (f64, f64) {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a run time");
    let round = |exchanged: bool| {
        tokio.block_on(async {
            let line = Line::new();
            let compiled = line.compile(&plugin("count")).expect("it compiles");
            let settings = Settings::default();
            let mut started = BTreeMap::new();
            let names: Vec<&'static str> = (0..TIMES).map(|number| &*format!("count-{number}").leak()).collect();
            let begun = cpu_ns();
            for name in names {
                let before = if exchanged { started.values_mut().next() } else { None };
                let (plugin, member) =
                    line.start_compiled(name, &compiled, &settings, before).await.expect("it starts");
                line.join(member).await;
                match exchanged {
                    true => started = BTreeMap::from([("count", plugin)]),
                    false => _ = started.insert(name, plugin),
                }
            }
            let taken = cpu_ns() - begun;
            line.finish(started).await;
            taken / TIMES as f64 / 1e3
        })
    };
    let best = |exchanged| (0..ROUNDS).map(|_| round(exchanged)).fold(f64::MAX, f64::min);
    (best(false), best(true))
}

/// Prints what loaded plugins with the same bytes take, after an event for each; first of all, while no memory was freed before.
fn memory() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a run time");
    tokio.block_on(async {
        let line = Line::new();
        let mut started = BTreeMap::new();
        let records = [bytes_of(&syscall(1)).to_vec()];
        let compiled = line.compile(&plugin("count")).expect("it compiles");
        let before = resident_kib();
        for number in 0..TIMES {
            let name: &'static str = format!("count-{number}").leak();
            let (plugin, member) =
                line.start_compiled(name, &compiled, &Settings::default(), None).await.expect("it starts");
            line.join(member).await;
            started.insert(name, plugin);
            if [1, 100, TIMES].contains(&(number + 1)) {
                line.send(decoded(&records, &Clock::new(0, 0))).await;
                while !started.values().all(|plugin| plugin.queue.counts().values().any(|kind| kind.delivered > 0)) {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                let taken = resident_kib() - before;
                let each = taken as f64 / (number + 1) as f64;
                println!("{:<52}{each:>10.1} KiB", format!("memory of each of {} plugins", number + 1));
            }
        }
        line.finish(started).await;
    });
}

/// Prints a line: nanoseconds, and how many times what the same takes natively.
fn row(what: &str, ns: f64, native: f64) {
    println!("{what:<52}{ns:>10.1}{:>9.1}x", ns / native);
}

/// Flat events on their way, and plugins among which they are shared out.
fn flat(native: f64) {
    let records: Vec<Vec<u8>> = (0..EVENTS as u64).map(|at| bytes_of(&syscall(at)).to_vec()).collect();
    let clock = Clock::new(0, 0);
    let copied = best(|| (0..BATCHES).for_each(|_| drop(black_box(black_box(&records).concat()))));
    row("syscall: copy the kernel's bytes", copied, native);
    row("syscall: decode", best(|| (0..BATCHES).for_each(|_| drop(black_box(decoded(&records, &clock))))), native);
    let two_rings: Vec<Vec<u8>> = records.iter().step_by(2).chain(records.iter().skip(1).step_by(2)).cloned().collect();
    let cut = |records: &[Vec<u8>]| drop(black_box(Batch::cut(&mut decoded(records, &clock), u64::MAX)));
    row("syscall: decode, put two CPUs' events in order", best(|| (0..BATCHES).for_each(|_| cut(&two_rings))), native);
    let (one, ten) = (delivered(&records, 1), delivered(&records, 10));
    row("syscall: decode, deliver to a plugin that counts", one, native);
    row("syscall: each more plugin", (ten - one) / 9.0, native);
}

/// Plugins that each want what is of a cgroup.
fn shared_out(native: f64) {
    for plugins in [1, 10, 100, 1_000] {
        row(&format!("syscall: all for one of {plugins} plugins by its cgroup"), narrowed(plugins, 1), native);
    }
    for plugins in [10, 100, 1_000] {
        row(
            &format!("syscall: in turn for {plugins} plugins by cgroup"),
            narrowed(plugins, plugins.min(EVENTS)),
            native,
        );
    }
}

/// Events with strings.
fn strings(native: f64) {
    let clock = Clock::new(0, 0);
    for (what, kind) in [("exec", record_kind::RECORD_EXEC), ("exit", record_kind::RECORD_EXIT)] {
        let records = vec![recorded(kind); EVENTS];
        let decoding = best(|| (0..BATCHES).for_each(|_| drop(black_box(decoded(&records, &clock)))));
        row(&format!("{what}: decode"), decoding, native);
        let (one, ten) = (delivered(&records, 1), delivered(&records, 10));
        row(&format!("{what}: decode, deliver to a plugin that counts"), one, native);
        row(&format!("{what}: each more plugin"), (ten - one) / 9.0, native);
    }
}

/// Events of two kinds in turn, so that each is a call.
fn calls(native: f64) {
    let turns: Vec<Vec<u8>> = (0..EVENTS as u64)
        .map(|at| match at % 2 {
            0 => bytes_of(&syscall(at)).to_vec(),
            _ => bytes_of(&syscall_return(at)).to_vec(),
        })
        .collect();
    let (one, ten) = (delivered(&turns, 1), delivered(&turns, 10));
    row("a call with nothing in it, by the engine alone", empty_call(), native);
    row("a call for each event, kinds in turn", (ten - one) / 9.0, native);
}

/// An engine as the host has it.
fn engine() -> wasmtime::Engine {
    let mut config = wasmtime::Config::new();
    config.epoch_interruption(true).concurrency_support(false).gc_support(false);
    wasmtime::Engine::new(&config).expect("an engine")
}

/// Microseconds of an instance of the plugin that counts, and of its end, without the host.
fn bare_instance() -> f64 {
    #[derive(Default)]
    struct State(wasmtime_wasi::WasiCtx, wasmtime::component::ResourceTable);
    impl wasmtime_wasi::WasiView for State {
        fn ctx(&mut self) -> wasmtime_wasi::WasiCtxView<'_> {
            wasmtime_wasi::WasiCtxView { ctx: &mut self.0, table: &mut self.1 }
        }
    }
    let engine = engine();
    let component = wasmtime::component::Component::from_file(&engine, plugin("count")).expect("a component");
    let mut linker = wasmtime::component::Linker::<State>::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("WASI");
    linker.define_unknown_imports_as_traps(&component).expect("it calls none of the host's while it starts");
    let linked = linker.instantiate_pre(&component).expect("all is there");
    let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a run time");
    let round = || {
        let begun = cpu_ns();
        for _ in 0..TIMES {
            let mut store = wasmtime::Store::new(&engine, State::default());
            store.epoch_deadline_async_yield_and_update(1);
            store.set_epoch_deadline(1);
            tokio.block_on(linked.instantiate_async(&mut store)).expect("an instance");
        }
        (cpu_ns() - begun) / TIMES as f64 / 1e3
    };
    (0..ROUNDS).map(|_| round()).fold(f64::MAX, f64::min)
}

/// A call of a plugin that does nothing, without the host: what no host can go below with this engine.
fn empty_call() -> f64 {
    let engine = engine();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/plugin/ticks");
    let component = wasmtime::component::Component::from_file(&engine, file).expect("a component");
    let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a run time");
    tokio.block_on(async {
        let mut store = wasmtime::Store::new(&engine, ());
        store.epoch_deadline_async_yield_and_update(1);
        store.set_epoch_deadline(1);
        let linker = wasmtime::component::Linker::new(&engine);
        let plugin = linker.instantiate_async(&mut store, &component).await.expect("an instance");
        let interface = plugin.get_export_index(&mut store, None, "eunomia:plugin/on-tick@0.1.0").expect("it ticks");
        let handle = plugin.get_export_index(&mut store, Some(&interface), "handle").expect("it ticks");
        let handle = plugin.get_typed_func::<(u64, u64), ()>(&mut store, handle).expect("of that type");
        let mut taken = f64::MAX;
        for _ in 0..ROUNDS {
            let begun = cpu_ns();
            for _ in 0..EVENTS * BATCHES {
                handle.call_async(&mut store, (1, 2)).await.expect("it returns");
            }
            taken = taken.min(cpu_ns() - begun);
        }
        taken / (EVENTS * BATCHES) as f64
    })
}

/// Instances and exchanges.
fn starting(_native: f64) {
    let (instance, exchange) = starts();
    println!("{:<52}{:>10.1} us", "an instance and its end, by the engine alone", bare_instance());
    println!("{:<52}{instance:>10.1} us", "an instance of a plugin that is compiled");
    println!("{:<52}{exchange:>10.1} us", "an exchange of a plugin with the same");
}

/// Measures something, and compares it with what the same takes natively.
type Part = fn(f64);

/// What is measured, by name: all of it, or what the command line says.
const PARTS: [(&str, Part); 5] =
    [("flat", flat), ("shared-out", shared_out), ("strings", strings), ("calls", calls), ("starts", starting)];

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    if wanted("memory") {
        memory();
    }
    let records: Vec<Vec<u8>> = (0..EVENTS as u64).map(|at| bytes_of(&syscall(at)).to_vec()).collect();
    let native = best(|| (0..BATCHES).for_each(|_| _ = black_box(count_natively(black_box(&records)))));
    println!("{:<52}{:>10}{:>10}", "ns an event, in batches of 256", "", "native");
    row("syscall: count the kernel's bytes natively", native, native);
    PARTS.iter().filter(|(name, _)| wanted(name)).for_each(|(_, measure)| measure(native));
}
