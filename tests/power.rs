//! The host gives up the power that it does not need, and can still do its work.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use eunomia_host::confine;
use support::scrape::until;
use support::{Folder, Host, can_load_bpf, check_sums, children, hooks, plugin};

/// CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_SYS_NICE, CAP_PERFMON, CAP_BPF, by their
/// numbers.
const DAC_READ_SEARCH: u64 = 1 << 2;
const BROKERS: u64 = DAC_READ_SEARCH | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 19 | 1 << 23 | 1 << 38 | 1 << 39;
const SYS_ADMIN: u64 = 1 << 21;

/// The user that the host becomes.
const USER: &str = "65520";

/// What /proc says of a thread, by name.
fn fact(status: &str, name: &str) -> String {
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
}

/// All threads of a process have no capability but these, run as this user, and behind a filter.
fn check_threads(pid: u32, uid: &str, kept: u64) {
    let tasks: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(Result::unwrap).collect();
    assert!(tasks.len() > 2, "{} threads", tasks.len());
    for task in tasks {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let fact = |name: &str| fact(&status, name);
        assert_eq!(fact("Uid:"), [uid; 4].join("\t"), "{status}");
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(u64::from_str_radix(&fact(set), 16).unwrap() & !kept, 0, "{set} {status}");
        }
        assert_eq!(fact("CapInh:") + &fact("CapAmb:"), "0".repeat(32), "{status}");
        assert_eq!((fact("NoNewPrivs:").as_str(), fact("Seccomp:").as_str()), ("1", "2"), "{status}");
    }
}

/// The process that keeps a host's power.
fn broker_of(host: u32) -> u32 {
    let children = children(&host.to_string());
    let [broker] = &children[..] else { panic!("one child, but it has {children:?}") };
    broker.parse().unwrap()
}

#[test]
fn plugins_run_in_a_process_without_power_beside_one_that_has_what_it_needs() {
    if !can_load_bpf() {
        return;
    }
    let host = Host::start(&["--plugin", plugin("json-log").to_str().unwrap(), "--events", "exec"]);
    let ready = host.log.last().unwrap();
    let (own, broker) = ready.split_once("power: ").unwrap().1.split_once("; broker: ").unwrap();
    assert!(own.starts_with(&format!("user {USER}; capabilities dac_read_search; ")), "{ready}");
    assert!(own.ends_with(" system calls; no new privileges"), "{ready}");
    assert!(broker.starts_with("user 0; capabilities bpf, perfmon, sys_ptrace, dac_read_search, sys_nice,"), "{ready}");
    let paranoid =
        fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap().trim().parse::<i32>().unwrap() > 2;
    assert_eq!(broker.contains("sys_admin"), paranoid, "only where tracepoints need it: {ready}");
    check_threads(host.pid(), USER, DAC_READ_SEARCH);
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    assert_eq!((fact(&status, "Gid:"), fact(&status, "Groups:")), ([USER; 4].join("\t"), String::new()));
    check_threads(broker_of(host.pid()), "0", BROKERS | if paranoid { SYS_ADMIN } else { 0 });
    host.stop();
}

#[test]
#[ignore = "a workload of another test"]
fn tries_what_it_may_not() {
    let Some(folder) = std::env::var_os("EUNOMIA_WORKLOAD").map(std::path::PathBuf::from) else { return };
    let there = folder.join("there");
    confine::host().unwrap();
    assert_eq!(fs::read_to_string(&there).unwrap(), "as it was");
    assert_eq!(fs::read_to_string(folder.join("roots")).unwrap(), "as it was", "it may read");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    assert!(fs::write(folder.join("new"), "").is_err());
    assert!(fs::write(&there, "changed").is_err() && fs::OpenOptions::new().append(true).open(&there).is_err());
    assert!(fs::remove_file(&there).is_err() && fs::rename(&there, folder.join("moved")).is_err());
    assert!(fs::create_dir(folder.join("folder")).is_err());
    assert!(Command::new("/bin/true").spawn().is_err());
    let parent = rustix::process::getppid().unwrap();
    assert!(rustix::process::kill_process(parent, rustix::process::Signal::CONT).is_err());
    assert!(
        rustix::thread::set_thread_res_uid(
            rustix::thread::Uid::ROOT,
            rustix::thread::Uid::ROOT,
            rustix::thread::Uid::ROOT
        )
        .is_err()
    );
}

#[test]
fn what_the_host_may_not_do_is_not_done() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("may-not");
    // Even where everybody may.
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777)).unwrap();
    for (name, mode) in [("there", 0o666), ("roots", 0o600)] {
        fs::write(folder.0.join(name), "as it was").unwrap();
        fs::set_permissions(folder.0.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut itself = Command::new(std::env::current_exe().unwrap());
    itself.args(["--exact", "tries_what_it_may_not", "--ignored", "--nocapture"]).env("EUNOMIA_WORKLOAD", &folder.0);
    let output = itself.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(fs::read_to_string(folder.0.join("there")).unwrap(), "as it was");
}

#[test]
fn neither_process_outlives_the_other() {
    if !can_load_bpf() {
        return;
    }
    let is_gone = |pid: u32| until("it ends", || !Path::new(&format!("/proc/{pid}")).exists());
    let signal = |signal: &str, pid: u32| {
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    };
    let start = || Host::start(&["--plugin", plugin("json-log").to_str().unwrap(), "--events", "exec"]);

    let mut host = start();
    let broker = broker_of(host.pid());
    signal("-KILL", host.pid());
    assert!(!host.wait().success());
    is_gone(broker);

    // What a terminal or a service sends to both ends the host, which has the broker end once it needs it no more.
    let host = start();
    let broker = broker_of(host.pid());
    ["-INT", "-TERM"].iter().for_each(|name| signal(name, broker));
    assert!(Command::new("/bin/true").status().unwrap().success());
    let (lines, _) = host.stop();
    assert!(!lines.is_empty());
    is_gone(broker);

    let mut host = start();
    signal("-KILL", broker_of(host.pid()));
    assert_eq!(host.wait().code(), Some(1));
    let told = host.log.iter().filter(|line| line.contains("which keeps its power, does not answer")).count();
    assert_eq!(told, 2, "once when it is noticed, and at the end: {:#?}", host.log);
    assert!(host.log.last().unwrap().starts_with("error: the host's other process"), "{:#?}", host.log);
    check_sums(&host.summary());
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
