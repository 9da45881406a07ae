//! What a rule looks at: an event, and who did it.

use std::cell::OnceCell;

use eunomia_plugin::prelude::*;
use eunomia_plugin::processes::Process;

use crate::rules::On;

/// How far up an alert tells of a process's ancestors.
const MAX_ANCESTORS: usize = 8;

/// The bits of a file's mode that lend its owner's or group's rights to whoever runs it.
const SETID: u32 = 0o6000;

/// An event that rules know.
pub enum Event<'a> {
    Exec(&'a Exec),
    Open(&'a FileOpen),
    Change(&'a FileChange),
    Connect(&'a TcpConnect),
    /// With the call's name.
    Syscall(&'a Syscall, &'a str),
    Seccomp(&'a SeccompAction),
}

/// Asks for a process by pid and start time.
pub type Lookup = fn(u32, Option<u64>) -> Option<Process>;

/// An event and who did it. What the event does not tell of them is asked for when a rule needs it.
pub struct Subject<'a> {
    pub event: Event<'a>,
    pub task: Task,
    lookup: Lookup,
    process: OnceCell<Option<Process>>,
    parent: OnceCell<String>,
}

/// Whether a change lends a file's rights to whoever runs it.
pub fn sets_id(change: &FileChange) -> bool {
    change.change == Change::Chmod && change.new_mode.is_some_and(|mode| mode & SETID != 0)
}

impl Event<'_> {
    pub fn on(&self) -> On {
        match self {
            Event::Exec(_) => On::Exec,
            Event::Open(_) | Event::Change(_) => On::FileWrite,
            Event::Connect(_) => On::Connect,
            Event::Syscall(..) => On::Syscall,
            Event::Seccomp(_) => On::Seccomp,
        }
    }

    fn time(&self) -> u64 {
        match self {
            Event::Exec(event) => event.time,
            Event::Open(event) => event.time,
            Event::Change(event) => event.time,
            Event::Connect(event) => event.time,
            Event::Syscall(event, _) => event.time,
            Event::Seccomp(event) => event.time,
        }
    }

    fn task(&self) -> Task {
        match self {
            Event::Exec(event) => event.task.clone(),
            Event::Open(event) => event.task.clone(),
            Event::Change(event) => event.task.clone(),
            Event::Connect(event) => event.task.clone(),
            Event::Syscall(event, _) => event.task(),
            Event::Seccomp(event) => event.task.clone(),
        }
    }
}

impl<'a> Subject<'a> {
    pub fn new(event: Event<'a>, lookup: Lookup) -> Self {
        let task = event.task();
        Subject { event, task, lookup, process: OnceCell::new(), parent: OnceCell::new() }
    }

    fn process(&self) -> Option<&Process> {
        self.process.get_or_init(|| (self.lookup)(self.task.pid, Some(self.task.start_time))).as_ref()
    }

    /// The program's path; empty where nobody knows.
    pub fn exe(&self) -> &str {
        match self.event {
            Event::Exec(exec) => &exec.exe,
            _ => self.process().map_or("", |process| &process.exe),
        }
    }

    /// The program's arguments, joined by spaces.
    pub fn args(&self) -> String {
        match self.event {
            Event::Exec(exec) => exec.args.join(" "),
            _ => self.process().map(|process| process.args.join(" ")).unwrap_or_default(),
        }
    }

    /// The parent's name.
    pub fn parent(&self) -> &str {
        match self.event {
            Event::Exec(exec) => &exec.parent_comm,
            _ => self
                .parent
                .get_or_init(|| (self.lookup)(self.task.ppid, None).map(|parent| parent.comm).unwrap_or_default()),
        }
    }

    /// The names of the processes above, the nearest first: `bash < sshd < systemd`.
    fn ancestors(&self) -> String {
        let mut names = Vec::new();
        let mut pid = self.task.ppid;
        while names.len() < MAX_ANCESTORS
            && pid != 0
            && let Some(process) = (self.lookup)(pid, None)
        {
            names.push(process.comm);
            pid = process.ppid;
        }
        names.join(" < ")
    }

    /// What was done and to what, in words, and as fields.
    fn what(&self) -> (String, Vec<(&'static str, String)>) {
        let (exe, by) = (self.exe(), &self.task.comm);
        let exe = if exe.is_empty() { by.as_str() } else { exe };
        match &self.event {
            Event::Exec(exec) => (format!("{exe} was started by {}", exec.parent_comm), vec![]),
            Event::Open(open) => {
                let done = if open.created { "made" } else { "opened for writing" };
                (format!("{} was {done} by {exe}", open.path), vec![("path", open.path.clone())])
            }
            Event::Change(change) => {
                let done = match change.change {
                    Change::Delete => "deleted",
                    Change::Rename => "renamed",
                    Change::Link => "linked",
                    Change::Symlink => "made as a symbolic link",
                    Change::Mkdir => "made",
                    Change::Rmdir => "removed",
                    Change::Chmod => "given other permissions",
                    Change::Chown => "given to another owner",
                    Change::Truncate => "cut",
                };
                let mut fields = vec![("path", change.path.clone())];
                fields.extend(change.other_path.clone().map(|path| ("other_path", path)));
                fields.extend(change.new_mode.map(|mode| ("mode", format!("{mode:04o}"))));
                let to = change.other_path.as_ref().map(|path| format!(" to {path}")).unwrap_or_default();
                (format!("{} was {done}{to} by {exe}", change.path), fields)
            }
            Event::Connect(connect) => {
                let (address, port) = (&connect.endpoints.destination_address, connect.endpoints.destination_port);
                let fields = vec![
                    ("destination_address", address.clone()),
                    ("destination_port", port.to_string()),
                    ("error", connect.error.to_string()),
                ];
                (format!("{exe} to {address} port {port}"), fields)
            }
            Event::Syscall(call, name) => {
                let fields = vec![("syscall", (*name).to_owned()), ("arg0", call.arg0.to_string())];
                (format!("{name} by {exe}"), fields)
            }
            Event::Seccomp(action) => {
                let fields = vec![("number", action.number.to_string())];
                (format!("{exe} in system call {}", action.number), fields)
            }
        }
    }

    /// What the alerts about one process and one thing have in common.
    pub fn thing(&self) -> String {
        match &self.event {
            Event::Exec(_) => String::new(),
            Event::Open(open) => open.path.clone(),
            Event::Change(change) => change.path.clone(),
            Event::Connect(connect) => connect.endpoints.destination_address.clone(),
            Event::Syscall(_, name) => (*name).to_owned(),
            Event::Seccomp(action) => action.number.to_string(),
        }
    }

    /// An alert about the event.
    pub fn alert(&self, severity: Severity, rule: &str, message: &str) -> Alert {
        let (what, fields) = self.what();
        let mut alert = Alert::new(severity, rule, format!("{message}: {what}"));
        alert.time = self.event.time();
        alert.task = Some(self.task.clone());
        alert = alert.field("exe", self.exe()).field("args", self.args());
        fields
            .into_iter()
            .fold(alert, |alert, (name, value)| alert.field(name, value))
            .field("ancestors", self.ancestors())
    }
}
