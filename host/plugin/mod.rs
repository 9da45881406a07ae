//! Plugins: compiling, limits, and the life of each. It knows wasmtime and the plugin interface, and nothing of libbpf or
//! of where output goes.

mod allowance;
mod bounds;
mod component;
mod engine;
mod epochs;
mod grants;
mod http;
mod instance;
mod life;
mod limits;
mod loaded;
mod lower;
mod machine_code;
mod metrics;
mod services;
mod streams;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub use component::{Compiled, Description, INTERFACE_VERSION, PACKAGE};
pub use engine::Runtime;
pub use grants::{Address, Grants, Upstream};
pub use http::{Connect, Connecting, Proxy, connect_for};
pub use life::{CallCounts, OnFault};
pub use limits::Limits;
pub use machine_code::{compile, engine_identity};
pub use metrics::CallTimesSum;
pub use services::Outlets;

use crate::dispatch::{CGROUP_KINDS, Filter, Member, Only, Place, Queue};
use crate::event::{Kind, KindSet};
use http::Http;
use instance::Blueprint;
use life::{Connections, Handover, Life};

/// How often a plugin that wants ticks gets one unless its settings say otherwise.
pub const TICK_MS: u64 = 1_000;

/// What the operator says of a plugin.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its place in the line, before others with a larger one.
    pub order: i64,
    /// The kinds it may have of those that it handles; none for all.
    pub events: Option<KindSet>,
    /// Whose events it gets. Its cgroups stand below until somebody who knows their ids has put those here.
    pub only: Only,
    /// Cgroups, by path or id, whose events alone it gets.
    pub cgroups: Vec<String>,
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
            only: Only::default(),
            cgroups: Vec::new(),
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
    /// A new version takes its place: it is to save its state.
    replaced: Arc<AtomicBool>,
    version_before: Arc<Mutex<Option<Arc<Blueprint>>>>,
    /// None once it has ended.
    task: Option<JoinHandle<()>>,
    ended: oneshot::Receiver<Handover>,
}

const LOCK: &str = "no thread panics while it holds this";

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
        let mut outlets = outlets.clone();
        outlets.output = outlets.output.for_plugin();
        let blueprint = Blueprint {
            name: name.clone(),
            argument,
            linked: compiled.link(runtime, &settings.grants)?,
            shared: compiled.shared.clone(),
            description: compiled.description.clone(),
            settings: settings.clone(),
            http: Http::new(name, &settings.grants, outlets.connect.clone()),
            outlets,
            counts: Arc::default(),
            epochs: runtime.epochs.clone(),
        };
        let on_probation = replaces.is_some();
        Self::begin(runtime, blueprint, replaces, on_probation).await
    }

    /// The version before, when the plugin has gone back to it: it is to join the line in the place of this, as it may want
    /// other events. Told once.
    pub async fn version_before(&mut self, runtime: &Runtime) -> Option<Result<(Plugin, Member)>> {
        let version = self.version_before.lock().expect(LOCK).take()?;
        Some(Self::begin(runtime, (*version).clone(), Some(self), false).await)
    }

    async fn begin(
        runtime: &Runtime,
        blueprint: Blueprint,
        replaces: Option<&mut Plugin>,
        on_probation: bool,
    ) -> Result<(Plugin, Member)> {
        let counts = Arc::new(CallCounts::default());
        let blueprint = Blueprint { counts: counts.clone(), ..blueprint };
        let (name, settings) = (blueprint.name.clone(), blueprint.settings.clone());
        let mut instance = blueprint.start().await?;
        let calls = instance.calls().await?;

        let description = blueprint.description.clone();
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
        let queue = Queue::new(wanted, settings.limits.queue_events, limits::QUEUE_BYTES);
        let queue = Arc::new(queue.of_calls(calls).narrowed_to(settings.only.clone()));
        let (asks, requests) = mpsc::channel(1);
        let member = Member {
            name: name.clone(),
            place: Place { order: settings.order, argument: blueprint.argument, name: name.to_string() },
            queue: queue.clone(),
            filter: (!description.filters.is_empty())
                .then(|| Filter::new(description.filters, asks, settings.closed_when_down, counts.unanswered.clone())),
            tick: description.ticks.then_some(Duration::from_millis(settings.tick_ms)),
            registers,
        };
        let state = Arc::new(Mutex::new("starting"));
        let (replaced, version_before) = (Arc::default(), Arc::default());
        let connections = Connections {
            queue: queue.clone(),
            requests,
            counts: counts.clone(),
            state: state.clone(),
            replaced: Arc::clone(&replaced),
            version_before: Arc::clone(&version_before),
            rolled_back: runtime.rolled_back.clone(),
        };
        let life = Life::new(Arc::new(blueprint), instance, connections, on_probation);
        let after = replaces.map(|old| {
            old.replaced.store(true, Ordering::Relaxed);
            std::mem::replace(&mut old.ended, oneshot::channel().1)
        });
        let (end, ended) = oneshot::channel();
        let task = Some(tokio::spawn(async move {
            // None, and the end of the channel, wakes the version that replaces this one as well.
            life.run(after).await.map(|handover| end.send(handover));
        }));
        Ok((Plugin { name, description, queue, counts, state, replaced, version_before, task, ended }, member))
    }

    /// What it is doing: `running`, `backing off`, `quarantined` or `stopped`.
    pub fn state(&self) -> &'static str {
        *self.state.lock().expect(LOCK)
    }

    /// Waits for its end, which its queue's closing brings about.
    pub async fn ended(&mut self) {
        if let Some(task) = &mut self.task
            && task.await.is_err()
        {
            log::error!("plugin {}: its task failed; this is a defect of the host", self.name);
        }
        self.task = None;
    }
}
