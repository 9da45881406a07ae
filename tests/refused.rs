//! The real binary with a module that the kernel's verifier refuses: the others work, and all is said. Needs root.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use eunomia_host::source::SOURCES;
use support::{Folder, Host, can_load_bpf, hooks, plugin};

/// The instruction that ends a BPF program, and one that the verifier refuses: a division by zero.
const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
const DIVISION_BY_ZERO: [u8; 8] = [0x97, 0, 0, 0, 0, 0, 0, 0];

/// The host's binary with all programs of a source spoilt.
fn spoilt(folder: &Folder, source: &str) -> PathBuf {
    let mut binary = fs::read(env!("CARGO_BIN_EXE_eunomia-host")).unwrap();
    let object = SOURCES.iter().find(|other| other.name == source).unwrap().object;
    let at = binary.windows(object.len()).position(|window| window == object).expect("the binary holds the object");
    let mut spoilt = 0;
    for instruction in binary[at..at + object.len()].chunks_exact_mut(EXIT.len()) {
        if instruction == EXIT {
            instruction.copy_from_slice(&DIVISION_BY_ZERO);
            spoilt += 1;
        }
    }
    assert!(spoilt > 0, "the object holds programs");
    let path = folder.0.join("eunomia-host");
    fs::write(&path, binary).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_module_that_the_verifier_refuses_degrades_the_host_and_stops_nothing_else() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("refused");
    let host = spoilt(&folder, "ipc");

    let output = Command::new(&host).args(["sources", "--json"]).output().unwrap();
    let sources: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for source in sources.as_array().unwrap() {
        if source["source"] == "ipc" {
            assert_eq!(source["state"], "failed", "{source}");
            let refused = |hook: &&str| {
                source["why"].as_array().unwrap().iter().any(|why| {
                    let log = why["log"].as_array().into_iter().flatten();
                    why["hook"] == **hook
                        && log.filter_map(|line| line.as_str()).any(|line| line.contains("div by zero"))
                })
            };
            assert!(hooks("ipc").iter().all(refused), "{source}");
        } else {
            assert_eq!(source["state"], "attached", "{source}");
        }
    }
    let verbose = Command::new(&host).args(["sources", "--verbose"]).output().unwrap();
    assert!(String::from_utf8(verbose.stdout).unwrap().contains("div by zero"), "the verifier's words, on demand");

    let (json_log, quiet) = (plugin("json-log"), plugin("tcp-log"));
    let events = ["--events", "exec,ipc-access,tcp-connect", "--hooks", "tracepoint"];
    let plugins = ["--plugin", json_log.to_str().unwrap(), "--plugin", quiet.to_str().unwrap()];
    let mut host = Host::spawn_binary(&host, &[&plugins[..], &events[..]].concat());
    let failure = host.expect_log("source ipc is not available");
    assert!(failure.contains("plugins json-log get none") && failure.contains("div by zero"), "{failure}");
    let ready = host.expect_log("ready");
    assert!(
        ready.contains("ready degraded") && ready.contains("ipc (failed)") && ready.contains("process ("),
        "{ready}"
    );
    Command::new("/bin/true").arg("beside-a-refused-module").status().unwrap();
    host.expect("exec", |line| line["args"][1] == "beside-a-refused-module");
    host.stop();
}
