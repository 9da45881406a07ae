//! What is measured, gathered for whoever asks: the same figures as at the end of a run, while it goes on.

use std::collections::BTreeMap;
use std::fs;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;

use super::summary::{PluginSummary, SourceSummary, sources};
use crate::dispatch::{AlertInbox, DispatchCounts, Dispatched, Where};
use crate::event::Kind;
use crate::output::{Family, Label, Sample, Value};
use crate::plugin::{INTERFACE_VERSION, Plugin};
use crate::source::{Poller, SourceCounts, SourceState, State};

/// How long the thread that reads the rings may take to say what it has counted: it waits for plugins that tell of containers.
const COUNT_TIME: Duration = Duration::from_secs(2);

/// Where /proc/PID/stat has the CPU time of a process in user mode and in the kernel, counted from behind its name, and in which unit.
const CPU_TIMES: std::ops::Range<usize> = 11..13;
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time that another process has taken, in seconds.
fn cpu_of(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(CPU_TIMES)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    Some(ticks as f64 / TICKS_PER_SECOND)
}

/// Metrics, by name.
#[derive(Default)]
struct Families(BTreeMap<&'static str, Family>);

impl Families {
    fn put(&mut self, name: &'static str, help: &'static str, labels: Vec<Label>, value: Value) {
        let family = self.0.entry(name).or_insert_with(|| Family { name, help, samples: Vec::new() });
        family.samples.push(Sample { labels, value });
    }

    fn count(&mut self, name: &'static str, help: &'static str, labels: Vec<Label>, count: u64) {
        self.put(name, help, labels, Value::Counter(count));
    }
}

fn label(name: &'static str, value: impl Into<String>) -> Label {
    (name.into(), value.into().into())
}

fn with(labels: &[Label], name: &'static str, value: impl Into<String>) -> Vec<Label> {
    labels.iter().cloned().chain([label(name, value)]).collect()
}

/// What is known of plugins: at the same moment of each, and before their events' sources, so that those have seen no less.
pub struct Figures(Families);

impl Figures {
    pub fn new() -> Self {
        let mut all = Families::default();
        let labels = vec![label("version", env!("CARGO_PKG_VERSION")), label("interface", INTERFACE_VERSION)];
        all.put(
            "eunomia_build_info",
            "The host's version, and that of the plugin interface.",
            labels,
            Value::Gauge(1.0),
        );
        Figures(all)
    }

    /// A plugin that runs.
    pub fn add_running(&mut self, plugin: &Plugin) {
        let Figures(all) = self;
        let labels = [label("plugin", &*plugin.name)];
        let state = with(&labels, "state", plugin.state());
        all.put("eunomia_plugin_state", "What a plugin is doing; 1 for its state.", state, Value::Gauge(1.0));
        let memory = plugin.counts.memory_bytes.load(Ordering::Relaxed) as f64;
        let help = "Memories and tables of a plugin.";
        all.put("eunomia_plugin_memory_bytes", help, labels.to_vec(), Value::Gauge(memory));
        for ((name, own), value) in plugin.counts.metrics.all() {
            let (family, help) = match value {
                Value::Counter(_) | Value::Sum(_) => ("eunomia_plugin_own", "Counters of plugins' own, by name."),
                Value::Gauge(_) => ("eunomia_plugin_own_value", "Gauges of plugins' own, by name."),
                Value::Histogram { .. } => ("eunomia_plugin_own_observations", "Histograms of plugins' own, by name."),
            };
            let own = own.into_iter().map(|(name, value)| (name.into(), value.into()));
            all.put(family, help, with(&labels, "name", name).into_iter().chain(own).collect(), value);
        }
    }

    /// What plugins of a name did so far, all versions together.
    pub fn add_plugin(&mut self, name: &str, plugin: &PluginSummary) {
        let Figures(all) = self;
        let labels = [label("plugin", name)];
        for (kind, counts) in &plugin.kinds {
            let labels = with(&labels, "kind", *kind);
            let help = "Events that came for a plugin: filtered, delivered, lost or waiting.";
            all.count("eunomia_plugin_seen_events", help, labels.clone(), counts.seen);
            let help = "Events that filters dropped before a plugin.";
            all.count("eunomia_plugin_filtered_events", help, labels.clone(), counts.filtered);
            let help = "Events that a plugin has handled.";
            all.count("eunomia_plugin_delivered_events", help, labels.clone(), counts.delivered);
            for place in Where::ALL {
                let help = "Events that a plugin missed, and where they were lost.";
                let count = counts.lost.get(&place).copied().unwrap_or(0);
                all.count("eunomia_plugin_lost_events", help, with(&labels, "where", place.name()), count);
            }
            let help = "Events that wait for a plugin, or are being handled.";
            all.put("eunomia_plugin_waiting_events", help, labels, Value::Gauge(counts.waiting as f64));
        }
        for (name, help, count) in [
            ("eunomia_plugin_calls", "Calls of a plugin that returned.", plugin.calls),
            ("eunomia_plugin_faults", "Calls of a plugin that failed.", plugin.faults),
            ("eunomia_plugin_restarts", "Fresh instances of a plugin after a fault.", plugin.restarts),
            ("eunomia_plugin_alerts", "Alerts that a plugin raised.", plugin.alerts),
            ("eunomia_plugin_lost_alerts", "Alerts beyond a plugin's allowance.", plugin.alerts_lost),
            ("eunomia_plugin_lost_log_lines", "Log lines beyond a plugin's allowance.", plugin.log_lines_lost),
            (
                "eunomia_plugin_metrics_refused",
                "Calls about a plugin's own metrics that were refused.",
                plugin.metrics_refused,
            ),
        ] {
            all.count(name, help, labels.to_vec(), count);
        }
        let help = "Time of a plugin's calls, those that failed included.";
        all.put("eunomia_plugin_call_seconds", help, labels.to_vec(), plugin.call_times.histogram());
        let filter = &plugin.filter;
        for (answer, count) in [("pass", filter.passed), ("drop", filter.dropped), ("none", filter.unanswered)]
            .into_iter()
            .filter(|_| !filter.is_unused())
        {
            let help = "Events that a plugin was asked about as a filter, by its answer.";
            all.count("eunomia_plugin_filter_events", help, with(&labels, "answer", answer), count);
        }
    }

    /// How the sources stand.
    pub fn add_states(&mut self, states: &[SourceState]) {
        for SourceState { source, state } in states {
            let (state, hook) = match state {
                State::Attached { hook, .. } => ("attached", *hook),
                State::Failed { .. } => ("failed", ""),
                State::Off => ("off", ""),
            };
            let labels = vec![label("source", *source), label("state", state), label("hook", hook)];
            let help = "How a source stands, and by which hook; 1 for its state.";
            self.0.put("eunomia_source_state", help, labels, Value::Gauge(1.0));
        }
    }

    fn add_sources(
        &mut self,
        counts: &[SourceCounts],
        dispatched: &BTreeMap<Kind, DispatchCounts>,
        alerts: (u64, u64),
    ) {
        let Figures(all) = self;
        for (name, SourceSummary { seen, filtered, delivered, lost, late }) in sources(counts, dispatched, alerts) {
            let labels = vec![label("source", name)];
            let help = "Events that happened: filtered, delivered, lost, or on their way.";
            all.count("eunomia_source_seen_events", help, labels.clone(), seen);
            let help = "Events that no plugin wanted, or filters dropped for all that did.";
            all.count("eunomia_source_filtered_events", help, labels.clone(), filtered);
            let help = "Events that some plugin was offered.";
            all.count("eunomia_source_delivered_events", help, labels.clone(), delivered);
            let help = "Events that came after later ones had gone on.";
            all.count("eunomia_source_late_events", help, labels.clone(), late);
            for (place, count) in lost {
                let help = "Events that were lost before any plugin, and where.";
                all.count("eunomia_source_lost_events", help, with(&labels, "where", place), count);
            }
        }
        for counts in counts {
            for program in &counts.programs {
                let labels = vec![label("source", counts.source), label("program", &*program.name)];
                let help = "Runs of a BPF program that the kernel has measured.";
                all.count("eunomia_bpf_program_runs", help, labels.clone(), program.runs);
                let help = "Time of a BPF program's runs that the kernel has measured.";
                all.put("eunomia_bpf_program_seconds", help, labels, Value::Sum(program.time.as_secs_f64()));
            }
        }
    }

    /// What this process and the broker take.
    pub fn add_processes(&mut self, broker: u32) {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
        let all = &mut self.0;
        all.put("process_cpu_seconds", "CPU time that the host has taken.", Vec::new(), Value::Sum(cpu));
        let help = "CPU time that the host's broker has taken.";
        all.put("eunomia_broker_cpu_seconds", help, Vec::new(), Value::Sum(cpu_of(broker).unwrap_or(0.0)));
        for (process, name, help) in [
            ("self", "process_resident_memory_bytes", "Memory that the host takes."),
            (&broker.to_string(), "eunomia_broker_resident_memory_bytes", "Memory that the host's broker takes."),
        ] {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            if let Some(kib) = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()) {
                all.put(name, help, Vec::new(), Value::Gauge((kib * 1024) as f64));
            }
        }
    }

    /// Has what the other rooms have counted added, and hands all of it over.
    pub fn finish(
        mut self,
        poller: &Poller,
        dispatched: &Dispatched,
        inbox: &AlertInbox,
        reply: oneshot::Sender<Vec<Family>>,
    ) {
        let dispatched = dispatched.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let alerts = inbox.counts();
        let (tell, counted) = oneshot::channel();
        poller.count(|counts| _ = tell.send(counts));
        tokio::spawn(async move {
            // Without them, what is known is told all the same: that they are missing is seen as well.
            if let Ok(Ok(counts)) = tokio::time::timeout(COUNT_TIME, counted).await {
                self.add_sources(&counts, &dispatched, alerts);
            }
            _ = reply.send(self.0.0.into_values().collect());
        });
    }
}
