//! Prints a JSON line for every event of every kind, the kind first and the container, where there is one, last.

use std::io::Write;

use eunomia_plugin::prelude::*;
use serde::Serialize;

#[derive(Default)]
struct JsonLog {
    /// Kept from run to run, so that its memory is not asked for again.
    lines: Vec<u8>,
    containers: ContainerCache,
}

#[derive(Serialize)]
struct Line<'a, T> {
    kind: &'static str,
    #[serde(flatten)]
    event: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a Container>,
}

impl JsonLog {
    /// Prints a run of events in one write.
    fn print<T: Serialize + InCgroup>(&mut self, kind: &'static str, events: &[T]) {
        self.lines.clear();
        let mut containers = self.containers.for_run();
        for event in events {
            let line = Line { kind, event, container: containers.of(event) };
            serde_json::to_writer(&mut self.lines, &line).expect("writing to memory does not fail");
            self.lines.push(b'\n');
        }
        _ = std::io::stdout().lock().write_all(&self.lines);
    }
}

impl Plugin for JsonLog {}

/// A handler for each kind, all alike.
macro_rules! print {
    ($($interface:ident::$method:ident($event:ty), $kind:literal;)*) => {
        $(impl $interface for JsonLog {
            fn $method(&mut self, events: Vec<$event>) {
                self.print($kind, &events);
            }
        })*

        export!(JsonLog: $($interface),*);
    };
}

print! {
    OnExec::on_exec(Exec), "exec";
    OnExit::on_exit(Exit), "exit";
    OnFork::on_fork(Fork), "fork";
    OnSyscall::on_syscall(Syscall), "syscall";
    OnSyscallReturn::on_syscall_return(SyscallReturn), "syscall-return";
    OnSyscallCount::on_syscall_count(SyscallCount), "syscall-count";
    OnFileActivity::on_file_activity(FileActivity), "file-activity";
    OnFileIo::on_file_io(FileIo), "file-io";
    OnFileOpen::on_file_open(FileOpen), "file-open";
    OnFileChange::on_file_change(FileChange), "file-change";
    OnTcpConnect::on_tcp_connect(TcpConnect), "tcp-connect";
    OnTcpAccept::on_tcp_accept(TcpAccept), "tcp-accept";
    OnTcpClose::on_tcp_close(TcpClose), "tcp-close";
    OnIpcAccess::on_ipc_access(IpcAccess), "ipc-access";
    OnSeccompAction::on_seccomp_action(SeccompAction), "seccomp-action";
    OnCgroupCreated::on_cgroup_created(CgroupCreated), "cgroup-created";
    OnCgroupRemoved::on_cgroup_removed(CgroupRemoved), "cgroup-removed";
    OnAlert::on_alert(RaisedAlert), "alert";
    OnGap::on_gap(Gap), "gap";
}
