//! Bad input on the command line: a clear error, and nothing else harmed. Needs no privilege.

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use support::{Folder, can_load_bpf, plugin};

fn run(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_eunomia-host")).args(args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.success(), text)
}

#[test]
fn the_help_shows_examples() {
    let (ok, text) = run(&["--help"]);
    assert!(ok && text.contains("Examples:") && text.contains("--plugin-dir"), "{text}");
}

#[test]
fn a_plugin_file_that_cannot_run_is_named_with_the_cause() {
    let folder = Folder::new("files");
    let component = fs::read(plugin("alerts")).unwrap();
    let files: [(&str, &[u8], &str); 6] = [
        ("empty", b"", "empty"),
        ("cut", &component[..component.len() / 2], "copy it whole"),
        ("core", b"\0asm\x01\0\0\0", "core WebAssembly module"),
        ("text", b"(component)", "WebAssembly text"),
        ("random", b"garbage", "not WebAssembly"),
        ("nothing", b"\0asm\x0d\0\x01\0", "exports nothing that this host calls"),
    ];
    for (name, bytes, cause) in files {
        let path = folder.0.join(format!("{name}.wasm"));
        fs::write(&path, bytes).unwrap();
        let (ok, text) = run(&["--plugin", path.to_str().unwrap(), "--duration", "1"]);
        assert!(!ok && text.contains(path.to_str().unwrap()) && text.contains(cause), "{name}: {text}");
        let (ok, text) = run(&["inspect", path.to_str().unwrap()]);
        assert!(text.contains(cause), "{name} ({ok}): {text}");
    }
    let (ok, text) = run(&["--plugin", "/does/not/exist.wasm"]);
    assert!(!ok && text.contains("/does/not/exist.wasm") && text.contains("No such file"), "{text}");
}

#[test]
fn inspect_shows_what_a_plugin_handles() {
    let (ok, text) = run(&["inspect", plugin("alerts").to_str().unwrap()]);
    assert!(
        ok && text.contains("exec") && text.contains("eunomia:plugin/alerts@") && text.contains("runs it"),
        "{text}"
    );
    let (ok, text) = run(&["inspect", plugin("quiet").to_str().unwrap()]);
    assert!(ok && text.contains("filters   exec, exit, fork"), "{text}");
}

#[test]
fn inspect_shows_what_is_asked_for_and_what_is_granted() {
    let folder = Folder::new("grants");
    let file = folder.0.join("containers.wasm");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/target/fixtures/containers.wasm"), &file).unwrap();
    let inspect = || run(&["inspect", file.to_str().unwrap()]).1;
    let text = inspect();
    assert!(text.contains("needs     eunomia:plugin/container-registry@") && text.contains("wasi:http/"), "{text}");
    assert!(text.contains("granted   nothing") && text.contains("container-registry = true below [grants]"), "{text}");
    let settings = "[grants]\ncontainer-registry = true\nfolders = ['/run']\n[grants.http]\na = 'unix:///a.sock'\n";
    fs::write(file.with_extension("toml"), settings).unwrap();
    let text = inspect();
    let granted = "granted   container-registry, reading /run, http://a/ at unix:///a.sock (GET, HEAD) (by ";
    assert!(text.contains(granted) && text.contains("this host runs it"), "{text}");
    fs::write(file.with_extension("toml"), "[grants]\nfolders = ['run']\n").unwrap();
    let text = inspect();
    assert!(text.contains("containers.toml") && text.contains("'run' is not the absolute path"), "{text}");
}

#[test]
fn a_container_is_asked_for_in_vain_where_no_plugin_tells_of_any() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("no-map");
    let file = folder.0.join("json-log.wasm");
    fs::copy(plugin("json-log"), &file).unwrap();
    let (ok, text) = run(&["--plugin", file.to_str().unwrap(), "--container", "web"]);
    assert!(!ok && text.contains("--container web") && text.contains("add --plugin container-map.wasm"), "{text}");
}

#[test]
fn a_settings_error_names_file_line_and_key() {
    let folder = Folder::new("settings");
    fs::copy(plugin("json-log"), folder.0.join("a.wasm")).unwrap();
    fs::write(folder.0.join("a.toml"), "order = 1\n[limits]\ndeadline = 5\n").unwrap();
    let (ok, text) = run(&["--plugin", folder.0.join("a.wasm").to_str().unwrap(), "--duration", "1"]);
    assert!(!ok && text.contains("a.toml") && text.contains("line 3") && text.contains("`deadline`"), "{text}");
}

#[test]
fn without_privilege_it_says_what_is_needed() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("nobody");
    let path = folder.0.join("json-log.wasm");
    fs::copy(plugin("json-log"), &path).unwrap();
    let binary = folder.0.join("eunomia-host");
    fs::copy(env!("CARGO_BIN_EXE_eunomia-host"), &binary).unwrap();
    let output = Command::new(binary).arg("--plugin").arg(path).uid(65534).gid(65534).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("root") && text.contains("CAP_BPF"), "{text}");
}

#[test]
fn a_kernel_that_says_nothing_of_its_types_is_named() {
    if !can_load_bpf() {
        return;
    }
    let script = format!(
        "mount -t tmpfs none /sys/kernel/btf && exec {} --plugin {}",
        env!("CARGO_BIN_EXE_eunomia-host"),
        plugin("json-log").display()
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("CONFIG_DEBUG_INFO_BTF"), "{text}");
}

#[test]
fn the_same_plugin_twice_is_refused_and_the_first_runs() {
    if !can_load_bpf() {
        return;
    }
    let json_log = plugin("json-log");
    let path = json_log.to_str().unwrap();
    let (ok, text) = run(&["--plugin", path, "--plugin", path, "--duration", "0.2"]);
    assert!(ok && text.contains("already runs") && text.contains("ready sources: process"), "{text}");
}

#[test]
fn sources_are_shown_with_their_hooks() {
    if !can_load_bpf() {
        return;
    }
    let (ok, text) = run(&["sources"]);
    assert!(ok && text.contains("process") && text.contains("works") && text.contains("tp_btf"), "{text}");
}
