//! The process source alone, on the running kernel: every field, by every rung. Needs root.

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eunomia_host::event::{Batch, Columns, Kind, KindSet};
use eunomia_host::source::{LATENCY, Lookups, Narrowing, Poller, SOURCES, State, Wanted, probe};
use eunomia_host::wit::process::{Exec, Exit, Fork};
use libbpf_rs::query::{LinkInfoIter, ProgInfoIter};
use support::{Folder, can_load_bpf};

/// What was seen of a workload.
#[derive(Default)]
struct Seen {
    exec: Vec<Exec>,
    exit: Vec<Exit>,
    fork: Vec<Fork>,
}

impl Seen {
    fn exec_with(&self, arg: &str) -> &Exec {
        let found: Vec<_> = self.exec.iter().filter(|exec| exec.args.iter().any(|other| other == arg)).collect();
        assert_eq!(found.len(), 1, "executions with the argument {arg}");
        found[0]
    }

    fn exit_of(&self, pid: u32) -> &Exit {
        let found: Vec<_> = self.exit.iter().filter(|exit| exit.task.pid == pid).collect();
        assert_eq!(found.len(), 1, "exits of {pid}");
        found[0]
    }
}

/// Watches the process source while a workload runs.
fn watch(hook: &str, workload: impl FnOnce()) -> Seen {
    let kinds: KindSet = [Kind::Exec, Kind::Exit, Kind::Fork].into_iter().collect();
    let Columns { exec, exit, fork, .. } = support::watch(hook, kinds, workload);
    Seen { exec, exit, fork }
}

/// This test program as a workload: the harness runs a test in a thread that is not the process's first.
fn itself(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads", "2"]);
    command.env("EUNOMIA_WORKLOAD", "1").stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
#[ignore = "a workload of other tests"]
fn exits_from_another_thread() {
    if std::env::var_os("EUNOMIA_WORKLOAD").is_some() {
        std::process::exit(7);
    }
}

#[test]
#[ignore = "a workload of other tests"]
fn executes_from_another_thread() {
    if std::env::var_os("EUNOMIA_WORKLOAD").is_some() {
        panic!("{}", Command::new("/bin/true").arg("from-a-thread").exec());
    }
}

#[test]
fn every_field_of_exec_is_right() {
    support::each_hook("process", |hook| {
        let folder = Folder::new("fields");
        let script = folder.0.join("script");
        fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
        Command::new("chmod").arg("+x").arg(&script).status().unwrap();
        let mut script_pid = 0;
        let seen = watch(hook, || {
            let mut child = Command::new("./script").arg("a-script").arg("").current_dir(&folder.0).spawn().unwrap();
            script_pid = child.id();
            child.wait().unwrap();
            Command::new("/bin/true").arg("as-nobody").uid(65534).gid(65533).status().unwrap();
            Command::new("/bin/true").arg(OsStr::from_bytes(b"bytes-\xff\xfe")).status().unwrap();
            Command::new("/bin/true").arg("long").args(["x".repeat(5_000), "y".repeat(5_000)]).status().unwrap();
        });
        let exec = seen.exec_with("a-script");
        let interpreter = fs::canonicalize("/bin/sh").unwrap();
        assert_eq!((exec.filename.as_str(), exec.exe.as_str()), ("./script", interpreter.to_str().unwrap()));
        assert_eq!(exec.args, ["/bin/sh", "./script", "a-script", ""]);
        assert_eq!(exec.cwd, folder.0.to_str().unwrap());
        assert_eq!((exec.task.pid, exec.task.tid, exec.task.ppid), (script_pid, script_pid, std::process::id()));
        assert_eq!(exec.task.comm, "script");
        let own = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_str().unwrap().to_owned();
        assert_eq!(format!("mnt:[{}]", exec.task.mnt_ns), own("mnt"));
        assert_eq!(format!("pid:[{}]", exec.task.pid_ns), own("pid"));
        assert_eq!(format!("user:[{}]", exec.task.user_ns), own("user"));
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
        assert_eq!(format!("{:016x}", exec.capabilities), effective);
        let login_uid = fs::read_to_string("/proc/self/loginuid").ok().and_then(|uid| uid.trim().parse::<u32>().ok());
        assert_eq!(exec.login_uid, login_uid.filter(|uid| *uid != u32::MAX));
        let main_thread = fs::read_to_string(format!("/proc/{}/comm", std::process::id())).unwrap();
        assert_eq!(exec.parent_comm, main_thread.trim());
        assert!(!exec.lossy && !exec.args_truncated && !exec.paths_truncated && !exec.exe_memfd && !exec.exe_deleted);
        assert!(exec.time >= exec.task.start_time && exec.time - exec.task.start_time < 10_000_000_000);

        let nobody = seen.exec_with("as-nobody");
        assert_eq!((nobody.task.uid, nobody.task.gid, nobody.capabilities), (65534, 65533, 0));
        assert!(seen.exec_with("bytes-\\xff\\xfe").lossy);
        let long = seen.exec_with("long");
        let total: usize = long.args.iter().map(|arg| arg.len() + 1).sum();
        assert!(long.args_truncated && total >= 4096, "{total} bytes");
        assert_eq!(long.args[2], "x".repeat(5_000));
    });
}

#[test]
fn files_in_memory_deleted_ones_and_deep_folders_are_told() {
    support::each_hook("process", |hook| {
        let folder = Folder::new("files");
        let binary = fs::read("/bin/true").unwrap();
        let gone = folder.0.join("gone");
        fs::copy("/bin/true", &gone).unwrap();
        let deep = (0..40).fold(folder.0.clone(), |path, level| path.join(format!("level-{level}")));
        fs::create_dir_all(&deep).unwrap();
        let seen = watch(hook, || {
            let memory = rustix::fs::memfd_create("in-memory", rustix::fs::MemfdFlags::empty()).unwrap();
            let mut memory = fs::File::from(memory);
            memory.write_all(&binary).unwrap();
            // A file that is open for writing cannot be executed, so through a second descriptor.
            let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
            let read = fs::File::open(&path).unwrap();
            drop(memory);
            run_open(&read, "from-memory");
            let open = fs::File::open(&gone).unwrap();
            fs::remove_file(&gone).unwrap();
            run_open(&open, "deleted");
            Command::new("/bin/true").arg("deep").current_dir(&deep).status().unwrap();
        });
        let memory = seen.exec_with("from-memory");
        assert!(memory.exe_memfd && !memory.exe_deleted, "{memory:?}");
        assert_eq!(memory.exe, "/memfd:in-memory");
        let deleted = seen.exec_with("deleted");
        assert!(deleted.exe_deleted && !deleted.exe_memfd, "{deleted:?}");
        assert_eq!(deleted.exe, gone.to_str().unwrap());
        assert_eq!(seen.exec_with("deep").cwd, deep.to_str().unwrap());
    });
}

/// Executes an open file.
fn run_open(file: &fs::File, arg: &str) {
    rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).unwrap();
    let status = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd())).arg(arg).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_containers_writable_layer_is_told_from_its_image() {
    support::each_hook("process", |hook| {
        let folder = Folder::new("overlay");
        let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| folder.0.join(name));
        for path in [&lower, &upper, &work, &merged] {
            fs::create_dir(path).unwrap();
        }
        fs::copy("/bin/true", lower.join("image")).unwrap();
        let layers = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        let mounted =
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(&merged).status().unwrap();
        assert!(mounted.success(), "an overlay file system can be mounted");
        fs::copy("/bin/true", merged.join("written")).unwrap();
        let seen = watch(hook, || {
            for name in ["image", "written"] {
                Command::new(merged.join(name)).arg(format!("overlay-{name}")).status().unwrap();
            }
        });
        Command::new("umount").arg(&merged).status().unwrap();
        assert_eq!(seen.exec_with("overlay-image").exe_upper_layer, Some(false));
        assert_eq!(seen.exec_with("overlay-written").exe_upper_layer, Some(true));
        assert_eq!(seen.exec_with("overlay-written").exe, merged.join("written").to_str().unwrap());
    });
}

#[test]
fn processes_of_several_threads_execute_and_exit_once() {
    const ROUNDS: usize = 30;
    support::each_hook("process", |hook| {
        let mut exited = Vec::new();
        let mut executed = Vec::new();
        let seen = watch(hook, || {
            for _ in 0..ROUNDS {
                let mut child = itself("exits_from_another_thread").spawn().unwrap();
                exited.push(child.id());
                assert_eq!(child.wait().unwrap().code(), Some(7));
                let mut child = itself("executes_from_another_thread").spawn().unwrap();
                executed.push(child.id());
                assert!(child.wait().unwrap().success());
            }
        });
        for pid in &exited {
            let exit = seen.exit_of(*pid);
            assert_eq!((exit.code, exit.signal), (7, None));
            assert_eq!(exit.task.ppid, std::process::id());
        }
        let threads: BTreeMap<u32, &Exec> = seen
            .exec
            .iter()
            .filter(|exec| exec.args.last().is_some_and(|arg| arg == "from-a-thread"))
            .map(|exec| (exec.task.pid, exec))
            .collect();
        assert_eq!(threads.keys().copied().collect::<Vec<_>>(), {
            executed.sort_unstable();
            executed.clone()
        });
        for pid in &executed {
            let exit = seen.exit_of(*pid);
            assert_eq!((exit.code, exit.task.comm.as_str()), (0, "true"));
            assert_eq!(exit.task.start_time, threads[pid].task.start_time, "the same process");
        }
    });
}

#[test]
fn a_fork_is_told_with_its_child_and_threads_are_not() {
    support::each_hook("process", |hook| {
        let (mut child, mut threaded) = (0, 0);
        let seen = watch(hook, || {
            let mut process = Command::new("/bin/true").spawn().unwrap();
            child = process.id();
            process.wait().unwrap();
            let mut process = itself("exits_from_another_thread").spawn().unwrap();
            threaded = process.id();
            process.wait().unwrap();
        });
        let forks: Vec<_> = seen.fork.iter().filter(|fork| fork.child_pid == child).collect();
        assert_eq!(forks.len(), 1);
        assert_eq!(forks[0].task.pid, std::process::id());
        assert!(!seen.fork.iter().any(|fork| fork.task.pid == threaded), "threads are no forks");
    });
}

#[test]
fn what_runs_already_is_known() {
    if !can_load_bpf() {
        return;
    }
    let mut child = Command::new("/bin/sleep").arg("4321").spawn().unwrap();
    let running = Lookups::within().unwrap().running();
    let sleep = running.iter().find(|process| process.pid == child.id()).unwrap();
    assert_eq!((sleep.ppid, sleep.comm.as_str(), sleep.args[1].as_str()), (std::process::id(), "sleep", "4321"));
    assert!(sleep.exe.ends_with("/sleep"));
    // The same start time that events will carry.
    let seen = watch("tp_btf", || {
        child.kill().unwrap();
        child.wait().unwrap();
    });
    assert_eq!(seen.exit_of(sleep.pid).task.start_time, sleep.start_time);
    assert_eq!(seen.exit_of(sleep.pid).signal, Some(9));
}

#[test]
fn a_process_in_a_pid_namespace_is_told_by_its_pid_outside() {
    support::each_hook("process", |hook| {
        let mut inside = None;
        let seen = watch(hook, || inside = support::run_calls("other-pids"));
        let (_, pid) = inside.unwrap();
        let exec = seen.exec_with("as-process-1");
        assert_eq!((exec.task.pid, exec.task.tid), (pid, pid), "{hook}");
        let own = fs::read_link("/proc/self/ns/pid").unwrap();
        assert_ne!(format!("pid:[{}]", exec.task.pid_ns), own.to_str().unwrap());
        assert_eq!(seen.exit_of(pid).task.pid_ns, exec.task.pid_ns);
    });
}

#[test]
fn the_best_hook_that_works_is_taken_and_said() {
    if !can_load_bpf() {
        return;
    }
    for state in probe(&Narrowing::default()) {
        let expected = support::hooks(state.source)[0];
        let State::Attached { hook, why_not_better, .. } = &state.state else { panic!("{state:?}") };
        let source = SOURCES.iter().find(|source| source.name == state.source).unwrap();
        let place = |hook: &str| source.rungs.iter().position(|rung| rung.hook == hook).unwrap();
        let interrupted = why_not_better.iter().any(|refusal| refusal.reason.contains("interrupts"));
        assert!(!interrupted || support::may_skip(), "{state:?}");
        assert!(place(hook) <= place(expected) || interrupted, "expected {expected} or better: {state:?}");
        assert_eq!(why_not_better.len(), place(hook), "every better one is accounted for: {state:?}");
    }
}

/// How many programs of this name are attached in the whole kernel.
fn attached(name: &str) -> usize {
    let programs: Vec<u32> = ProgInfoIter::default().filter(|info| info.name == name).map(|info| info.id).collect();
    LinkInfoIter::default().filter(|link| programs.contains(&link.prog_id)).count()
}

#[test]
fn a_program_for_some_kinds_is_attached_only_while_one_of_them_is_wanted() {
    if !can_load_bpf() {
        return;
    }
    let narrowing = Narrowing { hooks: vec!["tp_btf".to_owned()], ..Default::default() };
    let poller = Poller::within(narrowing, LATENCY, Box::new(drop)).unwrap();
    let want = |kinds: &[Kind]| {
        poller.want(kinds.iter().copied().collect::<KindSet>());
        (attached("state_btf"), attached("return_btf"))
    };
    assert_eq!(want(&[Kind::TcpConnect]), (1, 0), "connects do not need the calls' return");
    assert_eq!(want(&[Kind::TcpConnect, Kind::TcpAccept]), (1, 1));
    assert_eq!(want(&[Kind::TcpClose]), (1, 0), "it is detached again");
    poller.stop();
    assert_eq!((attached("state_btf"), attached("return_btf")), (0, 0));
}

#[test]
fn a_flood_of_system_calls_pushes_out_no_process_and_its_own_losses_are_counted() {
    const PROGRAMS: usize = 50;
    if !can_load_bpf() {
        return;
    }
    // Read so seldom, the smallest rings overflow.
    let ring_bytes = BTreeMap::from([("syscall".to_owned(), 1 << 16)]);
    let seen: Arc<Mutex<Columns>> = Arc::default();
    let into = seen.clone();
    let deliver = move |batch: Batch| into.lock().unwrap().append(batch.columns);
    let (narrowing, seldom) = (Narrowing { ring_bytes, ..Default::default() }, Duration::from_millis(50));
    let poller = Poller::within(narrowing, seldom, Box::new(deliver)).unwrap();
    poller.want(Wanted::from([Kind::Syscall, Kind::Exec].into_iter().collect::<KindSet>()));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    _ = rustix::process::getppid();
                }
            });
        }
        (0..PROGRAMS).for_each(|_| assert!(Command::new("/bin/true").status().unwrap().success()));
        stop.store(true, Ordering::Relaxed);
    });
    let counts = poller.stop();
    let of = |source: &str| counts.iter().find(|counts| counts.source == source).unwrap();
    let (calls, processes) = (of("syscall"), of("process"));
    assert!(calls.dropped > 0 && calls.sent > 0, "{calls:?}");
    assert_eq!(processes.dropped + processes.nested + processes.undecodable, 0, "{processes:?}");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.syscall.len() as u64, calls.sent, "every call that was not lost has come");
    let own = seen.exec.iter().filter(|exec| exec.task.ppid == std::process::id()).count();
    assert_eq!(own, PROGRAMS, "{processes:?}");
}
