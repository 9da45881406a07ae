//! The command line and the settings files, made into one validated `Config`. It knows nothing of the kernel or of Wasm.

mod reading;
mod settings;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};

pub use settings::parse_settings;

use crate::event::{Kind, KindSet};
use crate::output::AlertFormat;
use crate::plugin::Settings;
use settings::SettingsTable;

/// The kernel's limit of a thread's name, its end included.
const MAX_COMM_BYTES: usize = 15;

const EXAMPLES: &str = "\
Examples:
  eunomia-host --plugin json-log.wasm                  every event as a JSON line, until Ctrl-C
  eunomia-host --plugin alerts.wasm --alerts human     alerts for people
  eunomia-host --plugin-dir /etc/eunomia/plugins       plugins come and go with the files there
  eunomia-host --plugin json-log.wasm --events exec --uid 1000 --duration 60
  eunomia-host sources                                 what this kernel offers
  eunomia-host inspect alerts.wasm                     what a plugin handles and needs

NAME.toml beside NAME.wasm holds a plugin's settings. Plugins' output and alerts go to standard output, the host's log
and the summary at the end to standard error.";

/// Delivers Linux kernel events to sandboxed Wasm plugins.
#[derive(Parser, Debug)]
#[command(name = "eunomia-host", version, about, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

/// What to do instead of running plugins.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Show which sources of events work on this kernel, by which hook, and why not by a better one
    Sources {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// With the last lines of the kernel's verifier for each hook that was refused
        #[arg(long, short)]
        verbose: bool,
        /// Only these hooks, to see what they would give
        #[arg(long, value_name = "HOOK,...", value_delimiter = ',')]
        hooks: Vec<String>,
    },
    /// Show what a plugin handles, filters and imports, and what it would be refused
    Inspect {
        /// The plugin
        file: PathBuf,
    },
    /// Show the versions of the host and of the plugin interface
    Version,
    /// What the host starts itself once more for: keeps the power that the host gives up, and uses it for the host on standard
    /// input
    #[command(hide = true)]
    Broker,
    /// What the host calls itself for: compiles the plugin on standard input to machine code on standard output
    #[command(hide = true)]
    Compile {
        /// The most address space
        memory_bytes: u64,
        /// The most processor time
        cpu_seconds: u64,
    },
}

#[derive(Args, Debug)]
struct RunArgs {
    /// Run this plugin (may be repeated; filters affect the plugins named after them)
    #[arg(long = "plugin", value_name = "FILE")]
    plugins: Vec<PathBuf>,
    /// Run every NAME.wasm of this directory, and follow its changes
    #[arg(long, value_name = "DIR")]
    plugin_dir: Option<PathBuf>,
    /// Read settings from this file; the command line goes before it
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Deliver only these kinds of events
    #[arg(long, value_name = "KIND,...|all", value_delimiter = ',')]
    events: Vec<String>,
    /// Only events of this process (may be repeated)
    #[arg(long = "pid", value_name = "N")]
    pids: Vec<u32>,
    /// Only events of threads with this name (may be repeated)
    #[arg(long = "comm", value_name = "NAME")]
    comms: Vec<String>,
    /// Only events of this user id (may be repeated)
    #[arg(long = "uid", value_name = "N")]
    uids: Vec<u32>,
    /// Only events of this cgroup and those below it, by path or id (may be repeated)
    #[arg(long = "cgroup", value_name = "PATH")]
    cgroups: Vec<String>,
    /// Only events of the container with this name or id, also where it starts later (may be repeated)
    #[arg(long = "container", value_name = "NAME|ID")]
    containers: Vec<String>,
    /// Also events of this host itself and of what its plugins do
    #[arg(long)]
    include_self: bool,
    /// Use only these hooks, to see what they give: fentry (with fexit), kprobe (with kretprobe), tp_btf, raw_tp, tp;
    /// tracepoint means the last three
    #[arg(long, value_name = "HOOK,...", value_delimiter = ',')]
    hooks: Vec<String>,
    /// How long an event may wait for others to be delivered with, in milliseconds [default: 1]
    #[arg(long, value_name = "N")]
    latency_ms: Option<u64>,
    /// The size of a source's ring buffers together: 65536, 64K, 16M (may be repeated)
    #[arg(long, value_name = "SOURCE=SIZE")]
    ring_bytes: Vec<String>,
    /// Stop after so many seconds
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// How alerts are shown: human is coloured lines, auto is human on a terminal and JSON lines elsewhere
    #[arg(long, value_enum, value_name = "FORMAT")]
    alerts: Option<AlertFormat>,
    /// Write the summary to this file, as JSON, at the end
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Serve metrics for Prometheus at http://ADDR/metrics: 127.0.0.1:9464, [::1]:9464; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Keep plugins' machine code in this folder, which nobody else may write [root's default: /var/cache/eunomia-host]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    cache: Option<PathBuf>,
    /// Compile plugins at each start
    #[arg(long)]
    no_cache: bool,
}

/// The same from a file.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ConfigFile {
    #[serde(default)]
    plugins: Vec<PathBuf>,
    plugin_dir: Option<PathBuf>,
    events: Option<Vec<String>>,
    #[serde(default)]
    pids: Vec<u32>,
    #[serde(default)]
    comms: Vec<String>,
    #[serde(default)]
    uids: Vec<u32>,
    #[serde(default)]
    cgroups: Vec<String>,
    #[serde(default)]
    include_self: bool,
    #[serde(default)]
    containers: Vec<String>,
    #[serde(default)]
    hooks: Vec<String>,
    #[serde(rename = "latency_ms")]
    latency_ms: Option<u64>,
    /// `[ring_bytes]`: sizes by source.
    #[serde(rename = "ring_bytes", default)]
    ring_bytes: BTreeMap<String, u64>,
    #[serde(rename = "duration_seconds")]
    duration: Option<f64>,
    alerts: Option<AlertFormat>,
    summary: Option<PathBuf>,
    metrics: Option<SocketAddr>,
    cache: Option<PathBuf>,
    #[serde(default)]
    no_cache: bool,
    /// `[plugin.NAME]`: the same as NAME.toml, and read after it.
    #[serde(default)]
    plugin: BTreeMap<String, SettingsTable>,
}

/// What to run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Config {
    /// Plugins named one by one.
    pub plugins: Vec<PathBuf>,
    /// A directory of plugins.
    pub plugin_dir: Option<PathBuf>,
    /// The kinds that plugins may have; none where each plugin's own settings say it.
    pub events: Option<KindSet>,
    /// Only these processes; all when empty.
    pub pids: Vec<u32>,
    /// Only threads with these names; all when empty.
    pub comms: Vec<String>,
    /// Only these users; all when empty.
    pub uids: Vec<u32>,
    /// Only these cgroups, by path or id; all when empty.
    pub cgroups: Vec<String>,
    /// Also the host's own events.
    pub include_self: bool,
    /// Only these containers, by name, id, or its beginning; all when empty.
    pub containers: Vec<String>,
    /// Only these hooks; any when empty.
    pub hooks: Vec<String>,
    /// How long an event may wait for others.
    pub latency: Duration,
    /// Sizes of rings, in bytes, of sources that are not to have their own.
    pub ring_bytes: BTreeMap<String, u32>,
    /// How long to run.
    pub duration: Option<Duration>,
    /// How alerts are shown.
    pub alerts: AlertFormat,
    /// Where the summary goes.
    pub summary: Option<PathBuf>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Where machine code is kept.
    pub cache: CacheFolder,
    settings: BTreeMap<String, SettingsTable>,
}

/// Where machine code is kept from one run to the next.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheFolder {
    /// In the usual place, if it can be used.
    #[default]
    Usual,
    /// In this folder, or the host does not start.
    Named(PathBuf),
    /// Nowhere.
    None,
}

impl Cli {
    /// The subcommand, or what to run.
    pub fn into_config(self) -> Result<Result<Command, Config>> {
        match self.command {
            Some(command) => Ok(Ok(command)),
            None => self.run.into_config().map(Err),
        }
    }
}

impl RunArgs {
    fn into_config(self) -> Result<Config> {
        let file = match &self.config {
            Some(path) => read_config(path)?,
            None => ConfigFile::default(),
        };
        let events = if self.events.is_empty() { file.events } else { Some(self.events) };
        let duration = self.duration.or(file.duration).map(Duration::try_from_secs_f64).transpose();
        let config = Config {
            plugins: or_else(self.plugins, file.plugins),
            plugin_dir: self.plugin_dir.or(file.plugin_dir),
            events: events.map(|names| kinds(&names)).transpose()?,
            pids: or_else(self.pids, file.pids),
            comms: or_else(self.comms, file.comms),
            uids: or_else(self.uids, file.uids),
            cgroups: or_else(self.cgroups, file.cgroups),
            include_self: self.include_self || file.include_self,
            containers: or_else(self.containers, file.containers),
            hooks: or_else(self.hooks, file.hooks),
            latency: reading::latency(self.latency_ms.or(file.latency_ms))?,
            ring_bytes: reading::ring_bytes(file.ring_bytes, &self.ring_bytes)?,
            duration: duration.context("the duration must be a positive number of seconds")?,
            alerts: self.alerts.or(file.alerts).unwrap_or_default(),
            summary: self.summary.or(file.summary),
            metrics: self.metrics.or(file.metrics),
            cache: match (self.no_cache, self.cache, file.no_cache, file.cache) {
                (true, ..) | (false, None, true, _) => CacheFolder::None,
                (_, Some(folder), ..) | (_, None, false, Some(folder)) => CacheFolder::Named(folder),
                (false, None, false, None) => CacheFolder::Usual,
            },
            settings: file.plugin,
        };
        config.check()?;
        Ok(config)
    }
}

fn or_else<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
    if first.is_empty() { second } else { first }
}

fn read_config(path: &Path) -> Result<ConfigFile> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    toml::from_str(&text).map_err(|error| settings::explain(path, &error))
}

/// The kinds of a list of names.
fn kinds(names: &[String]) -> Result<KindSet> {
    if names.iter().any(|name| name == "all") {
        return Ok(KindSet::all());
    }
    names.iter().map(|name| name.parse::<Kind>().map_err(anyhow::Error::msg)).collect()
}

fn check_comm(setting: &str, comm: &str) -> Result<()> {
    ensure!(
        !comm.is_empty() && comm.len() <= MAX_COMM_BYTES,
        "{setting} '{comm}': a thread's name has 1 to {MAX_COMM_BYTES} bytes; the kernel cuts longer names"
    );
    Ok(())
}

impl Config {
    fn check(&self) -> Result<()> {
        ensure!(
            !self.plugins.is_empty() || self.plugin_dir.is_some(),
            "there is nothing to run: name a plugin with --plugin FILE or a directory of plugins with --plugin-dir DIR \
             (eunomia-host --help shows examples)"
        );
        for comm in &self.comms {
            check_comm("--comm", comm)?;
        }
        ensure!(
            self.containers.iter().all(|name| !name.is_empty()),
            "--container has no name; `docker ps` shows names"
        );
        if let Some(directory) = &self.plugin_dir
            && let Err(error) = std::fs::read_dir(directory)
        {
            bail!("cannot read the plugin directory {}: {error}; create it, or name another", directory.display());
        }
        Ok(())
    }

    /// A plugin's settings: NAME.toml beside its file, then the configuration's `[plugin.NAME]`, then `--events`.
    pub fn settings_of(&self, name: &str, (file, text): (&Path, Option<&str>)) -> Result<Settings> {
        let mut settings = parse_settings(file, text)?;
        if let Some(table) = self.settings.get(name) {
            table.clone().apply(&mut settings)?;
        }
        if let Some(events) = self.events {
            settings.events = Some(events);
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config> {
        let cli = Cli::try_parse_from(std::iter::once("eunomia-host").chain(args.iter().copied()))?;
        Ok(cli.into_config()?.expect_err("not a subcommand"))
    }

    #[test]
    fn the_help_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn events_are_kinds_or_all() {
        let events = config(&["--plugin", "a.wasm", "--events", "exec,exit"]).unwrap().events.unwrap();
        assert_eq!(events, [Kind::Exec, Kind::Exit].into_iter().collect());
        assert_eq!(config(&["--plugin", "a.wasm", "--events", "all"]).unwrap().events, Some(KindSet::all()));
        let error = config(&["--plugin", "a.wasm", "--events", "execs"]).unwrap_err().to_string();
        assert!(error.contains("'execs'"), "{error}");
    }

    #[test]
    fn machine_code_is_kept_in_the_usual_place_unless_somebody_says_otherwise() {
        let cache = |more: &[&str]| config(&[&["--plugin", "a.wasm"], more].concat()).unwrap().cache;
        assert_eq!(cache(&[]), CacheFolder::Usual);
        assert_eq!(cache(&["--cache", "/a"]), CacheFolder::Named("/a".into()));
        assert_eq!(cache(&["--no-cache"]), CacheFolder::None);
        assert!(config(&["--plugin", "a.wasm", "--no-cache", "--cache", "/a"]).is_err());
        let path = std::env::temp_dir().join(format!("eunomia-cache-{}.toml", std::process::id()));
        let from_file = |text: &str, more: &[&str]| {
            std::fs::write(&path, text).unwrap();
            cache(&[&["--config", path.to_str().unwrap()], more].concat())
        };
        assert_eq!(from_file("no-cache = true", &[]), CacheFolder::None);
        assert_eq!(from_file("no-cache = true", &["--cache", "/b"]), CacheFolder::Named("/b".into()));
        assert_eq!(from_file("cache = '/a'", &[]), CacheFolder::Named("/a".into()));
        assert_eq!(from_file("cache = '/a'", &["--no-cache"]), CacheFolder::None);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_cannot_run_is_refused_with_the_remedy() {
        let text = |args: &[&str]| config(args).unwrap_err().to_string();
        assert!(text(&[]).contains("--plugin FILE"));
        assert!(text(&["--plugin", "a.wasm", "--comm", "a-name-that-is-too-long"]).contains("15 bytes"));
        assert!(text(&["--plugin", "a.wasm", "--duration=-1"]).contains("positive"));
        assert!(text(&["--plugin-dir", "/does/not/exist"]).contains("create it"));
    }

    #[test]
    fn an_unknown_key_names_file_line_and_key() {
        let path = std::env::temp_dir().join(format!("eunomia-config-{}.toml", std::process::id()));
        std::fs::write(&path, "alerts = \"json\"\nplugin_dirs = \"x\"\n").unwrap();
        let error = format!("{:#}", config(&["--config", path.to_str().unwrap()]).unwrap_err());
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("line 2"), "{error}");
        assert!(error.contains("`plugin_dirs`") && error.contains("`plugin-dir`"), "{error}");
    }
}
