//! The plugins that run, and the sources that they need: loading, exchanging, unloading.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::{Notify, mpsc};
use tokio::task::{block_in_place, spawn_blocking};

use super::compiling::{Compiling, Ready, compile};
use super::metrics::Figures;
use super::summary::PluginSummary;
use crate::config::Config;
use crate::directory::{Change, Files, Found, Operator};
use crate::dispatch::{CGROUP_KINDS, Dispatched, First, Message, Only};
use crate::event::{CallSet, Kind, KindSet, comm};
use crate::output::Scrape;
use crate::plugin::{Outlets, Plugin, Runtime};
use crate::source::{self, Lookups, Poller, SourceState, State, Wanted, Whom};

/// How long a plugin's stop function may keep the host from ending.
const STOP_TIME: Duration = Duration::from_secs(3);

/// The place of plugins of the directory: behind those named on the command line.
const BEHIND_NAMED: usize = usize::MAX;

/// The import that needs the process table, and the kinds that keep it.
const PROCESS_TABLE: &str = "eunomia:plugin/processes@";
const PROCESS_KINDS: [Kind; 3] = [Kind::Exec, Kind::Exit, Kind::Fork];

/// The plugin that tells of containers, as it is shipped.
const CONTAINER_MAP: &str = "container-map.wasm";

/// The plugin that tells of containers, where it lies beside one that was named.
pub fn container_map_beside(config: &Config) -> Option<PathBuf> {
    config.plugins.iter().map(|file| file.with_file_name(CONTAINER_MAP)).find(|file| file.is_file())
}

/// What runs.
pub struct Host {
    runtime: Runtime,
    outlets: Outlets,
    messages: mpsc::Sender<Message>,
    poller: Poller,
    lookups: Arc<Lookups>,
    /// The broker's pid.
    broker: u32,
    config: Arc<Config>,
    operator: Operator,
    plugins: Plugins,
    wanted: Wanted,
    sources: Vec<SourceState>,
    compiling: Compiling,
}

/// The plugins by name, and what those did that have gone.
#[derive(Default)]
pub struct Plugins {
    running: BTreeMap<String, Plugin>,
    leaving: Vec<Plugin>,
    gone: BTreeMap<String, PluginSummary>,
}

impl Host {
    pub fn new(
        runtime: Runtime,
        outlets: Outlets,
        messages: mpsc::Sender<Message>,
        (poller, lookups, broker): (Poller, Arc<Lookups>, u32),
        (config, operator): (Config, Operator),
    ) -> Self {
        let (plugins, wanted, sources) = Default::default();
        let (compiling, config) = (Compiling::new(), Arc::new(config));
        Host {
            runtime,
            outlets,
            messages,
            poller,
            lookups,
            broker,
            config,
            operator,
            plugins,
            wanted,
            sources,
            compiling,
        }
    }

    /// Loads the plugins of the command line. True when there is none that works.
    pub async fn load_named(&mut self) -> bool {
        for (argument, file) in self.config.plugins.clone().iter().enumerate() {
            let name = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
            let outcome = match self.plugins.running.contains_key(&name) {
                true => Err(anyhow::anyhow!(
                    "a plugin named {name} already runs; name each plugin once, or rename this file"
                )),
                false => self.load_named_file(&name, file, argument).await,
            };
            if let Err(error) = outcome {
                log::error!("plugin {} is not loaded: {error:#}", file.display());
            }
        }
        let nothing_works = self.plugins.running.is_empty();
        if !nothing_works {
            self.load_container_map().await;
        }
        nothing_works
    }

    /// Begins with what has changed in the plugin directory. What is to be loaded is there when `compiled` says so.
    pub async fn begin(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Load(found) if self.is_named(&found.name) => log::error!(
                    "plugin {} is not loaded: a plugin named {} was given with --plugin; rename this file",
                    found.file.display(),
                    found.name
                ),
                Change::Load(found) => self.compiling.begin(&self.runtime, &self.config, found),
                Change::Unload { name } => {
                    self.compiling.forget(&name);
                    self.unload(&name).await;
                }
            }
        }
        self.plugins.retire_ended();
    }

    /// The next plugin of the directory that has been compiled, or cannot be; none while none is on its way.
    pub async fn compiled(&mut self) -> Option<(Found, Result<Ready>)> {
        self.compiling.next().await
    }

    /// Loads a plugin of the directory.
    pub async fn load_found(&mut self, (found, ready): (Found, Result<Ready>)) {
        let runs = self.plugins.running.contains_key(&found.name);
        if let Err(error) = self.load(&found.name, ready, BEHIND_NAMED).await {
            let what = if runs { "; the version before it goes on" } else { "" };
            log::error!("plugin {} is not loaded: {error:#}{what}", found.file.display());
        }
        self.plugins.retire_ended();
    }

    fn is_named(&self, name: &str) -> bool {
        self.config.plugins.iter().any(|named| named.file_stem().is_some_and(|stem| stem == name))
    }

    /// Loads a plugin that was named, or is loaded as if it were.
    async fn load_named_file(&mut self, name: &str, file: &Path, argument: usize) -> Result<()> {
        let (runtime, config) = (self.runtime.clone(), self.config.clone());
        let (owned, path, operator) = (name.to_owned(), file.to_owned(), self.operator);
        let files = move || compile(&runtime, &config, &owned, &path, Files::named(&path, operator));
        let ready = spawn_blocking(files).await?;
        self.load(name, ready, argument).await
    }

    async fn load(&mut self, name: &str, ready: Result<Ready>, argument: usize) -> Result<()> {
        let Ready { compiled, mut settings } = ready?;
        for ignored in &compiled.description.ignored {
            log::warn!("plugin {name}: its export {ignored} is unknown to this host and ignored");
        }
        compiled.check(&settings.grants)?;
        settings.only.cgroups = source::cgroup_ids(&settings.cgroups)?;
        let replaced = self.plugins.running.get_mut(name);
        let swaps = replaced.is_some();
        let (plugin, member) =
            Plugin::start(&self.runtime, (name, argument), &compiled, &settings, &self.outlets, replaced).await?;
        let old = self.plugins.running.insert(name.to_owned(), plugin);
        self.plugins.leaving.extend(old);
        // Sources first: from the moment that the plugin stands in the line it misses nothing.
        self.attach_sources();
        _ = self.messages.send(Message::Join(Box::new(member))).await;
        log::info!("plugin {name} {}", if swaps { "exchanged for its new version" } else { "loaded" });
        Ok(())
    }

    /// Wakes whoever waits for it when a plugin has gone back to the version before; then `follow_back` is to be called.
    pub fn rolled_back(&self) -> Arc<Notify> {
        self.runtime.rolled_back()
    }

    /// Has the versions that plugins have gone back to join the line, with what those want.
    pub async fn follow_back(&mut self) {
        let mut versions = Vec::new();
        for (name, plugin) in &mut self.plugins.running {
            match plugin.version_before(&self.runtime).await {
                Some(Ok((version, member))) => versions.push((name.clone(), version, member)),
                Some(Err(error)) => log::error!("plugin {name}: {error:#}; it goes on with the new version's events"),
                None => {}
            }
        }
        for (name, version, member) in versions {
            self.plugins.leaving.extend(self.plugins.running.insert(name, version));
            self.attach_sources();
            _ = self.messages.send(Message::Join(Box::new(member))).await;
        }
        self.plugins.retire_ended();
    }

    async fn unload(&mut self, name: &str) {
        let Some(plugin) = self.plugins.running.remove(name) else { return };
        _ = self.messages.send(Message::Leave(plugin.name.clone())).await;
        self.plugins.leaving.push(plugin);
        if !self.plugins.tells_of_containers() {
            self.outlets.containers.clear();
        }
        self.attach_sources();
        log::info!("plugin {name} unloaded");
    }

    /// Has the sources attached that the plugins need now, and no others.
    fn attach_sources(&mut self) {
        let wanted = self.plugins.wanted();
        if wanted == self.wanted && !self.sources.is_empty() {
            return;
        }
        let had = std::mem::replace(&mut self.wanted, wanted);
        let before = std::mem::take(&mut self.sources);
        self.sources = block_in_place(|| self.poller.want(self.wanted.clone()));
        let (had, wanted) = (had.kinds, self.wanted.kinds);
        if had.has(Kind::Fork) && !wanted.has(Kind::Fork) {
            self.outlets.processes.clear(); // From now on nothing tells of processes that end.
        }
        if wanted.has(Kind::Fork) && !had.has(Kind::Fork) {
            // After attaching, so that none falls between the two.
            self.outlets.processes.add_running(block_in_place(|| self.lookups.running()));
        }
        if wanted.has(Kind::CgroupCreated) && !had.has(Kind::CgroupCreated) {
            block_in_place(|| self.outlets.containers.walk());
            self.outlets.containers.judge_known();
        }
        for state in &self.sources {
            let was = before.iter().find(|other| other.source == state.source).map(|state| &state.state);
            if was == Some(&state.state) {
                continue;
            }
            match &state.state {
                State::Failed { why } => log::error!(
                    "source {} is not available, so plugins {} get none of its events: {}",
                    state.source,
                    self.plugins.that_want(state.source).join(", "),
                    super::show::reasons(why)
                ),
                State::Attached { hook, .. } => log::info!("source {} attached by {hook}", state.source),
                State::Off if was.is_some() => log::info!("source {} detached: no plugin needs it", state.source),
                State::Off => {}
            }
        }
    }

    /// Loads the plugin that tells of containers where `--container` needs one and none was named: it is shipped beside the
    /// others, and gets what its own settings grant.
    async fn load_container_map(&mut self) {
        if self.config.containers.is_empty() || self.plugins.tells_of_containers() {
            return;
        }
        let Some(file) = container_map_beside(&self.config) else { return };
        let name = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        log::info!("--container needs a plugin that tells of containers: {} is loaded as well", file.display());
        if let Err(error) = self.load_named_file(&name, &file, self.config.plugins.len()).await {
            log::error!("plugin {} is not loaded: {error:#}", file.display());
        }
    }

    /// An error when the run is narrowed to containers and no plugin tells of any.
    pub fn check_containers(&self) -> Result<()> {
        if self.config.containers.is_empty() || self.plugins.tells_of_containers() {
            return Ok(());
        }
        if let Some(folder) = &self.config.plugin_dir {
            log::warn!(
                "no plugin that runs tells the host of containers, so --container lets no event through until {CONTAINER_MAP} \
                 is in {}",
                folder.display()
            );
            return Ok(());
        }
        bail!(
            "--container {}: no plugin that runs tells the host of containers; add --plugin {CONTAINER_MAP}, with \
             container-registry = true below [grants] in its settings",
            self.config.containers.join(" --container ")
        )
    }

    /// An error when plugins want sources, and none of them can be had.
    pub fn check_sources(&self) -> Result<()> {
        let failed: Vec<_> = self.sources.iter().filter(|state| matches!(state.state, State::Failed { .. })).collect();
        let works = self.sources.iter().any(|state| matches!(state.state, State::Attached { .. }));
        match failed.first() {
            Some(SourceState { source, state: State::Failed { why } }) if !works => {
                bail!("no source of events can be attached. {source}: {}", super::show::reasons(why))
            }
            _ => Ok(()),
        }
    }

    /// The line that says that events are seen from now on.
    pub fn ready_line(&self) -> String {
        let sources: Vec<String> = self
            .sources
            .iter()
            .filter_map(|state| match &state.state {
                State::Attached { hook, misses: "", .. } => Some(format!("{} ({hook})", state.source)),
                State::Attached { hook, misses, .. } => Some(format!("{} ({hook}; misses {misses})", state.source)),
                State::Failed { .. } => Some(format!("{} (failed)", state.source)),
                State::Off => None,
            })
            .collect();
        let plugins: Vec<_> = self.plugins.running.keys().map(String::as_str).collect();
        let list = |names: String| if names.is_empty() { "none".to_owned() } else { names };
        let state =
            if self.sources.iter().any(|state| matches!(state.state, State::Failed { .. })) { " degraded" } else { "" };
        format!("ready{state} sources: {} plugins: {}", list(sources.join(", ")), list(plugins.join(", ")))
    }

    /// Gathers what is measured, for somebody who asked for it.
    pub fn measure(&self, dispatched: &Dispatched, reply: Scrape) {
        let mut figures = Figures::new();
        let mut plugins = self.plugins.gone.clone();
        for plugin in self.plugins.leaving.iter().chain(self.plugins.running.values()) {
            plugins.entry(plugin.name.to_string()).or_default().add(plugin);
        }
        plugins.iter().for_each(|(name, plugin)| figures.add_plugin(name, plugin));
        self.plugins.running.values().for_each(|plugin| figures.add_running(plugin));
        figures.add_states(&self.sources);
        figures.add_processes(self.broker);
        figures.finish(&self.poller, dispatched, &self.outlets.inbox, reply);
    }

    /// What is needed to stop.
    pub fn into_parts(self) -> (Poller, Plugins) {
        (self.poller, self.plugins)
    }
}

/// Whose events are all that a plugin that is narrowed may get.
fn whom(only: &Only) -> Vec<Whom> {
    match only.first() {
        First::Pids(pids) => pids.iter().map(|pid| Whom::Pid(*pid)).collect(),
        First::Cgroups(ids) => ids.iter().map(|id| Whom::Cgroup(*id)).collect(),
        First::Comms(names) => names.iter().map(|name| Whom::Comm(comm(name))).collect(),
        First::Uids(uids) => uids.iter().map(|uid| Whom::Uid(*uid)).collect(),
    }
}

impl Plugins {
    /// What they want of the sources, all together.
    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        // Sources of whose events some plugin wants all.
        let mut wide = KindSet::default();
        for plugin in self.running.values() {
            let kinds = plugin.queue.wanted();
            let asked = kinds.or(plugin.description.filters);
            let table = plugin.description.services.iter().any(|service| service.starts_with(PROCESS_TABLE));
            let for_table = if table { PROCESS_KINDS.into_iter().collect() } else { KindSet::default() };
            for kind in kinds.iter().filter(|kind| kind.is_of_calls()) {
                let calls = plugin.queue.calls().unwrap_or(&CallSet::ALL);
                let all = wanted.calls.entry(kind).or_default();
                *all = all.or(calls);
            }
            // Which cgroup is below which has to be known.
            let for_cgroups = if plugin.queue.only().cgroups.is_empty() { KindSet::default() } else { CGROUP_KINDS };
            wanted.kinds = wanted.kinds.or(kinds).or(for_table).or(for_cgroups);
            let only = plugin.queue.only();
            wide = wide.or(for_table).or(if only.is_all() { asked } else { KindSet::default() });
            for kind in asked.iter() {
                wanted.whom.entry(kind.source().to_owned()).or_default().extend(whom(only));
            }
        }
        wide.iter().for_each(|kind| _ = wanted.whom.remove(kind.source()));
        wanted
    }

    fn tells_of_containers(&self) -> bool {
        self.running.values().any(|plugin| plugin.description.registers())
    }

    fn that_want(&self, source: &str) -> Vec<&str> {
        let wants = |plugin: &&Plugin| plugin.queue.wanted().iter().any(|kind| kind.source() == source);
        self.running.values().filter(wants).map(|plugin| &*plugin.name).collect()
    }

    fn retire(&mut self, plugin: &Plugin) {
        self.gone.entry(plugin.name.to_string()).or_default().add(plugin);
    }

    /// Keeps of the plugins that have ended no more than their counts.
    fn retire_ended(&mut self) {
        let (ended, leaving) =
            std::mem::take(&mut self.leaving).into_iter().partition(|plugin| plugin.state() == "stopped");
        self.leaving = leaving;
        let ended: Vec<Plugin> = ended;
        ended.iter().for_each(|plugin| self.retire(plugin));
    }

    /// Waits for the end of all of them, and says what each did.
    pub async fn finish(mut self) -> BTreeMap<String, PluginSummary> {
        let running = std::mem::take(&mut self.running).into_values();
        let all: Vec<Plugin> = std::mem::take(&mut self.leaving).into_iter().chain(running).collect();
        let deadline = tokio::time::Instant::now() + STOP_TIME;
        for mut plugin in all {
            // The dispatcher has closed those in the line; one that was just being loaded never came to stand there.
            plugin.queue.close();
            if tokio::time::timeout_at(deadline, plugin.ended()).await.is_err() {
                log::error!("plugin {} did not stop within {} s", plugin.name, STOP_TIME.as_secs());
                plugin.queue.abandon(crate::dispatch::Where::Shutdown);
            }
            self.retire(&plugin);
        }
        self.gone
    }
}
