//! The plugin in C, made without an SDK, on the running kernel. Needs root.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Folder, can_load_bpf};

#[test]
fn a_plugin_in_c_prints_and_alerts() {
    if !can_load_bpf() {
        return;
    }
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures/c-plugin.wasm");
    assert!(plugin.exists(), "{} is missing: `make {0}` builds it", plugin.display());
    let folder = Folder::new("c-plugin");
    let (program, summary) = (folder.0.join("program"), folder.0.join("summary.json"));
    fs::copy("/bin/true", &program).unwrap();
    let host = Command::new(env!("CARGO_BIN_EXE_eunomia-host"))
        .arg("--plugin")
        .arg(&plugin)
        .arg("--summary")
        .arg(&summary)
        .args(["--duration", "2", "--alerts", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // For as long as the host runs, so that it need not be known when it is ready.
    let runs = std::thread::spawn(move || {
        (0..30).for_each(|_| {
            Command::new(&program).status().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(100));
        });
        program
    });
    let output = host.wait_with_output().unwrap();
    let program = runs.join().unwrap();
    let (stdout, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{log}");

    let printed: Vec<&str> = stdout.lines().filter_map(|line| line.strip_prefix("c-plugin exec ")).collect();
    let pids: Vec<u64> = printed
        .iter()
        .filter_map(|line| line.strip_suffix(program.to_str().unwrap()))
        .map(|pid| pid.trim_end().parse().unwrap())
        .collect();
    let alerts: Vec<Value> =
        stdout.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    let alerted: Vec<u64> = alerts
        .iter()
        .map(|alert| &alert["alert"])
        .filter(|alert| alert["fields"]["exe"] == *program.to_str().unwrap())
        .inspect(|alert| {
            assert_eq!((&alert["rule"], &alert["severity"]), (&"c-exec-from-tmp".into(), &"medium".into()))
        })
        .map(|alert| alert["pid"].as_u64().unwrap())
        .collect();
    assert!(pids.len() >= 3, "{stdout}{log}");
    assert_eq!(pids, alerted, "each run of it is printed and alerted, in the same order");
    assert!(stdout.contains(&format!("c-plugin saw {} programs\n", printed.len())), "{stdout}");

    let summary: Value = serde_json::from_slice(&fs::read(&summary).unwrap()).unwrap();
    let counts = &summary["plugins"]["c-plugin"];
    assert_eq!(counts["delivered"], printed.len(), "{summary}");
    assert_eq!((&counts["alerts"], &counts["faults"]), (&alerts.len().into(), &0.into()));
}
