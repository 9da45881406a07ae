//! The real binary on the running kernel: real events, real plugins. Needs root.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eunomia_host::event::{Batch, Kind, KindSet};
use eunomia_host::source::{LATENCY, Narrowing, Poller};
use serde_json::Value;
use support::{Folder, Host, can_load_bpf, may_skip, plugin, runs, until_none_is_left_out};

fn of_kind<'a>(lines: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["kind"] == kind)
}

#[test]
fn a_thousand_processes_are_each_seen_once() {
    if can_load_bpf() {
        until_none_is_left_out(thousand_processes);
    }
}

fn thousand_processes() {
    let all = runs(1_000);
    let host = Host::start(&["--plugin", plugin("json-log").to_str().unwrap()]);
    let mut pids = BTreeMap::new();
    for run in 0..all {
        let mut child = Command::new("/bin/true").arg(format!("run-{run}")).spawn().unwrap();
        pids.insert(run, child.id());
        child.wait().unwrap();
    }
    let (lines, summary) = host.stop();
    let mut seen = BTreeMap::new();
    for exec in of_kind(&lines, "exec").filter(|exec| exec["filename"] == "/bin/true") {
        let Some(run) = exec["args"][1].as_str().and_then(|arg| arg.strip_prefix("run-")) else { continue };
        assert_eq!(exec["ppid"], std::process::id(), "{exec}");
        assert_eq!(exec["args"][0], "/bin/true");
        assert_eq!(exec["comm"], "true");
        assert_eq!(exec["uid"], 0);
        assert!(exec["exe"].as_str().unwrap().ends_with("/bin/true"), "{exec}");
        assert_eq!(exec["cwd"], std::env::current_dir().unwrap().to_str().unwrap());
        let before = seen.insert(run.parse::<usize>().unwrap(), exec["pid"].as_u64().unwrap() as u32);
        assert_eq!(before, None, "run {run} was seen twice");
    }
    assert_eq!(seen, pids, "every run once, with its pid");
    for (run, pid) in &pids {
        let exits: Vec<_> =
            of_kind(&lines, "exit").filter(|exit| exit["pid"] == *pid && exit["comm"] == "true").collect();
        assert_eq!(exits.len(), 1, "run {run} with pid {pid}: {exits:?}");
        assert_eq!((&exits[0]["code"], &exits[0]["signal"]), (&0.into(), &Value::Null));
        assert!(exits[0]["duration"].as_u64().unwrap() > 0);
    }
    let times: Vec<_> = lines.iter().map(|line| line["time"].as_str().unwrap()).collect();
    let disorder = times.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
    let late = summary["sources"]["process"]["late"].as_u64().unwrap_or_default();
    assert!(
        disorder <= late,
        "events are printed in time order, but for those that are said to have come late: {summary}"
    );
    assert_eq!(summary["sources"]["process"]["lost"], serde_json::json!({}));
    assert_eq!(summary["plugins"]["json-log"]["lost"], serde_json::json!({}));
    assert_eq!(summary["plugins"]["json-log"]["delivered"], lines.len());
}

#[test]
fn what_a_full_ring_loses_is_told_to_the_event() {
    if !can_load_bpf() {
        return;
    }
    let gaps = Arc::new(Mutex::new(Vec::new()));
    let (into, mut sleeps) = (gaps.clone(), 3);
    // A reader that is kept from reading while events come, so that the ring overflows.
    let deliver = move |batch: Batch| {
        into.lock().unwrap().extend(batch.columns.gap);
        sleeps -= 1;
        if sleeps > 0 {
            std::thread::sleep(Duration::from_millis(700));
        }
    };
    let narrowing = Narrowing { pids: vec![std::process::id()], ..Default::default() };
    let poller = Poller::within(narrowing, LATENCY, Box::new(deliver)).unwrap();
    poller.want(KindSet::of(&[Kind::Syscall, Kind::Gap]));
    let end = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < end {
        (0..1000).for_each(|_| _ = std::os::unix::process::parent_id());
    }
    // While it is attached, not at its end alone.
    while gaps.lock().unwrap().is_empty() {
        assert!(end.elapsed() < Duration::from_secs(10), "no gap is told");
        std::thread::sleep(Duration::from_millis(10));
    }
    let counts = poller.stop();
    let syscall = counts.iter().find(|counts| counts.source == "syscall").unwrap();
    let gaps = std::mem::take(&mut *gaps.lock().unwrap());
    let told = |place: &str| gaps.iter().filter(|gap| gap.where_ == place).map(|gap| gap.count).sum::<u64>();
    assert!(syscall.dropped > 1_000, "the ring never was full: {syscall:?}");
    for (place, count) in syscall.lost() {
        assert_eq!(told(place), count, "{place}: {gaps:?}");
    }
    for gap in gaps.iter().filter(|gap| gap.where_ == "kernel_ring") {
        assert_eq!((gap.source.as_str(), gap.missing.as_deref()), ("syscall", Some("syscall")));
        assert!(gap.from < gap.to && gap.to == gap.time, "{gap:?}");
    }
    let host = counts.iter().find(|counts| counts.source == "host").unwrap();
    assert_eq!(host.sent, gaps.len() as u64);
}

#[test]
fn exit_codes_and_signals_are_right() {
    if !can_load_bpf() {
        return;
    }
    until_none_is_left_out(|| {
        let host = Host::start(&["--plugin", plugin("json-log").to_str().unwrap(), "--events", "exit"]);
        let exited = Command::new("sh").args(["-c", "exit 42"]).spawn().unwrap();
        let killed = Command::new("sleep").arg("60").spawn().unwrap();
        let (exited_pid, killed_pid) = (exited.id(), killed.id());
        let [mut exited, mut killed] = [exited, killed];
        exited.wait().unwrap();
        killed.kill().unwrap();
        killed.wait().unwrap();
        let (lines, _) = host.stop();
        let of = |pid: u32| lines.iter().find(|line| line["pid"] == pid).unwrap();
        assert_eq!(of(exited_pid)["code"], 42);
        assert_eq!(of(exited_pid)["signal"], Value::Null);
        assert_eq!(of(killed_pid)["code"], 0);
        assert_eq!(of(killed_pid)["signal"], 9);
        assert!(lines.iter().all(|line| line["kind"] == "exit"), "only what was asked for");
    });
}

/// Where the kernel leaves out runs, gaps are told of what a test does not look at too: the programs of seccomp run with every call of
/// every host beside it.
fn without_gaps((mut lines, summary): (Vec<Value>, Value)) -> (Vec<Value>, Value) {
    lines.retain(|line| !may_skip() || line["kind"] != "gap");
    (lines, summary)
}

#[test]
fn narrowing_leaves_out_the_others_in_the_kernel() {
    if !can_load_bpf() {
        return;
    }
    until_none_is_left_out(|| {
        let json_log = plugin("json-log");
        let by_uid = Host::start(&["--plugin", json_log.to_str().unwrap(), "--uid", "65534"]);
        let mut watched =
            Command::new("sh").args(["-c", "read line; exec /bin/true"]).stdin(Stdio::piped()).spawn().unwrap();
        let pid = watched.id();
        let by_pid = Host::start(&["--plugin", json_log.to_str().unwrap(), "--pid", &pid.to_string()]);
        let by_comm = Host::start(&["--plugin", json_log.to_str().unwrap(), "--comm", "true"]);
        for _ in 0..20 {
            Command::new("/bin/true").status().unwrap();
            Command::new("/bin/true").uid(65534).status().unwrap();
            Command::new("/bin/false").status().unwrap();
        }
        watched.stdin.take().unwrap().write_all(b"go\n").unwrap();
        watched.wait().unwrap();
        let (lines, _) = without_gaps(by_pid.stop());
        let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["exec", "exit"]);
        assert!(lines.iter().all(|line| line["pid"] == pid));
        let (lines, summary) = without_gaps(by_uid.stop());
        assert!(lines.iter().all(|line| line["uid"] == 65534));
        assert_eq!(of_kind(&lines, "exec").count(), 20);
        assert_eq!(summary["sources"]["process"]["seen"], lines.len());
        let (lines, _) = without_gaps(by_comm.stop());
        assert!(lines.iter().all(|line| line["comm"] == "true"));
        assert!(of_kind(&lines, "exec").count() >= 40);
    });
}

#[test]
fn every_sort_of_rule_raises_its_alert() {
    if !can_load_bpf() {
        return;
    }
    let (folder, scratch) = (Folder::new("rules"), Folder::new("rules-scratch"));
    let watched = scratch.0.join("watched");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = format!(
        "[[config.rules]]\nname = 'watched-file'\nseverity = 'low'\non = 'file-write'\npath = ['{}']\n\
         [[config.rules]]\nname = 'that-port'\nseverity = 'low'\non = 'connect'\nport = [{port}]\n",
        watched.display()
    );
    folder.put("alerts.toml", settings.as_bytes());
    folder.put("alerts.wasm", &fs::read(plugin("alerts")).unwrap());
    let mut host = Host::start(&["--plugin-dir", folder.0.to_str().unwrap(), "--alerts", "json"]);
    let mut expect = |rule: &str| {
        let (alert, _) = host.expect(rule, |line| line["alert"]["rule"] == rule);
        alert["alert"].clone()
    };
    (0..3).for_each(|_| fs::write(&watched, "x").unwrap());
    let written = expect("watched-file");
    assert_eq!(written["fields"]["path"], watched.to_str().unwrap());
    assert!(written["message"].as_str().unwrap().contains("was made by"), "{written}");
    let lent = scratch.0.join("lent");
    fs::write(&lent, "x").unwrap();
    fs::set_permissions(&lent, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
    assert_eq!(expect("setuid-bit-set")["fields"]["mode"], "4755");
    drop(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    assert_eq!(expect("that-port")["fields"]["destination_port"], port.to_string());
    // It traces a child under a filter.
    support::run_calls("trace").unwrap();
    let traced = expect("process-traced");
    assert_eq!((&traced["fields"]["syscall"], &traced["comm"]), (&"ptrace".into(), &"calls".into()), "{traced}");
    let (lines, summary) = host.stop();
    let again = of_kind(&lines, "alert").filter(|line| line["alert"]["rule"] == "watched-file").count();
    assert_eq!(again, 0, "the same was told once");
    let calls = &summary["plugins"]["alerts"]["kinds"]["syscall"]["delivered"];
    let all = summary["sources"]["syscall"]["seen"].as_u64().unwrap();
    assert!(calls.as_u64().unwrap() > 0 && all < 10_000, "only what the rules select leaves the kernel: {all}");
}

#[test]
fn the_host_itself_is_left_out() {
    if !can_load_bpf() {
        return;
    }
    until_none_is_left_out(|| {
        let kinds = "exec,exit,fork,syscall,syscall-return,syscall-count";
        let host = Host::start(&["--plugin", plugin("json-log").to_str().unwrap(), "--events", kinds]);
        let pid = host.pid();
        std::thread::sleep(Duration::from_millis(1_200));
        let (lines, _) = host.stop();
        assert!(of_kind(&lines, "syscall-count").count() > 0);
        assert!(lines.iter().all(|line| line["pid"] != pid), "its own calls would feed themselves");
    });
}

#[test]
fn narrowing_to_a_cgroup_takes_in_what_is_below() {
    if !can_load_bpf() {
        return;
    }
    until_none_is_left_out(|| {
        let tree = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .find(|tree| Path::new(tree).join("cgroup.procs").exists());
        let name = format!("eunomia-narrow-{}", std::process::id());
        let outer = Path::new(tree.expect("a unified tree")).join(&name);
        let inner = outer.join("inner");
        fs::create_dir_all(&inner).unwrap();
        let host =
            Host::start(&["--plugin", plugin("json-log").to_str().unwrap(), "--events", "exec", "--cgroup", &name]);
        for _ in 0..10 {
            let script = format!("echo $$ > {}/cgroup.procs; exec /bin/true inside", inner.display());
            assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
            Command::new("/bin/true").arg("outside").status().unwrap();
        }
        let (lines, _) = host.stop();
        fs::remove_dir(&inner).unwrap();
        fs::remove_dir(&outer).unwrap();
        assert_eq!(lines.len(), 10);
        assert!(lines.iter().all(|line| line["args"][1] == "inside"));
    });
}

#[test]
fn narrowing_to_a_container_takes_in_one_that_starts_later_from_its_first_event_on() {
    if !can_load_bpf() {
        return;
    }
    until_none_is_left_out(|| {
        const LATER: usize = 30;
        const OUTSIDE: u64 = 100;
        let trees = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let tree = trees.iter().find(|tree| Path::new(tree).join("cgroup.procs").exists()).expect("a unified tree");
        let boxes = Path::new(tree).join("box");
        let run_in = |id: &str, arg: &str| {
            let script = format!("echo $$ > {}/cgroup.procs; exec /bin/true {arg}", boxes.join(id).display());
            assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        };
        let folder = Folder::new("container");
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures/containers.wasm");
        let file = folder.0.join("containers.wasm");
        fs::copy(fixture, &file).unwrap();
        let grants = "[grants]\ncontainer-registry = true\nhttp = { none = 'unix:///none' }\n";
        fs::write(file.with_extension("toml"), grants).unwrap();
        fs::create_dir_all(boxes.join("early")).unwrap();
        fs::create_dir_all(boxes.join("other")).unwrap();
        let ids: Vec<String> =
            (0..LATER).map(|number| format!("late-container-{number}-{}", std::process::id())).collect();
        let mut args = vec![
            "--plugin",
            plugin("json-log").to_str().unwrap().to_owned().leak(),
            "--plugin",
            file.to_str().unwrap(),
        ];
        args.extend(["--container", "name-early"]);
        ids.iter().for_each(|id| args.extend(["--container", id.as_str()]));
        let host = Host::start(&args);
        run_in("early", "early");
        run_in("other", "other");
        for _ in 0..OUTSIDE {
            Command::new("/bin/true").arg("outside").status().unwrap();
        }
        for id in &ids {
            fs::create_dir(boxes.join(id)).unwrap();
            // At once: an engine takes some milliseconds.
            run_in(id, id);
        }
        let (lines, summary) = without_gaps(host.stop());
        let folders = ids.iter().map(String::as_str).chain(["early", "other", ""]);
        folders.for_each(|id| fs::remove_dir(boxes.join(id)).unwrap());
        let shown: Vec<(&str, &str)> = of_kind(&lines, "exec")
            .map(|line| (line["args"][1].as_str().unwrap(), line["container"]["id"].as_str().unwrap()))
            .collect();
        let expected: Vec<_> =
            std::iter::once("early").chain(ids.iter().map(String::as_str)).map(|id| (id, id)).collect();
        assert_eq!(shown, expected);
        let made: Vec<_> = of_kind(&lines, "cgroup-created").map(|line| line["path"].as_str().unwrap()).collect();
        assert_eq!(made, ids.iter().map(|id| format!("/box/{id}")).collect::<Vec<_>>());
        let outside =
            lines.iter().filter(|line| line["kind"] != "cgroup-created" && line["container"].is_null()).count();
        assert_eq!(outside, 0, "{lines:#?}");
        let dropped = summary["plugins"]["json-log"]["filtered"].as_u64().unwrap();
        assert!(dropped < OUTSIDE, "the others do not leave the kernel: {dropped} did");
    });
}
