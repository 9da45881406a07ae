//! The tools that people have for it now. Each runs the workload itself, and prints a line per event into a file.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::measure::finish;
use super::workload::Storm;

pub struct Tool {
    pub name: &'static str,
    /// The storm is made smaller by this, for these are slow.
    pub divide: u64,
    arguments: fn(&Storm, &str) -> Vec<String>,
}

pub const TOOLS: &[Tool] = &[
    Tool { name: "strace", divide: 50, arguments: strace },
    Tool { name: "perf", divide: 5, arguments: perf_trace },
    Tool { name: "bpftrace", divide: 5, arguments: bpftrace },
];

fn strace(storm: &Storm, file: &str) -> Vec<String> {
    let words = ["-f", "-qq", "-e", &format!("trace={}", storm.calls), "-e", "signal=none", "-o", file];
    words.map(str::to_owned).to_vec()
}

fn perf_trace(storm: &Storm, file: &str) -> Vec<String> {
    ["trace", "-e", storm.calls, "-o", file].map(str::to_owned).to_vec()
}

fn bpftrace(storm: &Storm, file: &str) -> Vec<String> {
    let probe = |call: &str| format!("tracepoint:syscalls:sys_enter_{call} {{ printf(\"{call} %d\\n\", pid); }}");
    let script: Vec<String> = storm.calls.split(',').map(probe).collect();
    ["-q", "-o", file, "-e", &script.join(" "), "-c"].map(str::to_owned).to_vec()
}

impl Tool {
    pub fn is_installed(&self) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(self.name).is_file())
    }

    /// Runs a storm under it. The events that it printed, its own CPU time, and what the workload says of its.
    pub fn run(&self, storm: &Storm, mut workload: Command) -> (u64, f64, f64) {
        let temporary = |what: &str| std::env::temp_dir().join(format!("eunomia-storm-{what}-{}", std::process::id()));
        let (file, times) = (temporary("events"), temporary("times"));
        workload.arg(&times);
        let mut command = Command::new(self.name);
        command.args((self.arguments)(storm, file.to_str().expect("a temporary folder has a plain name")));
        let words: Vec<_> = std::iter::once(workload.get_program()).chain(workload.get_args()).collect();
        match self.name {
            "bpftrace" => _ = command.arg(words.join(" ".as_ref())),
            _ => _ = command.arg("--").args(words),
        }
        let cpu = finish(&mut command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed"));
        let seen = count(&file, storm);
        let taken = fs::read_to_string(&times).ok().and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
        [file, times].iter().for_each(|file| _ = fs::remove_file(file));
        (seen, cpu.own, taken)
    }
}

/// Lines about the calls. A call that was interrupted by another has two; the second says so.
fn count(file: &Path, storm: &Storm) -> u64 {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let is_call = |line: &&str| {
        !line.contains("resumed")
            && storm
                .calls
                .split(',')
                .any(|call| line.contains(&format!("{call}(")) || line.contains(&format!("{call} ")))
    };
    text.lines().filter(is_call).count() as u64
}
