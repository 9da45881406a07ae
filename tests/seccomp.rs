//! The source seccomp on the running kernel: each action of a real filter, by every rung. Needs root.

mod support;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use eunomia_host::event::{Columns, Kind, KindSet};
use eunomia_host::wit::seccomp::Action;
use eunomia_host::wit::syscall::Abi;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
use support::{CALLS, each_hook, is_tracepoint, run_calls, watch};

const GETPPID: u32 = 110;

/// How often each action is caused.
const TIMES: usize = 50;

/// This test program as a workload under a filter.
fn workload(action: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "under_a_filter", "--ignored", "--nocapture", "--test-threads", "2"]);
    command.env("EUNOMIA_ACTION", action).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn filter(action: SeccompAction) {
    let rules = BTreeMap::from([(i64::from(GETPPID), vec![])]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, TargetArch::x86_64).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

#[test]
#[ignore = "a workload of other tests"]
fn under_a_filter() {
    let call = || _ = rustix::process::getppid();
    match std::env::var("EUNOMIA_ACTION").unwrap_or_default().as_str() {
        "errno" => {
            filter(SeccompAction::Errno(13));
            (0..TIMES).for_each(|_| call());
        }
        "trap" => {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _handler = tokio.block_on(async {
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(31)).unwrap()
            });
            filter(SeccompAction::Trap);
            (0..TIMES).for_each(|_| call());
        }
        "log" => {
            filter(SeccompAction::Log);
            (0..TIMES).for_each(|_| call());
        }
        "kill-process" => {
            filter(SeccompAction::KillProcess);
            call();
        }
        "kill-thread" => {
            let before = std::fs::read_dir("/proc/self/task").unwrap().count();
            for _ in 0..TIMES {
                std::thread::spawn(move || {
                    filter(SeccompAction::KillThread);
                    call();
                });
                // A thread that was killed cannot be joined.
                while std::fs::read_dir("/proc/self/task").unwrap().count() > before {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            std::process::exit(0);
        }
        _ => {}
    }
}

fn actions(seen: &Columns, pid: u32) -> Vec<Action> {
    let own = seen.seccomp_action.iter().filter(|event| event.task.pid == pid);
    own.inspect(|event| assert_eq!((event.number, event.abi), (GETPPID, Abi::Native), "{event:?}"))
        .map(|event| event.action)
        .collect()
}

#[test]
fn each_action_of_a_filter_is_seen() {
    each_hook("seccomp", |hook| {
        let kinds = [Kind::SeccompAction].into_iter().collect::<KindSet>();
        let mut pids = BTreeMap::new();
        let mut killed = Vec::new();
        let seen = watch(hook, kinds, || {
            for action in ["errno", "trap", "log", "kill-thread"] {
                let mut child = workload(action).spawn().unwrap();
                pids.insert(action, child.id());
                assert!(child.wait().unwrap().success(), "{action}");
            }
            for _ in 0..TIMES {
                let mut child = workload("kill-process").spawn().unwrap();
                killed.push(child.id());
                let status = child.wait().unwrap();
                assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(31));
            }
        });
        assert_eq!(actions(&seen, pids["errno"]), vec![Action::Errno; TIMES], "{hook}");
        assert!(
            seen.seccomp_action
                .iter()
                .filter(|event| event.task.pid == pids["errno"])
                .all(|event| event.errno == Some(13))
        );
        assert_eq!(actions(&seen, pids["trap"]), vec![Action::Trap; TIMES], "{hook}");
        assert_eq!(actions(&seen, pids["kill-thread"]), vec![Action::KillThread; TIMES], "{hook}");
        for pid in killed {
            assert_eq!(actions(&seen, pid), [Action::KillProcess], "{hook}");
        }
        // Tracepoints say that they miss these.
        let logged = if is_tracepoint(hook) { 0 } else { TIMES };
        assert_eq!(actions(&seen, pids["log"]), vec![Action::Log; logged], "{hook}");
    });
}

#[test]
fn what_a_supervisor_answers_is_seen() {
    each_hook("seccomp", |hook| {
        let mut pid = 0;
        let seen = watch(hook, [Kind::SeccompAction].into_iter().collect::<KindSet>(), || {
            pid = run_calls("user-notif").expect("every kernel has it").0;
        });
        let did: Vec<_> = seen.seccomp_action.iter().filter(|event| event.task.pid == pid).collect();
        assert!(did.iter().all(|event| event.number == GETPPID && event.signal.is_none()), "{hook}");
        // Refused, answered with a number, let go on.
        let errors = [Some(5), Some(0), Some(0)].map(|error| [error; CALLS]).concat();
        let (action, seen) =
            if is_tracepoint(hook) { (Action::Errno, &errors[..2 * CALLS]) } else { (Action::UserNotif, &errors[..]) };
        assert_eq!(did.iter().map(|event| event.errno).collect::<Vec<_>>(), seen, "{hook}");
        assert!(did.iter().all(|event| event.action == action), "{hook}: {:?}", did[0]);
    });
}

#[test]
fn what_a_tracer_is_asked_is_seen() {
    each_hook("seccomp", |hook| {
        let mut child = 0;
        let seen = watch(hook, [Kind::SeccompAction].into_iter().collect::<KindSet>(), || {
            child = run_calls("trace").expect("every kernel has it").1;
        });
        let asked = if is_tracepoint(hook) { 0 } else { CALLS };
        assert_eq!(actions(&seen, child), vec![Action::Trace; asked], "{hook}");
    });
}
