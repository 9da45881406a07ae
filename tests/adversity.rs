//! The real binary in trouble that is not a plugin's: storms against a small ring, a host that is stopped or killed, standard
//! output that takes nothing or is full. Needs root.

mod support;

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libbpf_rs::query::ProgInfoIter;
use serde_json::Value;
use support::{Folder, Host, can_load_bpf, check_sums, plugin};

/// Processes of a storm: their events are several times what the smallest ring and a pipe hold.
const STORM: usize = 2_000;

/// How long a host may take to end whatever is in its way.
const END: Duration = Duration::from_secs(30);

fn storm(name: &str) {
    (0..STORM).for_each(|_| assert!(Command::new("/bin/true").arg(name).status().unwrap().success()));
}

fn signal(child: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.to_string()]).status().unwrap().success());
}

#[test]
fn what_a_stopped_host_misses_is_told_to_the_event() {
    if !can_load_bpf() {
        return;
    }
    let args = ["--plugin", plugin("json-log").to_str().unwrap(), "--events", "exec", "--ring-bytes", "process=64K"]
        .map(str::to_owned);
    let host = Host::start(&args.each_ref().map(String::as_str));
    signal(host.pid(), "-STOP");
    storm("while-stopped");
    std::thread::sleep(Duration::from_secs(1));
    signal(host.pid(), "-CONT");
    Command::new("/bin/true").arg("afterwards").status().unwrap();
    // Gaps are looked for at intervals, and at the end.
    let (lines, summary) = host.stop();

    let of = |kind: &'static str| lines.iter().filter(move |line| line["kind"] == kind);
    let named = |name: &'static str| of("exec").filter(move |line| line["args"][1] == name).count() as u64;
    let told: u64 = of("gap").filter(|gap| gap["missing"] == "exec").map(|gap| gap["count"].as_u64().unwrap()).sum();
    let lost = summary["sources"]["process"]["lost"]["kernel_ring"].as_u64().unwrap_or_default();
    assert!(lost > STORM as u64 / 10, "the ring never was full: {summary}");
    // Others may start programs too.
    let seen = named("while-stopped");
    assert!(seen > 0 && seen + told >= STORM as u64, "{seen} seen, {told} told of: {summary}");
    assert_eq!(named("afterwards"), 1, "it goes on");
    let exec = &summary["sources"]["process"];
    assert_eq!(exec["lost"].as_object().unwrap().len(), 1, "{exec}");
    let first = of("gap").next().unwrap();
    assert!(first["from"].as_str().unwrap() < first["to"].as_str().unwrap(), "{first}");
}

#[test]
fn a_host_that_is_killed_leaves_nothing_behind_and_the_next_one_sees() {
    if !can_load_bpf() {
        return;
    }
    let programs = || ProgInfoIter::default().filter(|info| info.name.to_string_lossy().starts_with("exec_")).count();
    let before = programs();
    let log = plugin("json-log");
    for round in 0..3 {
        let mut host = Host::start(&["--plugin", log.to_str().unwrap(), "--events", "exec"]);
        assert!(programs() > before, "its programs are there");
        let name = format!("round-{round}");
        Command::new("/bin/true").arg(&name).status().unwrap();
        host.expect("exec", |line| line["args"][1] == name.as_str());
        signal(host.pid(), "-KILL");
        assert!(!host.wait().success());
        let deadline = Instant::now() + END;
        while programs() > before {
            assert!(Instant::now() < deadline, "programs are left");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Starts the host with standard output of the test's own, and waits until it is ready. Its log so far, and the rest of it.
fn start_on(stdout: Stdio, args: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_eunomia-host"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("ready") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended before it was ready");
    }
    (child, log)
}

fn end(child: &mut Child) {
    signal(child.id(), "-INT");
    let deadline = Instant::now() + END;
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn standard_output_that_takes_nothing_stops_nobody_else() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("hanging");
    let summary = folder.0.join("summary.json");
    let (_reader, writer) = std::io::pipe().unwrap();
    let (log, stats) = (plugin("json-log"), plugin("count"));
    let (mut child, mut rest) = start_on(
        writer.into(),
        &[
            "--plugin",
            log.to_str().unwrap(),
            "--plugin",
            stats.to_str().unwrap(),
            "--events",
            "exec,exit",
            "--summary",
            summary.to_str().unwrap(),
        ],
    );
    storm("unread");
    end(&mut child);
    std::io::copy(&mut rest, &mut std::io::sink()).unwrap();
    let summary: Value = serde_json::from_str(&fs::read_to_string(&summary).unwrap()).unwrap();
    check_sums(&summary);
    let count = &summary["plugins"]["count"];
    assert_eq!(count["lost"], serde_json::json!({}), "{summary}");
    assert!(count["delivered"].as_u64().unwrap() >= 2 * STORM as u64, "{summary}");
    assert_eq!(summary["plugins"]["json-log"]["faults"], 0, "waiting is no fault of its own: {summary}");
}

#[test]
fn a_full_disk_is_said_once() {
    if !can_load_bpf() {
        return;
    }
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let log = plugin("json-log");
    let (mut child, mut rest) = start_on(full.into(), &["--plugin", log.to_str().unwrap(), "--events", "exec"]);
    for _ in 0..20 {
        Command::new("/bin/true").status().unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(child.try_wait().unwrap().is_none(), "it lives");
    end(&mut child);
    let mut said = String::new();
    std::io::Read::read_to_string(&mut rest, &mut said).unwrap();
    assert_eq!(said.matches("cannot write to standard output").count(), 1, "{said}");
    assert!(!said.contains("panicked"), "{said}");
}
