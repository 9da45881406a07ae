//! What a plugin may call: alerts, processes, and WASI with nothing granted. It knows the interface and the front doors
//! that answer, not where output goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::limits::Limiter;
use super::streams::{LogStream, PrintStream};
use crate::dispatch::{AlertInbox, Processes};
use crate::output::Output;
use crate::wit::syscall::Abi;
use crate::wit::{alerts, processes, syscalls, types};

/// The most random bytes a plugin may ask for in one call; a hash seed needs 16.
const MAX_RANDOM_BYTES: u64 = 4096;

/// The most handles (streams, pollables) a plugin may hold at once; a language's run time needs about ten.
const MAX_HANDLES: usize = 256;

/// The front doors that plugins' host calls lead to.
#[derive(Clone)]
pub struct Outlets {
    /// Standard output, and the host's log.
    pub output: Output,
    /// Where alerts go on their way to the plugins that want them.
    pub inbox: AlertInbox,
    /// The process table.
    pub processes: Arc<Processes>,
}

/// What the host keeps beside an instance.
pub struct State {
    pub(super) plugin: Arc<str>,
    pub(super) outlets: Outlets,
    pub(super) limiter: Limiter,
    /// Slices that the current call may still run.
    pub(super) slices_left: u64,
    /// The current call handles alerts, so those it raises are not delivered to plugins again.
    pub(super) handles_alerts: bool,
    pub(super) alerts_raised: Arc<AtomicU64>,
    /// Calls that run now, of all plugins.
    pub(super) running: Arc<AtomicUsize>,
    pub(super) print: PrintStream,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl State {
    pub(super) fn new(
        plugin: Arc<str>,
        outlets: Outlets,
        limiter: Limiter,
        alerts_raised: Arc<AtomicU64>,
        running: Arc<AtomicUsize>,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        let print = PrintStream::new(outlets.output.clone());
        let wasi = WasiCtxBuilder::new()
            .stdout(print.clone())
            .stderr(LogStream::new(plugin.clone(), outlets.output.clone()))
            .max_random_size(MAX_RANDOM_BYTES)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        State {
            plugin,
            outlets,
            limiter,
            slices_left: 0,
            handles_alerts: false,
            alerts_raised,
            running,
            print,
            wasi,
            table,
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Interfaces that are imported for their types alone.
macro_rules! types_alone {
    ($($interface:ident),*) => { $(impl crate::wit::$interface::Host for State {})* };
}

types_alone!(types, process, syscall, files, tcp, ipc, seccomp, cgroup);

impl alerts::Host for State {
    async fn raise(&mut self, alert: alerts::Alert) {
        self.alerts_raised.fetch_add(1, Ordering::Relaxed);
        let time = crate::event::now();
        let raised = alerts::RaisedAlert { time, plugin: self.plugin.to_string(), alert };
        self.outlets.output.alert(&raised).await;
        if !self.handles_alerts {
            self.outlets.inbox.put(raised);
        }
    }
}

impl syscalls::Host for State {
    fn name(&mut self, abi: Abi, number: u32) -> Option<String> {
        crate::event::syscall_name(abi, number).map(str::to_owned)
    }

    fn number(&mut self, abi: Abi, name: String) -> Option<u32> {
        crate::event::syscall_number(abi, &name)
    }
}

impl processes::Host for State {
    fn lookup(&mut self, pid: u32, start_time: Option<types::Timestamp>) -> Option<processes::Process> {
        self.outlets.processes.lookup(pid, start_time)
    }
}
