//! The host gives up the power that it does not need, and can still do its work.

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use support::{Folder, Host, can_load_bpf, hooks, plugin};

/// CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SYS_PTRACE, CAP_SYS_NICE, CAP_PERFMON, CAP_BPF, by their
/// numbers.
const KEPT: u64 = 1 << 2 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 19 | 1 << 23 | 1 << 38 | 1 << 39;

#[test]
fn every_thread_has_given_up_what_it_does_not_need() {
    if !can_load_bpf() {
        return;
    }
    let host = Host::start(&["--plugin", plugin("json-log").to_str().unwrap(), "--events", "exec"]);
    let ready = host.log.last().unwrap();
    assert!(
        ready.contains("power: user 0; capabilities bpf, perfmon, sys_ptrace, dac_read_search, sys_nice,"),
        "{ready}"
    );
    assert!(ready.contains("system calls; no new privileges"), "{ready}");
    let paranoid =
        fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap().trim().parse::<i32>().unwrap() > 2;
    assert_eq!(ready.contains("sys_admin"), paranoid, "only where tracepoints need it: {ready}");
    let kept = KEPT | if paranoid { 1 << 21 } else { 0 }; // CAP_SYS_ADMIN
    let tasks: Vec<_> = fs::read_dir(format!("/proc/{}/task", host.pid())).unwrap().map(Result::unwrap).collect();
    assert!(tasks.len() > 3, "{} threads", tasks.len());
    for task in tasks {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let fact = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(u64::from_str_radix(fact(set), 16).unwrap() & !kept, 0, "{set} {status}");
        }
        assert_eq!((fact("CapInh:"), fact("CapAmb:")), ("0000000000000000", "0000000000000000"), "{status}");
        assert_eq!((fact("NoNewPrivs:"), fact("Seccomp:")), ("1", "2"), "{status}");
    }
    host.stop();
}

#[test]
fn the_thread_that_reads_the_rings_goes_before_others() {
    if !can_load_bpf() {
        return;
    }
    let host = Host::start(&["--plugin", plugin("json-log").to_str().unwrap(), "--events", "exec"]);
    let mut tasks = fs::read_dir(format!("/proc/{}/task", host.pid())).unwrap().map(|task| task.unwrap().path());
    let poll = tasks.find(|task| fs::read_to_string(task.join("comm")).unwrap() == "poll\n").expect("a thread reads");
    let stat = fs::read_to_string(poll.join("stat")).unwrap();
    let nice: i32 = stat.rsplit(") ").next().unwrap().split(' ').nth(16).unwrap().parse().unwrap();
    assert!(nice < 0, "its niceness is {nice}");
}

#[test]
fn sources_of_plugins_that_come_later_are_attached_and_others_processes_are_known() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("later");
    // A process of another user that was there before: what it runs is read from /proc, which not everybody may.
    let mut before = Command::new("/bin/sleep").arg("60").uid(65_534).gid(65_534).spawn().unwrap();
    let mut host = Host::start(&["--plugin-dir", folder.0.to_str().unwrap(), "--events", "all", "--alerts", "json"]);
    for name in ["container-map", "alerts", "file-top"] {
        let settings = plugin(name).with_extension("toml");
        folder.put(&format!("{name}.toml"), &fs::read(settings).unwrap());
        folder.put(&format!("{name}.wasm"), &fs::read(plugin(name)).unwrap());
        host.expect_log(&format!("plugin {name} loaded"));
    }
    host.log.extend(host.stderr.try_iter());
    for source in ["process", "syscall", "files", "tcp", "seccomp", "cgroup"] {
        let attached = format!("source {source} attached by");
        assert!(host.log.iter().any(|line| line.contains(&attached)), "{source}: {:#?}", host.log);
    }
    assert!(!host.log.iter().any(|line| line.starts_with("error")), "{:#?}", host.log);
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
    before.kill().unwrap();
    before.wait().unwrap();
    host.interrupt();
    assert!(host.wait().success(), "{:#?}", host.log);
}

#[test]
fn every_hook_that_this_kernel_has_is_attached_with_what_is_left() {
    for (source, kind) in [
        ("process", "exec"),
        ("files", "file-activity"),
        ("files", "file-open"),
        ("tcp", "tcp-connect"),
        ("ipc", "ipc-access"),
        ("seccomp", "seccomp-action"),
        ("syscall", "syscall"),
        ("cgroup", "cgroup-created"),
    ] {
        for hook in hooks(source) {
            let host =
                Host::start(&["--plugin", plugin("json-log").to_str().unwrap(), "--events", kind, "--hooks", hook]);
            let ready = host.log.last().unwrap();
            assert!(ready.contains(&format!("{source} ({hook}")), "{source} by {hook}: {:#?}", host.log);
        }
    }
}
