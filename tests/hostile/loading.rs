//! Files that are no plugins, and plugins that cannot be compiled or linked.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use eunomia_host::compile::CompileLimits;
use eunomia_host::compile::Compiler;
use eunomia_host::plugin::{Compiled, Grants, Limits, Runtime};

use crate::support::line::Line;
use crate::support::{Folder, Host, can_load_bpf, children, plugin};
use crate::wasm::{COMPONENT, calling, importing, large_to_compile, slow_to_compile};

const HOST: &str = env!("CARGO_BIN_EXE_eunomia-host");

fn runtime() -> Runtime {
    Runtime::new(Compiler::new(Path::new(HOST), None)).unwrap()
}

/// Why bytes are refused, by the host's own words.
fn refusal(bytes: &[u8]) -> String {
    refusal_within(bytes, &Limits::default())
}

fn refusal_within(bytes: &[u8], limits: &Limits) -> String {
    let error = Compiled::new(&runtime(), bytes, limits).and_then(|compiled| compiled.check(&Grants::default()));
    format!("{:#}", error.expect_err("it is refused"))
}

/// Bytes without any order, the same in each run.
fn random(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn what_is_no_plugin_is_named_with_the_remedy() {
    let component = fs::read(plugin("alerts")).unwrap();
    let mut garbled = component.clone();
    let middle = garbled.len() / 2;
    garbled[middle..].copy_from_slice(&random(component.len() - middle));
    let native = fs::read(HOST).unwrap();
    for (bytes, cause) in [
        (b"".as_slice(), "the file is empty"),
        (b"\0as", "cut off"),
        (&component[..component.len() / 2], "copy it whole"),
        (&[COMPONENT, b"\x07\xff"].concat(), "copy it whole"),
        (&random(100_000), "not WebAssembly"),
        (&garbled, "copy it whole"),
        (b"\0asm\x01\0\0\0", "core WebAssembly module"),
        (b"(component)", "WebAssembly text"),
        (&native[..4096], "native program or precompiled code (ELF)"),
        (COMPONENT, "exports nothing that this host calls; export at least one of on-exec"),
    ] {
        let refusal = refusal(bytes);
        assert!(refusal.contains(cause), "{cause}: {refusal}");
    }
}

#[test]
fn code_that_is_compiled_already_is_never_run() {
    let input = fs::File::open(plugin("quiet")).unwrap();
    let output = Command::new(HOST).args(["compile", "2147483648", "30"]).stdin(input).output().unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"\x7fELF"), "{}", output.status);
    assert!(refusal(&output.stdout).contains("precompiled code (ELF)"));
}

#[test]
fn what_this_host_lacks_is_named() {
    let unknown = refusal(&importing("foo:bar/baz@1.0.0"));
    assert!(unknown.contains("foo:bar/baz@1.0.0"), "{unknown}");
    let server = refusal(&importing("wasi:http/incoming-handler@0.2.6"));
    assert!(server.contains("does not offer"), "{server}");
    let network = refusal(&importing("wasi:http/outgoing-handler@0.2.6"));
    assert!(network.contains("wasi:http/outgoing-handler@0.2.6") && network.contains("[grants.http]"), "{network}");
    let registry = refusal(&importing("eunomia:plugin/container-registry@0.1.0"));
    assert!(registry.contains("container-registry = true below [grants]"), "{registry}");
    let newer = refusal(&importing("eunomia:plugin/alerts@0.9.0"));
    assert!(newer.contains("built for eunomia:plugin/alerts@0.9.0") && newer.contains("0.1.0"), "{newer}");
}

/// Components that call each other by way of the engine's adapters, which have a memory of each; and one that is asynchronous.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_of_components_runs_and_what_is_asynchronous_is_named() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/plugin/composed");
    let line = Line::new();
    let (plugin, member) = line.start(("composed", 0), &file, "{}", None).await.unwrap();
    assert!(member.tick.is_some(), "it wants ticks");
    line.join(member).await;
    line.finish(std::collections::BTreeMap::from([("composed", plugin)])).await;

    // A canonical section with task.cancel.
    let refusal = refusal(&[COMPONENT, &[8, 2, 1, 5]].concat());
    assert!(refusal.contains("asynchronous functions") && refusal.contains("WASI 0.2"), "{refusal}");
}

/// One whose handler takes other events than its name says, one that has a name twice, and a name that is taken.
#[tokio::test(flavor = "multi_thread")]
async fn exports_that_are_not_what_their_names_say_are_refused() {
    let folder = Folder::new("mistyped");
    let (line, misbehave) = (Line::new(), fs::read(crate::beside::misbehave()).unwrap());
    for (name, other) in [("on-fork", "on-exit"), ("on-fork", "on-tick"), ("filter-exec", "filter-exit")] {
        let file = folder.0.join(format!("{other}.wasm"));
        fs::write(&file, calling(&misbehave, &format!("/{name}@"), &format!("/{other}@"))).unwrap();
        let error = line.start(("mistyped", 0), &file, "{}", None).await.err().expect("it is refused");
        let text = format!("{error:#}");
        let cause = format!("its export eunomia:plugin/{other}@0.1.0#");
        assert!(text.contains(&cause) && text.contains("has another type than this host's"), "{text}");
        assert!(text.contains("build it against this version's wit folder"), "{text}");
    }
    let json_log = fs::read(plugin("json-log")).unwrap();
    let twice = refusal(&calling(&json_log, "/on-fork@", "/on-exec@"));
    assert!(twice.contains("eunomia:plugin/on-exec@0.1.0") && twice.contains("copy it whole"), "{twice}");
}

#[test]
fn a_component_that_takes_too_much_memory_to_compile_is_refused() {
    for memory_bytes in [CompileLimits::default().memory_bytes, 512 << 20] {
        let compile = CompileLimits { memory_bytes, ..Default::default() };
        let start = Instant::now();
        let refusal = refusal_within(&large_to_compile(), &Limits { compile, ..Default::default() });
        let limit = format!("more than {} MiB", memory_bytes >> 20);
        assert!(refusal.contains(&limit) && start.elapsed() < Duration::from_secs(60), "{refusal}");
    }
}

#[test]
fn a_component_that_is_larger_than_its_settings_allow_is_refused() {
    let bytes = fs::read(plugin("quiet")).unwrap();
    let limits = Limits { component_bytes: bytes.len() as u64 - 1, ..Default::default() };
    let refusal = refusal_within(&bytes, &limits);
    assert!(
        refusal.contains(&format!("{} bytes", bytes.len())) && refusal.contains("limits.component_bytes"),
        "{refusal}"
    );
    let limits = Limits { component_bytes: bytes.len() as u64, ..Default::default() };
    assert!(Compiled::new(&runtime(), &bytes, &limits).is_ok());
}

/// How many seccomp filters a process has, by its status.
fn filters(status: &str) -> u32 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp_filters:"))
        .map_or(0, |count| count.trim().parse().unwrap())
}

/// The process that compiles for a process, or for its broker.
fn compiling(parent: u32) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let brokers = children(&parent.to_string());
        for parent in [parent.to_string()].into_iter().chain(brokers) {
            // It has one soon after it has started, and the process that compiles has that one too.
            let own = filters(&fs::read_to_string(format!("/proc/{parent}/status")).unwrap_or_default());
            for child in children(&parent) {
                let arguments = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
                let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
                // With a filter of its own in place, beside its parent's, it has given up the rest as well.
                if arguments.windows(9).any(|part| part == b"\0compile\0") && filters(&status) > own {
                    return child;
                }
            }
        }
        assert!(Instant::now() < deadline, "a process compiles");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_component_that_takes_too_long_to_compile_is_refused_and_its_process_can_do_nothing_else() {
    const SECONDS: u64 = 5;
    let compile = CompileLimits { cpu_seconds: SECONDS, ..Default::default() };
    let limits = Limits { compile, ..Default::default() };
    let refused = std::thread::spawn(move || refusal_within(&slow_to_compile(), &limits));
    let child = compiling(std::process::id());
    let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    let fact = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(fact(set), "0000000000000000", "{set}");
    }
    assert_eq!(fact("NoNewPrivs:"), "1");
    let root = fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t");
    if root {
        assert_eq!((fact("Uid:"), fact("Gid:")), ("65534\t65534\t65534\t65534", "65534\t65534\t65534\t65534"));
        assert_eq!(fact("Groups:"), "");
        for entry in fs::read_dir(format!("/proc/{child}/fd")).unwrap() {
            let (name, file) = entry.map(|entry| (entry.file_name(), fs::read_link(entry.path()).unwrap())).unwrap();
            // Whoever started this test may have left files open; the filter lets the process use the first three alone.
            let inherited = fs::read_link(Path::new("/proc/self/fd").join(&name)).is_ok_and(|own| own == file);
            let pipe = ["0", "1", "2"].contains(&name.to_str().unwrap()) && file.to_string_lossy().starts_with("pipe:");
            assert!(pipe || inherited, "{name:?}: {file:?}");
        }
        let environment = fs::read_to_string(format!("/proc/{child}/environ")).unwrap();
        assert!(!environment.contains("PATH="), "{environment:?}");
    }
    let refusal = refused.join().unwrap();
    // A busy machine may not give it so much of a processor in the time that it has.
    let limits = [format!("more than {SECONDS} s of a processor"), "and was stopped".to_owned()];
    assert!(limits.iter().any(|limit| refusal.contains(limit)), "{refusal}");
    assert!(!Path::new("/proc").join(child).exists(), "it has ended");
}

#[test]
fn compiling_ends_with_the_host_that_was_killed() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("killed");
    folder.put("slow.wasm", &slow_to_compile());
    let host = Host::spawn(&["--plugin", folder.0.join("slow.wasm").to_str().unwrap(), "--no-cache"]);
    let child = compiling(host.pid());
    drop(host); // Which kills it.
    let deadline = Instant::now() + Duration::from_secs(5);
    let ended = || {
        let stat = fs::read_to_string(format!("/proc/{child}/stat"));
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
    };
    while !ended() {
        assert!(Instant::now() < deadline, "process {child} has ended");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_others_are_loaded_while_one_takes_long_to_compile() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("meanwhile");
    let mut host = Host::start(&["--plugin-dir", folder.0.to_str().unwrap(), "--events", "exec", "--no-cache"]);
    folder.put("10-slow.wasm", &slow_to_compile());
    let child = compiling(host.pid());
    for name in ["20-log", "30-log"] {
        folder.put(&format!("{name}.wasm"), &fs::read(plugin("json-log")).unwrap());
        host.expect_log(&format!("plugin {name} loaded"));
        assert!(Path::new("/proc").join(&child).exists(), "the slow one is still being compiled");
    }
    // A new version takes its place, whatever becomes of the old one.
    folder.put("10-slow.wasm", &fs::read(plugin("json-log")).unwrap());
    host.expect_log("plugin 10-slow loaded");
    assert!(!host.log.iter().any(|line| line.starts_with("error")), "{:#?}", host.log);
    host.stop();
}

#[test]
fn the_others_run_while_one_cannot_be_compiled() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("beside");
    folder.put("10-large.wasm", &large_to_compile());
    folder.put("20-log.wasm", &fs::read(plugin("json-log")).unwrap());
    let mut host = Host::start(&["--plugin-dir", folder.0.to_str().unwrap(), "--events", "exec", "--no-cache"]);
    assert!(host.log.iter().any(|line| line.contains("10-large.wasm is not loaded") && line.contains("MiB")));
    Command::new("/bin/true").status().unwrap();
    host.expect("event of /bin/true", |event| event["filename"] == "/bin/true");
    host.stop();
}
