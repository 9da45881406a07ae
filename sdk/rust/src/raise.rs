//! Alerts, tersely.

use crate::alerts::{self, Alert, Field, RaisedAlert, Severity};
use crate::cgroup::{CgroupCreated, CgroupRemoved};
use crate::files::{FileActivity, FileChange, FileOpen};
use crate::ipc::IpcAccess;
use crate::process::{Exec, Exit, Fork};
use crate::seccomp::SeccompAction;
use crate::syscall::{FlatComm, Syscall, SyscallCount};
use crate::tcp::{TcpAccept, TcpClose, TcpConnect};
use crate::types::{Task, Timestamp};

/// An event that an alert can be about.
pub trait About {
    /// When it happened.
    fn time(&self) -> Timestamp;
    /// Who did it.
    fn task(&self) -> Option<&Task>;
}

macro_rules! about {
    ($($event:ty),*) => { $(
        impl About for $event {
            fn time(&self) -> Timestamp {
                self.time
            }

            fn task(&self) -> Option<&Task> {
                Some(&self.task)
            }
        }
    )* };
}

about!(
    Exec,
    Exit,
    Fork,
    SyscallCount,
    FileActivity,
    FileOpen,
    FileChange,
    TcpConnect,
    TcpAccept,
    TcpClose,
    IpcAccess,
    SeccompAction,
    CgroupCreated,
    CgroupRemoved
);

impl About for RaisedAlert {
    fn time(&self) -> Timestamp {
        self.alert.time
    }

    fn task(&self) -> Option<&Task> {
        self.alert.task.as_ref()
    }
}

impl FlatComm {
    /// The thread's name. Bytes that are not UTF-8 become U+FFFD.
    pub fn text(&self) -> String {
        let bytes = [self.low.to_le_bytes(), self.high.to_le_bytes()].concat();
        String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
    }
}

impl Syscall {
    /// Who called, as other events have it. Its namespaces are 0: a flat record does not tell them.
    pub fn task(&self) -> Task {
        let Syscall { pid, tid, ppid, uid, gid, cgroup, start_time, .. } = *self;
        Task { pid, tid, ppid, uid, gid, comm: self.comm.text(), cgroup, pid_ns: 0, mnt_ns: 0, user_ns: 0, start_time }
    }
}

impl Alert {
    /// An alert about nothing in particular yet. `rule` is short and stable, `message` a sentence for a person.
    pub fn new(severity: Severity, rule: &str, message: impl Into<String>) -> Self {
        Alert { time: 0, severity, rule: rule.to_owned(), message: message.into(), task: None, fields: Vec::new() }
    }

    /// Takes time and task from an event.
    #[must_use]
    pub fn about(mut self, event: &impl About) -> Self {
        self.time = event.time();
        self.task = event.task().cloned();
        self
    }

    /// Adds a named value.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<String>) -> Self {
        self.fields.push(Field { name: name.to_owned(), value: value.into() });
        self
    }

    /// Raises it.
    pub fn raise(self) {
        alerts::raise(&self);
    }
}
