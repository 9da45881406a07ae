//! What a plugin may call: alerts, processes, containers, and WASI with what the operator granted. It knows the interface and
//! the front doors that answer, not where output goes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::Settings;
use super::allowance::{Allowance, refuse};
use super::http::{Connect, Http};
use super::life::CallCounts;
use super::limits::{Limiter, bounded};
use super::streams::{LogStream, PrintStream};
use crate::dispatch::{AlertInbox, Containers, Processes};
use crate::event::alert_bytes;
use crate::output::Output;
use crate::wit::syscall::Abi;
use crate::wit::{alerts, container_registry, containers, metrics, processes, syscalls, types};

/// The most random bytes a plugin may ask for in one call; a hash seed needs 16.
const MAX_RANDOM_BYTES: u64 = 4096;

/// The most memory that the headers of one HTTP request or answer may take.
const MAX_HEADERS_BYTES: usize = 64 << 10;

/// The front doors that plugins' host calls lead to.
#[derive(Clone)]
pub struct Outlets {
    /// Standard output, and the host's log.
    pub output: Output,
    /// Where alerts go on their way to the plugins that want them.
    pub inbox: AlertInbox,
    /// The process table.
    pub processes: Arc<Processes>,
    /// The containers.
    pub containers: Arc<Containers>,
    /// Connects to servers that were granted.
    pub connect: Connect,
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
    pub(super) counts: Arc<CallCounts>,
    alerts: Allowance,
    alerts_per_second: u64,
    alert_bytes: usize,
    /// How many metrics of its own it may have.
    most_metrics: u64,
    pub(super) print: PrintStream,
    wasi: WasiCtx,
    http: Http,
    http_context: WasiHttpCtx,
    table: ResourceTable,
}

impl State {
    pub(super) fn new(
        plugin: Arc<str>,
        outlets: Outlets,
        limiter: Limiter,
        counts: Arc<CallCounts>,
        (settings, http): (&Settings, Http),
    ) -> Result<Self> {
        let mut table = ResourceTable::new();
        let (limits, grants) = (&settings.limits, &settings.grants);
        table.set_max_capacity(bounded(limits.handles));
        let print = PrintStream::new(outlets.output.clone());
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(print.clone())
            .stderr(LogStream::new(plugin.clone(), outlets.output.clone(), limits, counts.log_lines_lost.clone()))
            .max_random_size(MAX_RANDOM_BYTES)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        for folder in &grants.folders {
            let path = folder.display().to_string();
            // An engine that is not installed is no reason to do without the plugin.
            if let Err(error) = wasi.preopened_dir(folder, &path, FsPerms::ReadOnly) {
                log::warn!(
                    "plugin {plugin}: the folder {path}, granted by its settings, cannot be opened: {error:#}. The plugin \
                     runs without it; where it comes later, grant the one above it or load the plugin again"
                );
            }
        }
        let mut http_context = WasiHttpCtx::new();
        http_context.set_field_size_limit(MAX_HEADERS_BYTES);
        Ok(State {
            plugin,
            outlets,
            limiter,
            slices_left: 0,
            handles_alerts: false,
            counts,
            alerts: Allowance::new(limits.alerts_per_second),
            alerts_per_second: limits.alerts_per_second,
            alert_bytes: bounded(limits.alert_bytes),
            most_metrics: limits.metrics,
            print,
            wasi: wasi.build(),
            http,
            http_context,
            table,
        })
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http_context, table: &mut self.table, hooks: &mut self.http }
    }
}

/// Interfaces that are imported for their types alone.
macro_rules! types_alone {
    ($($interface:ident),*) => { $(impl crate::wit::$interface::Host for State {})* };
}

types_alone!(types, process, syscall, files, tcp, ipc, seccomp, cgroup, gaps);

impl alerts::Host for State {
    async fn raise(&mut self, alert: alerts::Alert) {
        let lost = &self.counts.alerts_lost;
        if alert_bytes(&alert) > self.alert_bytes {
            let what = format!("alerts of more than {} bytes", self.alert_bytes);
            return refuse(lost, &self.plugin, &what, "alert_bytes");
        }
        if !self.alerts.take(1) {
            let what = format!("more alerts than {} in a second", self.alerts_per_second);
            return refuse(lost, &self.plugin, &what, "alerts_per_second");
        }
        self.counts.alerts.fetch_add(1, Ordering::Relaxed);
        let time = crate::event::now();
        let raised = alerts::RaisedAlert { time, plugin: self.plugin.to_string(), alert };
        let container = raised.alert.task.as_ref().and_then(|task| self.outlets.containers.lookup(task.cgroup));
        self.outlets.output.alert(&raised, container.as_deref()).await;
        if !self.handles_alerts {
            self.outlets.inbox.put(raised);
        }
    }
}

impl State {
    /// Counts what of its metrics is refused, and tells of the first.
    fn metric(&self, answer: Result<(), String>) -> Result<(), String> {
        if let Err(reason) = &answer
            && self.counts.metrics.refused.fetch_add(1, Ordering::Relaxed) == 0
        {
            log::warn!("plugin {}: a metric is refused, as all like it will be: {reason}", self.plugin);
        }
        answer
    }
}

impl metrics::Host for State {
    fn add(&mut self, name: String, labels: Vec<metrics::Label>, amount: u64) -> Result<(), String> {
        self.metric(self.counts.metrics.add(name, labels, amount, self.most_metrics))
    }

    fn set(&mut self, name: String, labels: Vec<metrics::Label>, value: f64) -> Result<(), String> {
        self.metric(self.counts.metrics.set(name, labels, value, self.most_metrics))
    }

    fn observe(&mut self, name: String, labels: Vec<metrics::Label>, value: f64) -> Result<(), String> {
        self.metric(self.counts.metrics.observe(name, labels, value, self.most_metrics))
    }

    fn bound(&mut self, name: String, bounds: Vec<f64>) -> Result<(), String> {
        self.metric(self.counts.metrics.bound(name, bounds))
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

impl containers::Host for State {
    fn lookup(&mut self, cgroup: u64) -> Option<containers::Container> {
        self.outlets.containers.lookup(cgroup).map(|found| (*found).clone())
    }

    fn lookup_pid(&mut self, pid: u32) -> Option<containers::Container> {
        self.outlets.containers.lookup_pid(pid).map(|found| (*found).clone())
    }

    fn generation(&mut self) -> u64 {
        self.outlets.containers.generation()
    }
}

/// For plugins that are granted it: others are refused when they are loaded.
impl container_registry::Host for State {
    fn existing(&mut self) -> Vec<container_registry::Cgroup> {
        self.outlets.containers.walk()
    }

    fn put(&mut self, container: containers::Container) {
        self.outlets.containers.put(container);
    }

    fn remove(&mut self, cgroup: u64) {
        self.outlets.containers.remove(cgroup);
    }
}
