//! The wiring: which room is connected with which, and what happens from start to stop.

mod broker;
mod compiling;
mod host;
mod metrics;
mod show;
mod summary;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::block_in_place;

use crate::broker::{Broker, Errand};
use crate::compile::{self, CompileLimits, Compiler};
use crate::config::{Command, Config};
use crate::confine::{self, Power};
use crate::directory::{Directory, Operator};
use crate::dispatch::{Containers, Dispatched, Dispatcher, Message, Only, Processes, Tree, Watch};
use crate::output::{self, Listener, Scrape, Writer};
use crate::plugin::{self, Outlets, Runtime};
use crate::source::{self, Lookups, Poller};
use host::Host;
use summary::{Summary, SummaryFile};

/// How long standard output's reader may take for the last lines.
const LAST_LINES_TIME: Duration = Duration::from_secs(5);

/// The fewest worker threads: on one core, a plugin that runs must not keep the rest from being served.
const MIN_WORKERS: usize = 2;

/// Does what the command line says.
pub fn run(command: Result<Command, Config>) -> Result<()> {
    if let Ok(Command::Compile { memory_bytes, cpu_seconds }) = command {
        // It gives up its power, so it must not have a second thread.
        return compile::answer(CompileLimits { memory_bytes, cpu_seconds }, plugin::compile);
    }
    if let Ok(Command::Broker) = command {
        return broker::serve();
    }
    let prepared = command.map_err(prepare);
    let workers = std::thread::available_parallelism().map_or(MIN_WORKERS, |cores| cores.get().max(MIN_WORKERS));
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let outcome = match prepared {
        Ok(Command::Sources { json, verbose, hooks }) => show::sources(json, verbose, &hooks),
        Ok(Command::Inspect { file }) => show::inspect(&file),
        Ok(Command::Version) => show::version(),
        Ok(Command::Compile { .. } | Command::Broker) => unreachable!("it was done above"),
        Err(prepared) => tokio.block_on(tokio.spawn(run_plugins(prepared?)))?,
    };
    // A plugin that is stuck must not keep the host from ending.
    tokio.shutdown_background();
    outcome
}

/// What is done with all the power that this process was given, and what it runs with from then on.
struct Prepared {
    config: Config,
    operator: Operator,
    summary: Option<SummaryFile>,
    listener: Option<Listener>,
    broker: Broker,
    /// What this process runs with, and what the broker does.
    power: [Power; 2],
}

/// For a process with one thread: those that it starts have no more power than it keeps.
fn prepare(config: Config) -> Result<Prepared> {
    let operator = Operator::of_this_process();
    let summary = config.summary.as_deref().map(SummaryFile::open).transpose()?;
    let listener = config.metrics.map(Listener::bind).transpose()?;
    let (broker, brokers) = broker::start(&config)?;
    let own = confine::host().context("the host cannot give up the power that it does not need")?;
    Ok(Prepared { config, operator, summary, listener, broker, power: [own, brokers] })
}

/// Runs plugins until somebody or something says stop.
async fn run_plugins(prepared: Prepared) -> Result<()> {
    let Prepared { config, operator, summary: summary_file, listener, broker, power: [own, brokers] } = prepared;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (output, writer) = output::start(config.alerts)?;
    let lookups = Arc::new(Lookups::new(broker.open(Errand::Processes)?));
    let (of, within) = (lookups.clone(), lookups.clone());
    let processes = Arc::new(Processes::new(Box::new(move |pid| of.process(pid))));
    let tree = Tree { walk: Box::new(source::existing_cgroups), cgroup_of: Box::new(move |pid| within.cgroup(pid)) };
    let watch = match config.containers.is_empty() {
        true => None,
        false => {
            let judging = broker.open(Errand::Cgroups)?;
            let tell = Box::new(move |cgroup: u64, wanted: Option<bool>| {
                if let Err(error) = judging.ask::<()>(&(cgroup, wanted), &[]) {
                    log::error!("the kernel does not learn of a container's cgroup: {error:#}");
                }
            });
            Some(Watch { names: config.containers.clone(), tell })
        }
    };
    let containers = Arc::new(Containers::new(tree, watch));
    let only = Only {
        pids: config.pids.clone(),
        comms: config.comms.clone(),
        uids: config.uids.clone(),
        cgroups: source::cgroup_ids(&config.cgroups)?,
        containers: !config.containers.is_empty(),
    };
    let (dispatcher, messages, inbox) = Dispatcher::new(processes.clone(), containers.clone(), only);
    let counts = dispatcher.counts();
    let dispatched = tokio::spawn(dispatcher.run());
    let to_dispatcher = messages.clone();
    let deliver = move |batch| _ = to_dispatcher.blocking_send(Message::Batch(Box::new(batch)));
    let poller = Poller::start(broker.open(Errand::Sources)?, config.latency, Box::new(deliver))?;
    let connect = broker::connect(broker.clone());
    let outlets = Outlets { output, inbox: inbox.clone(), processes, containers, connect };
    let duration = config.duration;
    let mut directory = config.plugin_dir.as_deref().map(|path| Directory::new(path, operator)).transpose()?;
    let runtime = Runtime::new(Compiler::by(broker.clone()))?;
    let mut host = Host::new(runtime, outlets, messages.clone(), (poller, lookups, broker.pid()), (config, operator));

    let mut nothing_works = host.load_named().await;
    if let Some(directory) = &mut directory {
        host.begin(directory.first().await).await;
        while let Some(compiled) = host.compiled().await {
            host.load_found(compiled).await;
        }
        nothing_works = false; // What is not there yet may come.
    }
    ensure!(!nothing_works, "no plugin could be loaded, and there is no plugin directory to wait for one");
    host.check_sources()?;
    host.check_containers()?;
    let metrics = listener.as_ref().map_or_else(String::new, |listener| format!(" metrics: {listener}"));
    output::say(&format!("{}{metrics} power: {own}; no new privileges; broker: {brokers}", host.ready_line()));
    let (scraper, scrapes) = mpsc::channel(1);
    listener.map(|listener| listener.serve(scraper)).transpose()?;

    let (mut quiet, mut whole) = (false, true);
    tokio::select! {
        () = follow(&mut host, directory, scrapes, &counts) => unreachable!("it follows for ever"),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = sleep_for(duration) => {}
        () = writer.closed() => quiet = true,
        () = broker::ended(&broker) => whole = false,
    };
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        output::say("stopped at once, with events still on their way");
        std::process::exit(1);
    });
    let (poller, plugins) = host.into_parts();
    let sources = block_in_place(|| poller.stop());
    _ = messages.send(Message::Stop).await;
    let dispatched = dispatched.await.context("the dispatcher failed; this is a defect of the host")?;
    let plugins = plugins.finish().await;
    finish_output(writer).await;
    let summary = Summary::new(&sources, &dispatched, inbox.counts(), plugins);
    if !quiet {
        output::say(&summary.for_people());
    }
    summary_file.map(|file| file.write(&summary)).transpose()?;
    broker.stop();
    ensure!(whole, "{}", crate::broker::GONE);
    Ok(())
}

/// Follows what changes while the host runs, and answers whoever asks for metrics, which a plugin that is starting may delay.
async fn follow(
    host: &mut Host,
    mut directory: Option<Directory>,
    mut scrapes: mpsc::Receiver<Scrape>,
    counts: &Dispatched,
) {
    let rolled_back = host.rolled_back();
    loop {
        let changes = async {
            match &mut directory {
                Some(directory) => directory.changes().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(scrape) = scrapes.recv() => host.measure(counts, scrape),
            changes = changes => host.begin(changes).await,
            Some(compiled) = host.compiled() => host.load_found(compiled).await,
            () = rolled_back.notified() => host.follow_back().await,
        }
    }
}

async fn sleep_for(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

async fn finish_output(writer: Writer) {
    let written = tokio::task::spawn_blocking(|| writer.finish());
    if tokio::time::timeout(LAST_LINES_TIME, written).await.is_err() {
        log::error!("standard output takes nothing; its last lines are lost");
    }
}
