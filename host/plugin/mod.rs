//! Plugins: compiling, limits, and the life of each. It knows wasmtime and the plugin interface, and nothing of libbpf or
//! of where output goes.

mod component;
mod engine;
mod grants;
mod http;
mod instance;
mod life;
mod limits;
mod lower;
mod machine_code;
mod services;
mod streams;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub use component::{Compiled, Description, INTERFACE_VERSION, PACKAGE};
pub use engine::Runtime;
pub use grants::{Address, Grants, Upstream};
pub use life::{CallCounts, OnFault};
pub use limits::Limits;
pub use machine_code::compile;
pub use services::Outlets;

use crate::dispatch::{CGROUP_KINDS, Member, Place, Queue};
use crate::event::{Kind, KindSet};
use http::Http;
use instance::Blueprint;
use life::{Connections, Life};

/// How often a plugin that wants ticks gets one unless its settings say otherwise.
pub const TICK_MS: u64 = 1_000;

/// What the operator says of a plugin.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its place in the line, before others with a larger one.
    pub order: i64,
    /// The kinds it may have of those that it handles; none for all.
    pub events: Option<KindSet>,
    /// How often it gets a tick, in milliseconds.
    pub tick_ms: u64,
    /// What to do after a fault.
    pub on_fault: OnFault,
    /// While it is a filter and down, nothing passes instead of everything.
    pub closed_when_down: bool,
    /// Its limits.
    pub limits: Limits,
    /// What it may do besides.
    pub grants: Grants,
    /// Its own settings, as JSON.
    pub config: String,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            order: 0,
            events: None,
            tick_ms: TICK_MS,
            on_fault: OnFault::default(),
            closed_when_down: false,
            limits: Limits::default(),
            grants: Grants::default(),
            config: "{}".into(),
        }
    }
}

/// A plugin that has been started.
pub struct Plugin {
    /// Its name: the file's without `.wasm`.
    pub name: Arc<str>,
    /// What it exports and imports.
    pub description: Description,
    /// Its queue, with the counts of its events.
    pub queue: Arc<Queue>,
    /// The counts of its calls.
    pub counts: Arc<CallCounts>,
    state: Arc<Mutex<&'static str>>,
    task: JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

impl Plugin {
    /// Starts a plugin, and makes the member that is to join the line. When it replaces another, it handles its first
    /// event after the other's last.
    pub async fn start(
        runtime: &Runtime,
        (name, argument): (&str, usize),
        compiled: &Compiled,
        settings: &Settings,
        outlets: &Outlets,
        replaces: Option<&mut Plugin>,
    ) -> Result<(Plugin, Member)> {
        let name: Arc<str> = name.into();
        let counts = Arc::new(CallCounts::default());
        let mut outlets = outlets.clone();
        outlets.output = outlets.output.for_plugin();
        let blueprint = Blueprint {
            name: name.clone(),
            linked: compiled.link(runtime, &settings.grants)?,
            description: compiled.description.clone(),
            limits: settings.limits.clone(),
            grants: settings.grants.clone(),
            http: Http::new(name.clone(), &settings.grants),
            config: settings.config.clone(),
            outlets,
            alerts_raised: counts.alerts.clone(),
            running: runtime.running.clone(),
        };
        let mut instance = blueprint.start().await?;
        let calls = instance.calls().await?;

        let description = compiled.description.clone();
        let registers = settings.grants.container_registry && description.registers();
        let mut wanted = settings.events.map_or(description.handles, |events| description.handles.and(events));
        if calls.is_some_and(|calls| calls.is_empty()) {
            // Nobody looks at system calls for a plugin that has chosen none.
            wanted = wanted.iter().filter(|kind| !kind.is_of_calls()).collect();
        }
        if registers {
            // Others need what it makes of these, whatever events were asked for.
            wanted = wanted.or(description.handles.and(CGROUP_KINDS));
        }
        // Whatever was asked for, with it comes what is missing of it.
        wanted = wanted.or(description.handles.and(KindSet::of(&[Kind::Gap])));
        let queue = Arc::new(Queue::new(wanted, settings.limits.queue_events, limits::QUEUE_BYTES).of_calls(calls));
        let (asks, requests) = mpsc::channel(1);
        let interval = Duration::from_millis(settings.tick_ms);
        let member = Member {
            name: name.clone(),
            place: Place { order: settings.order, argument, name: name.to_string() },
            queue: queue.clone(),
            filter: (!description.filters.is_empty()).then_some((description.filters, asks)),
            tick: description.ticks.then_some(interval),
            closed_when_down: settings.closed_when_down,
            registers,
        };
        let state = Arc::new(Mutex::new("starting"));
        let connections = Connections { queue: queue.clone(), requests, counts: counts.clone(), state: state.clone() };
        let life = Life::new(blueprint, instance, connections, interval, settings.on_fault);
        let after = replaces.map(|old| std::mem::replace(&mut old.ended, oneshot::channel().1));
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            life.run(after).await;
            drop(end); // Wakes the version that replaces this one.
        });
        Ok((Plugin { name, description, queue, counts, state, task, ended }, member))
    }

    /// What it is doing: `running`, `backing off`, `quarantined` or `stopped`.
    pub fn state(&self) -> &'static str {
        *self.state.lock().expect("no thread panics while it holds this")
    }

    /// Waits for its end, which its queue's closing brings about.
    pub async fn ended(&mut self) {
        if (&mut self.task).await.is_err() {
            log::error!("plugin {}: its task failed; this is a defect of the host", self.name);
        }
    }
}
