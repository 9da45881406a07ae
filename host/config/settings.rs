//! A plugin's settings: `NAME.toml` beside `NAME.wasm`, or a table of the configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use crate::plugin::{Grants, Limits, OnFault, Settings};

/// The shortest interval between ticks: shorter ones would cost more than they can tell.
const MIN_TICK_MS: u64 = 10;

/// The most processes, names, users or cgroups that a plugin is narrowed to: as many as a run.
const MAX_NARROW: usize = 1_024;

/// What a settings file may hold.
#[derive(Serialize, Deserialize, Default, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct SettingsTable {
    order: Option<i64>,
    events: Option<Vec<String>>,
    #[serde(default)]
    narrow: NarrowTable,
    tick_ms: Option<u64>,
    #[serde(rename = "on-fault")]
    on_fault: Option<OnFault>,
    #[serde(rename = "when-down")]
    when_down: Option<WhenDown>,
    #[serde(default)]
    limits: LimitsTable,
    #[serde(default)]
    grants: GrantsTable,
    config: Option<toml::Table>,
}

/// Whose events the plugin gets.
#[derive(Serialize, Deserialize, Default, Clone, Debug)]
#[serde(deny_unknown_fields)]
struct NarrowTable {
    pids: Option<Vec<u32>>,
    comms: Option<Vec<String>>,
    uids: Option<Vec<u32>>,
    cgroups: Option<Vec<String>>,
}

impl NarrowTable {
    /// What stands in it takes the place of what was there before.
    fn apply(self, settings: &mut Settings) -> Result<()> {
        set_list(&mut settings.only.pids, self.pids, "pids")?;
        set_list(&mut settings.only.comms, self.comms, "comms")?;
        set_list(&mut settings.only.uids, self.uids, "uids")?;
        set_list(&mut settings.cgroups, self.cgroups, "cgroups")?;
        settings.only.comms.iter().try_for_each(|name| super::check_comm("narrow.comms", name))
    }
}

fn set_list<T>(to: &mut Vec<T>, list: Option<Vec<T>>, name: &str) -> Result<()> {
    let Some(list) = list else { return Ok(()) };
    ensure!(!list.is_empty(), "narrow.{name} is empty, which is nobody; name some, or leave it out for all");
    ensure!(
        list.len() <= MAX_NARROW,
        "narrow.{name} has {} entries; the most is {MAX_NARROW}: name a cgroup above them, or use several plugins",
        list.len()
    );
    *to = list;
    Ok(())
}

/// What passes while a filter is down.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
#[serde(rename_all = "kebab-case")]
enum WhenDown {
    PassAll,
    PassNone,
}

#[derive(Serialize, Deserialize, Default, Clone, Debug)]
#[serde(deny_unknown_fields)]
struct LimitsTable {
    memory_bytes: Option<u64>,
    deadline_ms: Option<u64>,
    wall_ms: Option<u64>,
    queue_events: Option<u64>,
    call_bytes: Option<u64>,
    handles: Option<u64>,
    parts: Option<u64>,
    log_lines_per_second: Option<u64>,
    log_bytes_per_second: Option<u64>,
    alerts_per_second: Option<u64>,
    alert_bytes: Option<u64>,
    metrics: Option<u64>,
    component_bytes: Option<u64>,
    compile_memory_bytes: Option<u64>,
    compile_seconds: Option<u64>,
}

impl LimitsTable {
    fn apply(self, limits: &mut Limits) -> Result<()> {
        let set = |to: &mut u64, value: Option<u64>| *to = value.unwrap_or(*to);
        set(&mut limits.memory_bytes, self.memory_bytes);
        set(&mut limits.deadline_ms, self.deadline_ms);
        set(&mut limits.wall_ms, self.wall_ms);
        set(&mut limits.queue_events, self.queue_events);
        set(&mut limits.call_bytes, self.call_bytes);
        set(&mut limits.handles, self.handles);
        set(&mut limits.parts, self.parts);
        set(&mut limits.log_lines_per_second, self.log_lines_per_second);
        set(&mut limits.log_bytes_per_second, self.log_bytes_per_second);
        set(&mut limits.alerts_per_second, self.alerts_per_second);
        set(&mut limits.alert_bytes, self.alert_bytes);
        set(&mut limits.metrics, self.metrics);
        set(&mut limits.component_bytes, self.component_bytes);
        set(&mut limits.compile.memory_bytes, self.compile_memory_bytes);
        set(&mut limits.compile.cpu_seconds, self.compile_seconds);
        ensure!(limits.deadline_ms > 0, "limits.deadline_ms is 0; a call needs at least 1 ms");
        ensure!(limits.compile.cpu_seconds > 0, "limits.compile_seconds is 0; a small plugin needs 1");
        let most = Limits::default().component_bytes;
        ensure!(
            limits.component_bytes <= most,
            "limits.component_bytes is {}; files of more than {most} are never read",
            limits.component_bytes
        );
        ensure!(limits.wall_ms > 0, "limits.wall_ms is 0; a call needs at least 1 ms");
        Ok(())
    }
}

#[derive(Serialize, Deserialize, Default, Clone, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct GrantsTable {
    container_registry: Option<bool>,
    folders: Option<Vec<PathBuf>>,
    http: Option<BTreeMap<String, UpstreamTable>>,
}

/// A server: its URL, or a table that also has the methods that may be used.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(untagged, expecting = "a URL, or a table with `url` and `methods`")]
enum UpstreamTable {
    Url(String),
    #[serde(rename_all = "kebab-case")]
    Table {
        url: String,
        methods: Option<Vec<String>>,
    },
}

impl GrantsTable {
    /// What stands in it takes the place of what was granted before.
    fn apply(self, grants: &mut Grants) -> Result<()> {
        grants.container_registry = self.container_registry.unwrap_or(grants.container_registry);
        if let Some(folders) = self.folders {
            grants.folders.clear();
            folders.iter().try_for_each(|folder| grants.add_folder(folder))?;
        }
        if let Some(http) = self.http {
            grants.http.clear();
            for (name, upstream) in http {
                match upstream {
                    UpstreamTable::Url(url) => grants.add_http(&name, &url, None)?,
                    UpstreamTable::Table { url, methods } => grants.add_http(&name, &url, methods)?,
                }
            }
        }
        Ok(())
    }
}

impl SettingsTable {
    pub fn apply(self, settings: &mut Settings) -> Result<()> {
        let set = |to: &mut u64, value: Option<u64>| *to = value.unwrap_or(*to);
        settings.order = self.order.unwrap_or(settings.order);
        settings.on_fault = self.on_fault.unwrap_or(settings.on_fault);
        if let Some(names) = self.events {
            settings.events = Some(super::kinds(&names)?);
        }
        self.narrow.apply(settings)?;
        if let Some(when_down) = self.when_down {
            settings.closed_when_down = matches!(when_down, WhenDown::PassNone);
        }
        set(&mut settings.tick_ms, self.tick_ms);
        self.limits.apply(&mut settings.limits)?;
        if let Some(config) = self.config {
            settings.config = serde_json::to_string(&config).context("[config] cannot be turned into JSON")?;
        }
        self.grants.apply(&mut settings.grants)?;
        ensure!(
            !settings.grants.container_registry || (settings.only.is_all() && settings.cgroups.is_empty()),
            "[narrow] and grants.container-registry: whoever tells of containers needs to see all cgroups; leave one of the two out"
        );
        ensure!(settings.tick_ms >= MIN_TICK_MS, "tick_ms is {}; the least is {MIN_TICK_MS}", settings.tick_ms);
        Ok(())
    }
}

/// A plugin's settings by the text of its settings file. Without one they are the defaults.
pub fn parse_settings(path: &Path, text: Option<&str>) -> Result<Settings> {
    let mut settings = Settings::default();
    let Some(text) = text else { return Ok(settings) };
    let table: SettingsTable = toml::from_str(text).map_err(|error| explain(path, &error))?;
    table.apply(&mut settings).with_context(|| format!("in the settings {}", path.display()))?;
    Ok(settings)
}

/// A TOML error with its file; line, column and key are in the error's own text.
pub(super) fn explain(path: &Path, error: &toml::de::Error) -> anyhow::Error {
    anyhow!("{}: {}", path.display(), error.to_string().trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings> {
        let mut settings = Settings::default();
        let table: SettingsTable = toml::from_str(text).map_err(|error| explain(Path::new("p.toml"), &error))?;
        table.apply(&mut settings)?;
        Ok(settings)
    }

    #[test]
    fn everything_can_be_set() {
        let settings = read(
            "order = -5\nevents = ['exec']\ntick_ms = 250\non-fault = 'stop'\nwhen-down = 'pass-none'\n\
             [limits]\nmemory_bytes = 1024\ndeadline_ms = 7\nqueue_events = 9\nwall_ms = 8\nalerts_per_second = 3\n[grants]\n[config]\na = [1, 'x']\n",
        )
        .unwrap();
        assert_eq!((settings.order, settings.tick_ms, settings.on_fault), (-5, 250, OnFault::Stop));
        assert!(settings.closed_when_down);
        let limits = settings.limits;
        assert_eq!((limits.memory_bytes, limits.deadline_ms, limits.queue_events), (1024, 7, 9));
        assert_eq!((limits.wall_ms, limits.alerts_per_second), (8, 3));
        assert_eq!(settings.config, r#"{"a":[1,"x"]}"#);
    }

    #[test]
    fn a_plugin_is_narrowed_by_lists_that_name_somebody() {
        let settings = read("[narrow]\npids = [1, 2]\ncomms = ['true']\nuids = [0]\ncgroups = ['/a', '7']\n").unwrap();
        let only = settings.only;
        assert_eq!((only.pids, only.comms, only.uids), (vec![1, 2], vec!["true".to_owned()], vec![0]));
        assert_eq!((settings.cgroups, only.cgroups), (vec!["/a".to_owned(), "7".to_owned()], vec![]));
        for (text, says) in [
            ("[narrow]\npids = []\n", "narrow.pids is empty"),
            ("[narrow]\npid = [1]\n", "unknown field `pid`"),
            ("[narrow]\npids = [-1]\n", "line 2"),
            ("[narrow]\npids = 1\n", "line 2"),
            ("[narrow]\ncomms = ['a-name-of-more-than-15']\n", "1 to 15 bytes"),
            ("[narrow]\nuids = [1]\n[grants]\ncontainer-registry = true\n", "leave one of the two out"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let many = format!("[narrow]\npids = {:?}\n", vec![1; MAX_NARROW + 1]);
        assert!(read(&many).unwrap_err().to_string().contains("the most is 1024"));
    }

    #[test]
    fn grants_are_nothing_by_default_and_replace_those_before() {
        let mut settings = Settings::default();
        assert_eq!(settings.grants, Grants::default());
        let mut apply = |text: &str| {
            let table: SettingsTable = toml::from_str(text).unwrap();
            table.apply(&mut settings).map(|()| settings.grants.to_string())
        };
        let own = "[grants]\ncontainer-registry = true\nfolders = ['/run/a', '/b']\n[grants.http]\n\
                   docker = 'unix:///a.sock'\nhook = { url = 'http://h:80', methods = ['GET', 'POST'] }\n";
        let all = "container-registry, reading /run/a, reading /b, http://docker/ at unix:///a.sock (GET, HEAD), \
                   http://hook/ at http://h:80 (GET, POST)";
        assert_eq!(apply(own).unwrap(), all);
        assert_eq!(apply("order = 1").unwrap(), all, "what says nothing of grants changes none");
        let fewer = apply("[grants]\ncontainer-registry = false\nfolders = ['/c']\nhttp = {}").unwrap();
        assert_eq!(fewer, "reading /c");
        assert!(apply("[grants]\nfolders = ['run']").unwrap_err().to_string().contains("'run'"));
        assert!(apply("[grants.http]\ndocker = 'docker.sock'").unwrap_err().to_string().contains("'docker.sock'"));
    }

    #[test]
    fn what_is_unknown_or_ill_typed_is_named_with_its_line() {
        for (text, line, key) in [
            ("order = 1\nordr = 2\n", "line 2", "ordr"),
            ("[limits]\ndeadline_ms = 'soon'\n", "line 2", "deadline_ms"),
            ("[grants]\nfolder = []\n", "line 2", "folder"),
            ("[grants]\ncontainer-registry = 'yes'\n", "line 2", "boolean"),
            ("[grants.http]\ndocker = 1\n", "line 2", "a URL, or a table"),
            ("\n\non-fault = 'explode'\n", "line 3", "explode"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("p.toml") && error.contains(line) && error.contains(key), "{error}");
        }
        assert!(read("events = ['nothing']").unwrap_err().to_string().contains("'nothing'"));
        assert!(read("tick_ms = 1").unwrap_err().to_string().contains("the least is 10"));
    }
}
