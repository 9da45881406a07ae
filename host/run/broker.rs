//! The broker: the same program once more, started by the host with all the power that this was given. It does for the host,
//! which runs plugins and can do next to nothing, what needs power, and never runs any of a plugin's code.

use std::io::{self, stdin};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use super::host::container_map_beside;
use crate::broker::{self, Answer, Broker, Errand};
use crate::compile::{Cache, Compiler};
use crate::config::{CacheFolder, Config};
use crate::confine::{self, Power};
use crate::directory::{Files, Operator};
use crate::plugin::{Address, Connect, Upstream, connect_for, engine_identity};
use crate::source::{self, JudgedCgroups, Narrowing};

/// The subcommand that makes a broker of this program.
const SUBCOMMAND: &str = "broker";

/// What it says of itself when it starts: what it runs with, or why it does not.
type About = Result<Power, String>;

/// What is asked for a plugin: to be connected to a server that it was granted under a name, on a Unix socket. Answered by
/// an error's number in the system, or by the connection.
#[derive(Serialize, Deserialize)]
struct Question {
    plugin: String,
    upstream: String,
}

/// Starts the broker for this process.
pub fn start(config: &Config) -> Result<(Broker, Power)> {
    let (broker, about) = Broker::start::<About>(SUBCOMMAND, &(config, std::process::id()))?;
    Ok((broker, about.map_err(|why| anyhow!(why))?))
}

/// Waits for its end.
pub async fn ended(broker: &Broker) {
    let broker = broker.clone();
    _ = spawn_blocking(move || broker.wait()).await;
}

/// Has plugins connected to the Unix sockets that they were granted.
pub fn connect(broker: Broker) -> Connect {
    Arc::new(move |plugin, upstream, _| {
        let (broker, question) = (broker.clone(), Question { plugin: plugin.to_string(), upstream });
        Box::pin(async move {
            let asked = spawn_blocking(move || broker.open(Errand::Connect)?.ask::<Result<(), i32>>(&question, &[]));
            let (outcome, frame) = asked.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
            outcome.map_err(io::Error::from_raw_os_error)?;
            let file = frame.files.into_iter().next().ok_or_else(|| io::Error::other("no connection has come"))?;
            let stream = UnixStream::from(file);
            stream.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(stream)
        })
    })
}

/// Is the broker of the host on standard input, until that has ended.
pub fn serve() -> Result<()> {
    let control = UnixStream::from(stdin().as_fd().try_clone_to_owned()?);
    let (config, host): (Config, u32) = broker::introduction(&control)?;
    let started = prepare(&config, host);
    let about: About = started.as_ref().map(|(power, ..)| power.clone()).map_err(|error| format!("{error:#}"));
    let Ok((_, narrowing, cache)) = started else {
        return broker::attend(&control, &about, |_, _| {});
    };
    // It has given up its power, so it may have more than one thread.
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    {
        // What ends the host at a terminal, or by its service, is sent to this process too; but the host needs it to the end.
        let _within = tokio.enter();
        _ = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    }
    let (config, operator, calls) = (Arc::new(config), Operator::of_this_process(), tokio.handle().clone());
    let compiler = Arc::new(Compiler::of_this_program(cache));
    let engine = Arc::new(LazyLock::new(engine_identity as fn() -> Result<Vec<u8>>));
    broker::attend(&control, &about, move |errand, stream| match errand {
        Errand::Sources => source::serve_sources(narrowing.clone(), stream),
        Errand::Cgroups => narrowing.containers.iter().for_each(|judged| judged.serve(stream)),
        Errand::Processes => source::serve_processes(stream),
        Errand::Compile => match &**engine {
            Ok(engine) => compiler.serve(engine, stream),
            Err(error) => log::error!("nothing can be compiled without an engine: {error:#}"),
        },
        Errand::Connect => broker::serve(stream, |question, _| connected(&calls, &config, operator, &question)),
    })?;
    tokio.shutdown_background();
    Ok(())
}

fn prepare(config: &Config, host: u32) -> Result<(Power, Narrowing, Option<Cache>)> {
    let cache = match &config.cache {
        CacheFolder::Usual => Cache::usual(),
        CacheFolder::Named(path) => Some(Cache::open(path)?),
        CacheFolder::None => None,
    };
    let narrowing = Narrowing {
        hooks: source::hooks(&config.hooks)?,
        pids: config.pids.clone(),
        comms: config.comms.clone(),
        uids: config.uids.clone(),
        cgroups: source::cgroup_ids(&config.cgroups)?,
        containers: (!config.containers.is_empty()).then(JudgedCgroups::default),
        exclude_pids: if config.include_self { [0; 2] } else { [host, std::process::id()] },
        ring_bytes: config.ring_bytes.clone(),
    };
    let power = confine::broker().context("the host cannot give up the power that it does not need")?;
    Ok((power, narrowing, cache))
}

/// A connection by which a plugin's calls get to a server that it was granted, and those alone that it was granted.
fn connected(calls: &Handle, config: &Config, operator: Operator, question: &Question) -> Answer {
    let begun = granted(config, operator, question).and_then(|(path, methods)| {
        let proxy = calls.block_on(connect_for(&path, methods))?;
        let (own, its) = UnixStream::pair()?;
        own.set_nonblocking(true)?;
        let _within = calls.enter();
        Ok((proxy, tokio::net::UnixStream::from_std(own)?, its))
    });
    let Question { plugin, upstream } = question;
    let said = format!("plugin {plugin}, http://{}/", upstream.escape_debug());
    match begun {
        Ok((proxy, own, its)) => {
            calls.spawn(async move {
                if let Err(error) = proxy.run(own).await {
                    log::debug!("{said}: {error:#}");
                }
            });
            Answer { files: vec![its.into()], ..Answer::of(Ok::<(), i32>(())) }
        }
        Err(error) => {
            log::debug!("{said}: {error:#}");
            let system = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            Answer::of(Err::<(), i32>(system.unwrap_or(rustix::io::Errno::ACCESS.raw_os_error())))
        }
    }
}

/// The socket that a plugin's settings name as they stand now, and the methods that they allow: the host's word is not enough,
/// as it may have been taken over.
fn granted(
    config: &Config,
    operator: Operator,
    Question { plugin, upstream }: &Question,
) -> Result<(PathBuf, Vec<String>)> {
    ensure!(!plugin.contains('/'), "a plugin's name is no path");
    let is_it = |file: &&Path| file.file_stem().is_some_and(|stem| stem == plugin.as_str());
    let beside = container_map_beside(config);
    let mut named = config.plugins.iter().map(PathBuf::as_path).chain(beside.as_deref());
    let (file, settings) = match (named.find(is_it), &config.plugin_dir) {
        (Some(file), _) => (file.with_extension("toml"), Files::named_settings(file, operator)?),
        (None, Some(folder)) => (folder.join(format!("{plugin}.toml")), Files::settings_in(folder, plugin, operator)?),
        (None, None) => bail!("there is no such plugin"),
    };
    let mut settings = config.settings_of(plugin, (&file, settings.as_deref()))?;
    match settings.grants.http.remove(upstream) {
        Some(Upstream { address: Address::Unix(path), methods }) => Ok((path, methods)),
        _ => bail!("it is not granted"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_connection_is_had_for_what_settings_grant_as_they_stand_and_for_nothing_else() {
        let folder = std::env::temp_dir().join(format!("eunomia-granted-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let text = "[grants.http]\nup = 'unix:///run/a.sock'\nelsewhere = 'http://localhost:80'\n";
        fs::write(folder.join("a.toml"), text).unwrap();
        fs::write(folder.join("b.toml"), "order = 1\n").unwrap();
        let plugins = ["a.wasm", "b.wasm"].map(|name| folder.join(name)).to_vec();
        let (mut named, mut found) = (Config::default(), Config::default());
        named.plugins = plugins;
        found.plugin_dir = Some(folder.clone());
        for config in [named, found] {
            let ask = |plugin: &str, upstream: &str| {
                let question = Question { plugin: plugin.to_owned(), upstream: upstream.to_owned() };
                granted(&config, Operator::of_this_process(), &question)
            };
            assert_eq!(ask("a", "up").unwrap(), ("/run/a.sock".into(), ["GET", "HEAD"].map(String::from).to_vec()));
            for (plugin, upstream) in
                [("a", "elsewhere"), ("a", "down"), ("b", "up"), ("c", "up"), ("", "up"), ("../granted/a", "up")]
            {
                assert!(ask(plugin, upstream).is_err(), "{plugin} {upstream}");
            }
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
