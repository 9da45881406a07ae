//! The running host and its plugins on real events: what is the same on every kernel. Needs root.

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use support::{Folder, Host, can_load_bpf, may_skip, plugin, until_none_is_left_out};

#[test]
fn plugins_come_change_and_go_with_their_files() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("hot");
    let scratch = Folder::new("hot-scratch");
    let shell = scratch.0.join("x");
    fs::copy("/bin/sh", &shell).unwrap();
    let alerts = fs::read(plugin("alerts")).unwrap();
    let mut host = Host::start(&["--plugin-dir", folder.0.to_str().unwrap()]);
    let run = |host: &mut Host| {
        Command::new(&shell).args(["-c", "true"]).status().unwrap();
        let is_it = |line: &Value| line["kind"] == "alert" && line.to_string().contains(shell.to_str().unwrap());
        let (alert, after) = host.expect("alert of the shell in the temporary folder", is_it);
        // The host looked its parent, this test, up in the table of processes.
        let parent = fs::read_to_string(format!("/proc/{}/comm", std::process::id())).unwrap();
        let ancestors = alert["alert"]["fields"]["ancestors"].as_str().unwrap();
        assert!(ancestors.starts_with(&format!("{} < ", parent.trim())), "{ancestors}");
        assert!(after < Duration::from_secs(1), "alerted after {after:?}");
    };

    folder.put("alerts.wasm", &alerts);
    host.expect_log("plugin alerts loaded");
    run(&mut host);

    folder.put("broken.wasm", b"\0asm\x0d\0\x01\0\x07");
    assert!(host.expect_log("broken.wasm").contains("not loaded"));
    run(&mut host);

    folder.put("alerts.wasm", b"#!/bin/sh");
    let refused = host.expect_log("alerts.wasm");
    assert!(refused.contains("not WebAssembly") && refused.contains("the version before it goes on"), "{refused}");
    run(&mut host);

    folder.put("alerts.wasm", &alerts);
    host.expect_log("plugin alerts exchanged");
    run(&mut host);

    fs::remove_file(folder.0.join("alerts.wasm")).unwrap();
    host.expect_log("source process detached");
    host.expect_log("plugin alerts unloaded");
    folder.put("json-log.wasm", &fs::read(plugin("json-log")).unwrap());
    host.expect_log("plugin json-log loaded");
    fs::rename(&folder.0, scratch.0.join("elsewhere")).unwrap();
    host.expect_log("cannot read the plugin directory");
    Command::new("/bin/true").status().unwrap();
    host.expect("event after the directory has gone", |line| line["kind"] == "exec");
    let (_, summary) = host.stop();
    assert!(summary["plugins"]["alerts"]["alerts"].as_u64().unwrap() >= 4);
}

#[test]
fn an_exchange_under_load_loses_and_repeats_nothing() {
    if can_load_bpf() {
        until_none_is_left_out(exchange_under_load);
    }
}

fn exchange_under_load() {
    let folder = Folder::new("exchange");
    let json_log = fs::read(plugin("json-log")).unwrap();
    folder.put("json-log.wasm", &json_log);
    let mut host = Host::start(&["--plugin-dir", folder.0.to_str().unwrap(), "--events", "exec"]);
    let all = 1_500;
    let load = std::thread::spawn(move || {
        for run in 0..all {
            Command::new("/bin/true").arg(format!("exchange-{run}")).status().unwrap();
        }
    });
    for _ in 0..3 {
        folder.put("json-log.wasm", &json_log);
        host.expect_log("exchanged");
    }
    load.join().unwrap();
    let (lines, _) = host.stop();
    let seen =
        lines.iter().filter_map(|line| line["args"][1].as_str()?.strip_prefix("exchange-")?.parse::<usize>().ok());
    assert_eq!(seen.collect::<Vec<_>>(), (0..all).collect::<Vec<_>>(), "every run once, in order");
}

#[test]
fn a_reader_who_goes_away_ends_it_quietly() {
    if !can_load_bpf() {
        return;
    }
    let script = format!(
        "{} --plugin {} | head -n 1 >/dev/null",
        env!("CARGO_BIN_EXE_eunomia-host"),
        plugin("json-log").display()
    );
    let child = Command::new("sh").args(["-c", &script]).stderr(Stdio::piped()).spawn().unwrap();
    let gone = Arc::new(AtomicBool::new(false));
    let until = gone.clone();
    let noise = std::thread::spawn(move || {
        while !until.load(Ordering::Relaxed) {
            Command::new("/bin/true").status().unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let output = child.wait_with_output().unwrap();
    gone.store(true, Ordering::Relaxed);
    noise.join().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let is_bad = |line: &str| line.contains("error:") || line.contains("panic");
    let is_skipped = |line: &str| may_skip() && line.contains("the kernel left out");
    assert!(!log.lines().any(|line| is_bad(line) && !is_skipped(line)), "{log}");
}
