//! Runs the real binary, and asks the machine what it allows.
#![allow(dead_code)] // Each test file uses a part.

pub mod engines;
pub mod ground;
pub mod line;
pub mod mapped;
pub mod scrape;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eunomia_host::event::{Batch, Columns, KindSet};
use eunomia_host::source::{LATENCY, Narrowing, Poller, SOURCES, State, Wanted};
use serde_json::Value;

/// How long anything may take before a test gives up: slow machines and emulated ones included.
const PATIENCE: Duration = Duration::from_secs(120);

/// A shipped plugin, built by `make build`.
pub fn plugin(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/plugins/{name}.wasm"));
    assert!(path.exists(), "{} is missing: run `make build` first", path.display());
    path
}

/// A plugin that only tests run, which `make fixtures` has built.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/fixtures/{name}.wasm"))
}

/// The processes that a process has started and that run, by pid.
pub fn children(parent: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Resident memory of this process.
pub fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Whether this test may load BPF programs. In CI as root it must, so that a test cannot pass by doing nothing.
pub fn can_load_bpf() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let root = status.lines().any(|line| line.starts_with("Uid:\t0\t"));
    if !root {
        assert!(std::env::var_os("CI").is_none(), "CI has to run the kernel tests as root");
        eprintln!("skipped: needs root");
    }
    root
}

/// The hooks of a source that this kernel must be able to attach; none when this test may not load BPF programs. What a
/// kernel grants is not asked of the host that is tested: virtual machines are told by who starts them, and elsewhere
/// tracepoints are there, and kprobes where the kernel shows them.
pub fn hooks(source: &str) -> Vec<&'static str> {
    if !can_load_bpf() {
        return vec![];
    }
    if !Path::new("/sys/kernel/tracing/events").exists() {
        let mounted = Command::new("mount").args(["-t", "tracefs", "nodev", "/sys/kernel/tracing"]).status().unwrap();
        assert!(mounted.success(), "tracefs, which the rung tp needs, can be mounted");
    }
    let kprobes = Path::new("/sys/bus/event_source/devices/kprobe").exists();
    let default = if kprobes { "kprobe,tp_btf,raw_tp,tp" } else { "tp_btf,raw_tp,tp" };
    let expected = std::env::var("EUNOMIA_EXPECT_HOOKS").unwrap_or(default.to_owned());
    let source = SOURCES.iter().find(|other| other.name == source).expect("a source's name");
    let hooks = source.rungs.iter().map(|rung| rung.hook);
    let hooks: Vec<_> = hooks.filter(|hook| expected.split(',').any(|other| other == *hook)).collect();
    assert!(!hooks.is_empty(), "every kernel has some hook for {}", source.name);
    hooks
}

/// How many processes a test starts: fewer where the CPU is emulated, for there each takes some ten times as long.
pub fn runs(all: usize) -> usize {
    if std::env::var_os("EUNOMIA_EMULATED").is_some() { all / 4 } else { all }
}

/// How often a test is run again on a kernel that leaves out runs of programs, until it leaves out none.
const TRIES: usize = 8;

/// Runs a test by every hook that `hooks` says.
pub fn each_hook(source: &str, test: impl Fn(&'static str)) {
    hooks(source).into_iter().for_each(|hook| until_none_is_left_out(|| test(hook)));
}

/// Runs a test. Where the kernel interrupted programs meanwhile, and says so, events are missing: the test is done again until
/// that does not happen.
pub fn until_none_is_left_out(test: impl Fn()) {
    for left in (0..TRIES).rev() {
        SKIPPED.store(0, Ordering::Relaxed);
        match catch_unwind(AssertUnwindSafe(&test)) {
            Err(_) if skipped() > 0 && left > 0 => eprintln!("once more, for the kernel left out runs"),
            Err(failure) => resume_unwind(failure),
            Ok(()) => break,
        }
    }
}

/// Whether a hook is one on system calls and other fixed points, which sees less.
pub fn is_tracepoint(hook: &str) -> bool {
    ["tp_btf", "raw_tp", "tp"].contains(&hook)
}

/// A workload of tests/fixtures/calls/calls.c, which does each thing CALLS times.
pub fn calls(workload: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures/calls");
    assert!(path.exists(), "{} is missing: run `make fixtures` first", path.display());
    let mut command = Command::new(path);
    command.arg(workload);
    command
}

/// As TIMES in calls.c.
pub const CALLS: usize = 50;

/// Runs a workload of calls.c. Its pid and the number that it prints; none where this kernel does not have such calls.
pub fn run_calls(workload: &str) -> Option<(u32, u32)> {
    let child = calls(workload).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(77) {
        eprintln!("skipped: this kernel does not have the calls of {workload}");
        return None;
    }
    assert!(output.status.success(), "{workload}: {}", output.status);
    Some((pid, String::from_utf8(output.stdout).unwrap().trim().parse().unwrap_or_default()))
}

static SKIPPED: AtomicU64 = AtomicU64::new(0);

/// How many events of the workloads watched by one hook may be missing, because the kernel interrupted programs and says so.
/// Only kernels that are known to do it may.
pub fn skipped() -> u64 {
    SKIPPED.load(Ordering::Relaxed)
}

/// Takes in how many runs the kernel left out so far of a workload that is not over yet.
pub fn note_skipped(skipped: u64) {
    assert!(skipped == 0 || may_skip(), "the kernel left out {skipped} runs");
    SKIPPED.fetch_max(skipped, Ordering::Relaxed);
}

/// Whether this kernel is known to interrupt programs and leave out runs meanwhile.
pub fn may_skip() -> bool {
    std::env::var_os("EUNOMIA_MAY_SKIP").is_some()
}

/// What the sources see by one hook while a workload runs: nothing lost, all in time order.
pub fn watch(hook: &str, wanted: impl Into<Wanted>, workload: impl FnOnce()) -> Columns {
    let batches: Arc<Mutex<Vec<Batch>>> = Arc::default();
    let into = batches.clone();
    let narrowing = Narrowing { hooks: vec![hook.to_owned()], ..Default::default() };
    let poller = Poller::within(narrowing, LATENCY, Box::new(move |batch| into.lock().unwrap().push(batch))).unwrap();
    let wanted = wanted.into();
    let kinds = wanted.kinds;
    for state in poller.want(wanted) {
        let wanted = kinds.iter().any(|kind| kind.source() == state.source);
        let attached = matches!(&state.state, State::Attached { hook: by, .. } if *by == hook);
        assert_eq!(wanted, attached, "{state:?}");
    }
    workload();
    let (mut sent, mut skipped) = (0, 0);
    for counts in poller.stop() {
        sent += counts.sent;
        skipped += counts.skipped;
        assert_eq!(counts.lost().map(|(_, count)| count).sum::<u64>(), counts.skipped, "{counts:?}");
    }
    // By tp, a program is also left out when an interrupt comes in the middle of another one.
    assert!(skipped == 0 || may_skip() || hook == "tp", "{hook}: the kernel left out {skipped} runs");
    SKIPPED.fetch_add(skipped, Ordering::Relaxed);
    let batches = std::mem::take(&mut *batches.lock().unwrap());
    assert_eq!(sent, batches.iter().map(|batch| batch.len() as u64).sum::<u64>(), "what was sent has come");
    let mut all = Columns::default();
    for batch in batches {
        all.append(batch.columns);
    }
    note_coverage(hook, kinds);
    all
}

/// For the table of what was tested on which kernel.
fn note_coverage(hook: &str, kinds: KindSet) {
    let Some(path) = std::env::var_os("EUNOMIA_COVERAGE") else { return };
    let lines: String = kinds.iter().map(|kind| format!("{}\t{hook}\t{kind}\n", kind.source())).collect();
    fs::OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(lines.as_bytes()).unwrap();
}

/// A directory of its own, removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("eunomia-{name}-{}", std::process::id()));
        _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// Puts a plugin there as it should be done: under another name, then renamed.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let temporary = self.0.join(format!(".{name}.new"));
        fs::write(&temporary, bytes).unwrap();
        fs::rename(temporary, self.0.join(name)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// The running host.
pub struct Host {
    child: Child,
    summary: PathBuf,
    pub stdout: Receiver<String>,
    pub stderr: Receiver<String>,
    pub log: Vec<String>,
}

impl Host {
    /// Starts it and waits until it is ready.
    pub fn start(args: &[&str]) -> Self {
        let mut host = Self::spawn(args);
        let ready = host.expect_log("ready");
        assert!(ready.starts_with("ready"), "{ready}");
        host
    }

    pub fn spawn(args: &[&str]) -> Self {
        Self::spawn_binary(Path::new(env!("CARGO_BIN_EXE_eunomia-host")), args)
    }

    /// Starts another binary than the one that was built.
    pub fn spawn_binary(binary: &Path, args: &[&str]) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let summary = std::env::temp_dir().join(format!("eunomia-summary-{}-{number}.json", std::process::id()));
        let mut child = Command::new(binary)
            .args(args)
            .arg("--summary")
            .arg(&summary)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Host { child, summary, stdout, stderr, log: Vec::new() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote at its end.
    pub fn summary(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(&self.summary).unwrap()).unwrap()
    }

    /// Waits for a line of the log that contains the text.
    pub fn expect_log(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.stderr.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("no line with '{text}' ({error}); the log is {:#?}", self.log),
            }
        }
    }

    /// The line of the log that contains the text, whether it has come already, as before `ready`, or is waited for.
    pub fn said(&mut self, text: &str) -> String {
        let said = self.log.iter().find(|line| line.contains(text)).cloned();
        said.unwrap_or_else(|| self.expect_log(text))
    }

    /// Waits for a line of JSON on standard output for which the test holds.
    pub fn expect(&mut self, what: &str, mut test: impl FnMut(&Value) -> bool) -> (Value, Duration) {
        let start = Instant::now();
        loop {
            let line = self.stdout.recv_timeout(PATIENCE.saturating_sub(start.elapsed()));
            let line = line.unwrap_or_else(|_| {
                self.log.extend(self.stderr.try_iter());
                panic!("no {what} came; the log is {:#?}", self.log)
            });
            if let Ok(value) = serde_json::from_str(&line)
                && test(&value)
            {
                return (value, start.elapsed());
            }
        }
    }

    pub fn interrupt(&self) {
        let done = Command::new("kill").arg("-INT").arg(self.pid().to_string()).status().unwrap();
        assert!(done.success());
    }

    /// Stops it with Ctrl-C, checks that every sum adds up, and returns what was printed and the summary.
    pub fn stop(mut self) -> (Vec<Value>, Value) {
        self.interrupt();
        let printed: Vec<Value> = self
            .stdout
            .iter()
            .map(|line| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}")))
            .collect();
        let status = self.child.wait().unwrap();
        self.log.extend(self.stderr.iter());
        assert!(status.success(), "{status}: {:#?}", self.log);
        let summary = self.summary();
        check_sums(&summary);
        let sources = summary["sources"].as_object().unwrap().values();
        let skipped: u64 = sources.filter_map(|source| source["lost"]["skipped"].as_u64()).sum();
        assert!(skipped == 0 || may_skip(), "{summary}");
        SKIPPED.fetch_add(skipped, Ordering::Relaxed);
        (printed, summary)
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let status = self.child.wait().unwrap();
        self.log.extend(self.stderr.iter());
        status
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        _ = fs::remove_file(&self.summary);
    }
}

fn lines(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// `seen = filtered + delivered + lost`, for every source and every plugin.
pub fn check_sums(summary: &Value) {
    for group in ["sources", "plugins"] {
        for (name, counts) in summary[group].as_object().unwrap() {
            check_sum(&format!("{group} {name}"), counts);
            if let Some(kinds) = counts.get("kinds").map(|kinds| kinds.as_object().unwrap()) {
                kinds.iter().for_each(|(kind, counts)| check_sum(&format!("{group} {name} {kind}"), counts));
                for key in ["seen", "filtered", "delivered"] {
                    let by_kind: u64 = kinds.values().map(|kind| kind[key].as_u64().unwrap()).sum();
                    assert_eq!(by_kind, counts[key], "{name}: {counts}");
                }
            }
        }
    }
}

fn check_sum(what: &str, counts: &Value) {
    let number = |key: &str| counts[key].as_u64().unwrap();
    let lost: u64 = counts["lost"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(number("seen"), number("filtered") + number("delivered") + lost, "{what}: {counts}");
}
