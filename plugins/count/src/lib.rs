//! Counts the events of every kind and, of system calls, those of each number. Prints what it has counted when it stops, as a
//! line of JSON. What it does with an event is next to nothing, so it shows what it costs to deliver one.

use std::collections::BTreeMap;
use std::io::Write;

use eunomia_plugin::prelude::*;
use eunomia_plugin::syscall::Abi;
use eunomia_plugin::syscalls;
use serde::Serialize;

/// Numbers counted one by one for each way to call. No table has as many; those beyond are counted as the last of them.
const NUMBERS: usize = 1_024;

/// The ways to call, in the order of the cases of `abi`.
const ABIS: [(Abi, &str); 3] = [(Abi::Native, "native"), (Abi::Compat, "compat"), (Abi::X32, "x32")];

#[derive(Default)]
struct Count {
    events: BTreeMap<&'static str, u64>,
    /// As long as the largest number so far: pages of memory that nothing has touched cost nothing.
    calls: [Vec<u64>; ABIS.len()],
}

/// A system call, and how often it was made.
#[derive(Serialize)]
struct Call {
    abi: &'static str,
    number: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    count: u64,
}

/// What is printed.
#[derive(Serialize)]
struct Totals<'a> {
    kind: &'static str,
    events: &'a BTreeMap<&'static str, u64>,
    /// The most frequent first.
    syscalls: Vec<Call>,
}

impl Count {
    fn add(&mut self, kind: &'static str, events: usize) {
        *self.events.entry(kind).or_default() += events as u64;
    }

    fn add_calls(&mut self, calls: &[Syscall]) {
        for call in calls {
            let counts = &mut self.calls[call.abi as usize];
            let number = (call.number as usize).min(NUMBERS - 1);
            if number >= counts.len() {
                counts.resize(number + 1, 0);
            }
            counts[number] += 1;
        }
    }

    fn totals(&self, name: fn(Abi, u32) -> Option<String>) -> String {
        let mut syscalls = Vec::new();
        for ((abi, abi_name), counts) in ABIS.into_iter().zip(&self.calls) {
            let made = (0..).zip(counts).filter(|(_, count)| **count > 0);
            syscalls.extend(made.map(|(number, count)| Call {
                abi: abi_name,
                number,
                name: name(abi, number),
                count: *count,
            }));
        }
        syscalls.sort_by_key(|call| std::cmp::Reverse(call.count));
        let totals = Totals { kind: "count", events: &self.events, syscalls };
        serde_json::to_string(&totals).expect("strings and numbers always serialise") + "\n"
    }
}

impl Plugin for Count {
    fn stop(&mut self) {
        _ = std::io::stdout().lock().write_all(self.totals(syscalls::name).as_bytes());
    }
}

impl OnSyscall for Count {
    fn on_syscall(&mut self, events: Vec<Syscall>) {
        self.add("syscall", events.len());
        self.add_calls(&events);
    }
}

/// A handler for each of the other kinds, all alike.
macro_rules! count {
    ($($interface:ident::$method:ident($event:ty), $kind:literal;)*) => {
        $(impl $interface for Count {
            fn $method(&mut self, events: Vec<$event>) {
                self.add($kind, events.len());
            }
        })*

        export!(Count: OnSyscall, $($interface),*);
    };
}

count! {
    OnExec::on_exec(Exec), "exec";
    OnExit::on_exit(Exit), "exit";
    OnFork::on_fork(Fork), "fork";
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use eunomia_plugin::syscall::FlatComm;

    fn call(abi: Abi, number: u32) -> Syscall {
        let comm = FlatComm { low: 0, high: 0 };
        let (time, start_time, cgroup, pid, tid, ppid, uid, gid) = Default::default();
        let (arg0, arg1, arg2, arg3, arg4, arg5) = Default::default();
        #[rustfmt::skip]
        let call = Syscall {
            time, start_time, cgroup, comm, pid, tid, ppid, uid, gid, number, arg0, arg1, arg2, arg3, arg4, arg5, abi,
        };
        call
    }

    #[test]
    fn calls_are_counted_by_number_and_by_how_they_are_made() {
        let mut count = Count::default();
        count.add("exec", 2);
        count.add("exec", 1);
        count.add_calls(&[
            call(Abi::Native, 110),
            call(Abi::Compat, 110),
            call(Abi::Native, 110),
            call(Abi::X32, 9_999),
        ]);
        let expected = concat!(
            r#"{"kind":"count","events":{"exec":3},"syscalls":["#,
            r#"{"abi":"native","number":110,"name":"getppid","count":2},"#,
            r#"{"abi":"compat","number":110,"count":1},{"abi":"x32","number":1023,"count":1}]}"#,
            "\n"
        );
        let name = |abi, _| (abi == Abi::Native).then(|| "getppid".to_owned());
        assert_eq!(count.totals(name), expected);
    }
}
