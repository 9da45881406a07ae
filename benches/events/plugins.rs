//! Plugins that are fed with events, that start, and that the engine has alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use eunomia_host::dispatch::Only;
use eunomia_host::event::clock::Clock;
use eunomia_host::event::layout::bytes_of;
use eunomia_host::plugin::{Compiled, Limits, Plugin, Settings};
use tokio::runtime::Runtime;
use wasmtime::component::{Component, ComponentNamedList, InstancePre, Linker, Lower, ResourceTable};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::cpu_time;
use crate::records::{decoded, syscall};
use crate::support::line::Line;
use crate::support::{plugin, resident_kib};

/// Events of a batch, and how many batches are sent before all plugins have what came before.
pub const EVENTS: usize = 256;
const AT_ONCE: u64 = 32;

/// Instances that the engine alone starts before they end. Its pool has a thousand memories, and a component some five parts.
const SIDE_BY_SIDE: u64 = 100;

/// Plugins whose memory is measured.
const TIMES: usize = 1_000;

pub fn tokio() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a run time")
}

/// Waits until plugins have handled what has come to them.
async fn handled(plugins: &BTreeMap<&'static str, Plugin>) {
    for plugin in plugins.values() {
        plugin.queue.settled().await;
    }
}

/// Plugins that count, and what was sent to them.
pub struct Fed {
    tokio: Runtime,
    line: Line,
    started: BTreeMap<&'static str, Plugin>,
    sent: u64,
}

impl Fed {
    /// So many plugins, each narrowed to what is said of its number.
    pub fn start(plugins: usize, only: fn(usize) -> Only) -> Self {
        let tokio = tokio();
        let (line, started) = tokio.block_on(async {
            let line = Line::new();
            let compiled = line.compile(&plugin("count")).expect("it compiles");
            let mut started = BTreeMap::new();
            for number in 0..plugins {
                let limits = Limits { queue_events: AT_ONCE * 2 * EVENTS as u64, ..Default::default() };
                let settings = Settings { limits, only: only(number), ..Default::default() };
                let name: &'static str = format!("count-{number}").leak();
                let (plugin, member) = line.start_compiled(name, &compiled, &settings, None).await.expect("it starts");
                line.join(member).await;
                started.insert(name, plugin);
            }
            (line, started)
        });
        Fed { tokio, line, started, sent: 0 }
    }

    /// Sends so many batches. What it takes to decode, dispatch and lower them, and the plugins' own work.
    pub fn send(&mut self, records: &[Vec<u8>], batches: u64) -> Duration {
        let Fed { tokio, line, started, sent } = self;
        let clock = Clock::new(0, 0);
        tokio.block_on(async {
            let begun = cpu_time();
            for batch in 1..=batches {
                line.send(decoded(records, &clock)).await;
                *sent += EVENTS as u64;
                if batch % AT_ONCE == 0 {
                    handled(started).await;
                }
            }
            line.dispatched(*sent).await;
            handled(started).await;
            cpu_time() - begun
        })
    }

    /// Ends the plugins, of which so many were to have each event.
    pub fn finish(self, each: usize) {
        let Fed { tokio, line, started, sent } = self;
        let outcome = tokio.block_on(line.finish(started));
        let counts = outcome.kinds.values().flat_map(|kinds| kinds.values());
        let delivered: u64 = counts.map(|counts| counts.delivered).sum();
        assert_eq!(delivered, sent * each as u64, "none is lost");
    }
}

/// A plugin that is compiled, to be started often.
pub struct Starting {
    tokio: Runtime,
    line: Line,
    compiled: Compiled,
}

impl Starting {
    pub fn new() -> Self {
        let tokio = tokio();
        let (line, compiled) = tokio.block_on(async {
            let line = Line::new();
            let compiled = line.compile(&plugin("count")).expect("it compiles");
            (line, compiled)
        });
        Starting { tokio, line, compiled }
    }

    /// Starts so many instances, or exchanges one as often. What that takes without their end.
    pub fn start(&mut self, times: u64, exchanged: bool) -> Duration {
        let Starting { tokio, line, compiled } = self;
        tokio.block_on(async {
            let settings = Settings::default();
            let names: Vec<String> = (0..times).map(|number| format!("count-{number}")).collect();
            let mut started = Vec::new();
            let begun = cpu_time();
            for name in &names {
                let before = if exchanged { started.last_mut() } else { None };
                let name = if exchanged { "count" } else { name };
                let (plugin, member) = line.start_compiled(name, compiled, &settings, before).await.expect("it starts");
                line.join(member).await;
                started.push(plugin);
            }
            let taken = cpu_time() - begun;
            for plugin in started {
                line.leave(plugin).await;
            }
            taken
        })
    }
}

/// Prints what loaded plugins with the same bytes take, after an event for each; first of all, while no memory was freed before.
pub fn memory() {
    tokio().block_on(async {
        let line = Line::new();
        let mut started = BTreeMap::new();
        let records = [bytes_of(&syscall(1)).to_vec()];
        let compiled = line.compile(&plugin("count")).expect("it compiles");
        let mut sent = 0;
        let before = resident_kib();
        for number in 0..TIMES {
            let name: &'static str = format!("count-{number}").leak();
            let (plugin, member) =
                line.start_compiled(name, &compiled, &Settings::default(), None).await.expect("it starts");
            line.join(member).await;
            started.insert(name, plugin);
            if [1, 100, TIMES].contains(&(number + 1)) {
                line.send(decoded(&records, &Clock::new(0, 0))).await;
                sent += 1;
                line.dispatched(sent).await;
                handled(&started).await;
                let taken = resident_kib() - before;
                let each = taken as f64 / (number + 1) as f64;
                println!("{:<52}{each:>10.1} KiB", format!("memory of each of {} plugins", number + 1));
            }
        }
        line.finish(started).await;
    });
}

/// An engine as the host has it.
fn engine() -> Engine {
    let mut config = Config::new();
    config.epoch_interruption(true).concurrency_support(false).gc_support(false);
    Engine::new(config.allocation_strategy(InstanceAllocationStrategy::pooling())).expect("an engine")
}

/// What the engine keeps for a plugin.
#[derive(Default)]
struct State(WasiCtx, ResourceTable);

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.0, table: &mut self.1 }
    }
}

/// A plugin for the engine alone: what no host can go below.
pub struct Bare {
    tokio: Runtime,
    linked: InstancePre<State>,
}

impl Bare {
    pub fn of(component: &Path) -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a run time");
        let engine = engine();
        let component = Component::from_file(&engine, component).expect("a component");
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("WASI");
        linker.define_unknown_imports_as_traps(&component).expect("it calls none of the host's while it starts");
        Bare { tokio, linked: linker.instantiate_pre(&component).expect("all is there") }
    }

    fn store(&self) -> Store<State> {
        let mut store = Store::new(self.linked.engine(), State::default());
        store.epoch_deadline_async_yield_and_update(1);
        store.set_epoch_deadline(1);
        store
    }

    /// Starts so many instances, some at a time side by side. What that takes without their end.
    pub fn start(&self, mut times: u64) -> Duration {
        let mut taken = Duration::ZERO;
        while times > 0 {
            let side_by_side = times.min(SIDE_BY_SIDE);
            let begun = cpu_time();
            let started: Vec<_> = (0..side_by_side)
                .map(|_| {
                    let mut store = self.store();
                    self.tokio.block_on(self.linked.instantiate_async(&mut store)).expect("an instance");
                    store
                })
                .collect();
            taken += cpu_time() - begun;
            drop(started);
            times -= side_by_side;
        }
        taken
    }

    /// So many calls of a plugin's interface, each with the same.
    pub fn call<P>(&self, interface: &str, parameters: P, times: u64) -> Duration
    where
        P: ComponentNamedList + Lower + Copy + Send + Sync + 'static,
    {
        self.tokio.block_on(async {
            let mut store = self.store();
            let plugin = self.linked.instantiate_async(&mut store).await.expect("an instance");
            let name = format!("eunomia:plugin/{interface}@0.1.0");
            let interface = plugin.get_export_index(&mut store, None, &name).expect("it exports that");
            let handle = plugin.get_export_index(&mut store, Some(&interface), "handle").expect("it handles that");
            let handle = plugin.get_typed_func::<P, ()>(&mut store, handle).expect("of that type");
            let begun = cpu_time();
            for _ in 0..times {
                handle.call_async(&mut store, parameters).await.expect("it returns");
            }
            cpu_time() - begun
        })
    }
}
