//! A dispatcher with plugins, without a kernel.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eunomia_host::compile::Compiler;
use eunomia_host::dispatch::{
    Containers, DispatchCounts, Dispatched, Dispatcher, KindCounts, Member, Message, Only, Processes, Tree, Watch,
};
use eunomia_host::event::{self, Batch, Columns, Kind};
use eunomia_host::output::{self, AlertFormat, Writer};
use eunomia_host::plugin::{Compiled, Limits, Outlets, Plugin, Runtime, Settings};
use eunomia_host::wit::container_registry::Cgroup;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

/// How often it is looked at whether events were dispatched.
const POLL: Duration = Duration::from_millis(1);

/// What was printed, and when each line came, in nanoseconds since the epoch.
#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<(Vec<u8>, Vec<u64>)>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let now = event::now();
        let (text, times) = &mut *self.0.lock().unwrap();
        text.extend_from_slice(bytes);
        times.extend(bytes.iter().filter(|byte| **byte == b'\n').map(|_| now));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What came of a run.
pub struct Outcome {
    pub lines: Vec<String>,
    /// When each line came, in nanoseconds since the epoch.
    pub times: Vec<u64>,
    pub kinds: BTreeMap<&'static str, BTreeMap<Kind, KindCounts>>,
    pub plugins: BTreeMap<&'static str, Plugin>,
    pub dispatched: BTreeMap<Kind, DispatchCounts>,
}

impl Outcome {
    pub fn json(&self) -> Vec<Value> {
        self.lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A dispatcher with its line of plugins, and what they print.
pub struct Line {
    runtime: Runtime,
    captured: Captured,
    pub outlets: Outlets,
    writer: Writer,
    messages: Sender<Message>,
    counts: Dispatched,
    dispatched: JoinHandle<BTreeMap<Kind, DispatchCounts>>,
}

impl Line {
    pub fn new() -> Self {
        Self::with(vec![], None, Only::default())
    }

    /// One that finds these cgroups when it starts, and whose run is narrowed.
    pub fn with(cgroups: Vec<Cgroup>, watch: Option<Watch>, only: Only) -> Self {
        let compiler = Compiler::new(Path::new(env!("CARGO_BIN_EXE_eunomia-host")), None);
        let runtime = Runtime::new(compiler).unwrap();
        let captured = Captured::default();
        let (output, writer) = output::start_on(Box::new(captured.clone()), false, AlertFormat::Json).unwrap();
        let processes = Arc::new(Processes::new(Box::new(|_| None)));
        let tree = Tree { walk: Box::new(move || cgroups.clone()), cgroup_of: Box::new(|_| None) };
        let containers = Arc::new(Containers::new(tree, watch));
        let (dispatcher, messages, inbox) = Dispatcher::new(processes.clone(), containers.clone(), only);
        let counts = dispatcher.counts();
        let dispatched = tokio::spawn(dispatcher.run());
        Line {
            runtime,
            captured,
            outlets: Outlets {
                output,
                inbox,
                processes,
                containers,
                connect: Arc::new(|_, _, path| Box::pin(UnixStream::connect(path))),
            },
            writer,
            messages,
            counts,
            dispatched,
        }
    }

    /// Starts a plugin for a place in the line, with its `[config]`.
    pub async fn start(
        &self,
        place: (&str, usize),
        path: &Path,
        config: &str,
        replaces: Option<&mut Plugin>,
    ) -> anyhow::Result<(Plugin, Member)> {
        let settings = Settings { config: config.to_owned(), ..Default::default() };
        self.start_with(place, path, &settings, replaces).await
    }

    /// The same with all its settings.
    pub async fn start_with(
        &self,
        place: (&str, usize),
        path: &Path,
        settings: &Settings,
        replaces: Option<&mut Plugin>,
    ) -> anyhow::Result<(Plugin, Member)> {
        let compiled = self.compile(path)?;
        Plugin::start(&self.runtime, place, &compiled, settings, &self.outlets, replaces).await
    }

    pub fn compile(&self, path: &Path) -> anyhow::Result<Compiled> {
        Compiled::new(&self.runtime, &std::fs::read(path).unwrap(), &Limits::default())
    }

    /// The same with what was compiled before, at the first place.
    pub async fn start_compiled(
        &self,
        name: &str,
        compiled: &Compiled,
        settings: &Settings,
        replaces: Option<&mut Plugin>,
    ) -> anyhow::Result<(Plugin, Member)> {
        Plugin::start(&self.runtime, (name, 0), compiled, settings, &self.outlets, replaces).await
    }

    /// The version that a plugin has gone back to.
    pub async fn version_before(&self, plugin: &mut Plugin) -> Option<anyhow::Result<(Plugin, Member)>> {
        plugin.version_before(&self.runtime).await
    }

    pub async fn join(&self, member: Member) {
        self.messages.send(Message::Join(Box::new(member))).await.ok().unwrap();
    }

    /// Takes a plugin out of the line, and waits for its end.
    pub async fn leave(&self, mut plugin: Plugin) {
        self.messages.send(Message::Leave(plugin.name.clone())).await.ok().unwrap();
        plugin.ended().await;
    }

    /// Where the kernel's events go.
    pub fn deliver(&self) -> Box<dyn FnMut(Batch) + Send> {
        let messages = self.messages.clone();
        Box::new(move |batch| _ = messages.blocking_send(Message::Batch(Box::new(batch))))
    }

    /// The memory that what was printed so far takes.
    pub fn captured_kib(&self) -> u64 {
        let (text, times) = &*self.captured.0.lock().unwrap();
        ((text.len() + size_of_val(times.as_slice())) >> 10) as u64
    }

    pub async fn send(&self, mut columns: Columns) {
        let batch = Batch::cut(&mut columns, u64::MAX);
        self.messages.send(Message::Batch(Box::new(batch))).await.ok().unwrap();
    }

    /// Waits until so many events were dispatched.
    pub async fn dispatched(&self, events: u64) {
        let sum = |counts: &BTreeMap<Kind, DispatchCounts>| -> u64 {
            counts.values().map(|counts| counts.delivered + counts.filtered).sum()
        };
        while sum(&self.counts.lock().unwrap()) < events {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Lets the plugins finish, and checks that every sum adds up.
    pub async fn finish(self, mut plugins: BTreeMap<&'static str, Plugin>) -> Outcome {
        self.messages.send(Message::Stop).await.ok().unwrap();
        let dispatched = self.dispatched.await.unwrap();
        for plugin in plugins.values_mut() {
            plugin.ended().await;
        }
        drop((self.outlets, self.messages));
        tokio::task::spawn_blocking(|| self.writer.finish()).await.unwrap();
        let (text, times) = std::mem::take(&mut *self.captured.0.lock().unwrap());
        let text = String::from_utf8(text).unwrap();
        let kinds: BTreeMap<_, _> = plugins.iter().map(|(name, plugin)| (*name, plugin.queue.counts())).collect();
        for (name, counts) in kinds.iter().flat_map(|(name, kinds)| kinds.values().map(move |counts| (name, counts))) {
            let lost: u64 = counts.lost.values().sum();
            assert_eq!(counts.seen, counts.filtered + counts.delivered + lost, "{name}: {counts:?}");
            assert_eq!(counts.waiting, 0, "{name}");
        }
        Outcome { lines: text.lines().map(str::to_owned).collect(), times, kinds, plugins, dispatched }
    }
}
