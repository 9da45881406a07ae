//! The host as a child process, with plugins that count.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::measure::{cpu_with_children, finish};

/// A running host, ready.
pub struct Host {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    folder: PathBuf,
    /// How long it took to be ready.
    pub ready_after: Duration,
    /// The CPU time that this took.
    pub start: f64,
}

/// What came of a run.
pub struct Outcome {
    /// What each plugin printed.
    pub counts: Vec<Value>,
    pub summary: Value,
    /// From ready to the end.
    pub cpu: f64,
}

/// A plugin that `make build` has built.
pub fn plugin(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/plugins/{name}.wasm"));
    assert!(path.exists(), "{} is missing: run `make build` first", path.display());
    path
}

/// Where machine code is kept: in no other program's folder, and first in none.
fn cache() -> PathBuf {
    std::env::temp_dir().join(format!("eunomia-storm-cache-{}", std::process::id()))
}

/// As if no host had ever run.
pub fn forget_machine_code() {
    _ = fs::remove_dir_all(cache());
}

impl Host {
    /// Starts it with so many copies of a plugin, which share machine code.
    pub fn start(name: &str, copies: usize, args: &[&str]) -> Host {
        Self::start_with(name, copies, args, |_| Vec::new())
    }

    /// The same where each has bytes of its own, and so machine code.
    pub fn start_each(name: &str, copies: usize, args: &[&str]) -> Host {
        // A custom section with a name of one byte and four of content.
        Self::start_with(name, copies, args, |copy| [&[0, 6, 1, b'n'], &(copy as u32).to_le_bytes()[..]].concat())
    }

    fn start_with(name: &str, copies: usize, args: &[&str], more: fn(usize) -> Vec<u8>) -> Host {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("eunomia-storm-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("there is a temporary folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_eunomia-host"));
        command.arg("--cache").arg(cache());
        for copy in 0..copies {
            let file = folder.join(format!("{name}-{copy}.wasm"));
            let bytes = [fs::read(plugin(name)).expect("it was built"), more(copy)].concat();
            fs::write(&file, bytes).expect("there is room");
            command.arg("--plugin").arg(file);
        }
        let begun = Instant::now();
        let mut child = command
            .args(args)
            .arg("--summary")
            .arg(folder.join("summary.json"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the host is built");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let ready = log.by_ref().map_while(Result::ok).find(|line| line.starts_with("ready"));
        assert!(ready.is_some_and(|line| line.starts_with("ready sources")), "the host is not ready; is this root?");
        let start = cpu_with_children(child.id());
        Host { child, log, folder, ready_after: begun.elapsed(), start }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it. Every sum must add up.
    pub fn stop(self) -> Outcome {
        let Host { mut child, log, folder, start, .. } = self;
        kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
        // Of many plugins it says more at its end than a pipe holds, on both: read one after the other, they would wait for each other.
        let log = thread::spawn(|| log.for_each(drop));
        let mut printed = String::new();
        child.stdout.take().expect("it is piped").read_to_string(&mut printed).expect("it prints text");
        log.join().expect("it only reads");
        let cpu = finish(&mut child).all() - start;
        let summary = fs::read_to_string(folder.join("summary.json")).expect("it was written");
        fs::remove_dir_all(&folder).expect("it is ours");
        let counts = printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Outcome { counts, summary: serde_json::from_str(&summary).expect("it is JSON"), cpu }
    }
}

impl Outcome {
    /// Events of a kind that each plugin has counted, and the least of it; of system calls those of one number.
    pub fn least(&self, kind: &str, call: Option<u32>) -> u64 {
        let of = |count: &Value| match call {
            None => count["events"][kind].as_u64().unwrap_or(0),
            Some(number) => {
                let calls = count["syscalls"].as_array().into_iter().flatten();
                calls.filter(|call| call["number"] == number).filter_map(|call| call["count"].as_u64()).sum()
            }
        };
        self.counts.iter().map(of).min().unwrap_or(0)
    }

    /// Events lost on their way out of the kernel, and by all plugins together.
    pub fn lost(&self) -> (u64, u64) {
        let sum = |group: &str| {
            let rows = self.summary[group].as_object().expect("it is a table");
            let lost = rows.values().filter_map(|row| row["lost"].as_object());
            lost.flat_map(|places| places.values()).filter_map(Value::as_u64).sum()
        };
        (sum("sources"), sum("plugins"))
    }
}
