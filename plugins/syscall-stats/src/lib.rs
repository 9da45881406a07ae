//! Reports at each tick which programs made which system calls most often, and how long those took.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use eunomia_plugin::prelude::*;
use eunomia_plugin::syscall::Abi;
use eunomia_plugin::syscalls;
use serde::{Deserialize, Serialize};

/// Pairs of program and call counted one by one in an interval. Those beyond are counted together, as `(other)`.
const MAX_ROWS: usize = 16_384;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// How many rows a report shows.
    top: usize,
    /// `text` for people, `json` for programs.
    format: Format,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Default)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Text,
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { top: 10, format: Format::Text }
    }
}

/// A system call: how it is made, and its number.
type Call = (Abi, u32);

/// What is summed of a program's call.
#[derive(Default, Clone, Serialize)]
struct Sum {
    count: u64,
    errors: u64,
    /// In nanoseconds.
    total_time: u64,
}

#[derive(Serialize)]
struct Row<'a> {
    kind: &'static str,
    comm: &'a str,
    syscall: &'a str,
    #[serde(flatten)]
    sum: &'a Sum,
}

#[derive(Default)]
struct SyscallStats {
    settings: Settings,
    sums: BTreeMap<(String, Call), Sum>,
    others: Sum,
}

/// A call's name, marked where it is not of the machine's own table.
fn name((abi, number): Call) -> String {
    let name = syscalls::name(abi, number).unwrap_or_else(|| number.to_string());
    match abi {
        Abi::Native => name,
        Abi::Compat => name + " (32-bit)",
        Abi::X32 => name + " (x32)",
    }
}

impl SyscallStats {
    fn add(&mut self, event: &SyscallCount) {
        let key = (event.task.comm.clone(), (event.abi, event.number));
        let has_room = self.sums.len() < MAX_ROWS || self.sums.contains_key(&key);
        let sum = if has_room { self.sums.entry(key).or_default() } else { &mut self.others };
        sum.count += event.count;
        sum.errors += event.errors;
        sum.total_time += event.total_time;
    }

    /// The report of what has come since the last one.
    fn report(&mut self, name: fn(Call) -> String) -> String {
        let mut rows: Vec<_> = std::mem::take(&mut self.sums).into_iter().collect();
        rows.sort_by_key(|(_, sum)| Reverse(sum.count));
        rows.truncate(self.settings.top);
        let mut rows: Vec<_> = rows.into_iter().map(|((comm, call), sum)| ((comm, name(call)), sum)).collect();
        let others = std::mem::take(&mut self.others);
        if others.count > 0 {
            rows.push((("(other)".to_owned(), "(other)".to_owned()), others));
        }
        let mut text = String::new();
        if self.settings.format == Format::Text && !rows.is_empty() {
            _ = writeln!(text, "{:>12} {:>10} {:>12}  {:<16} PROGRAM", "CALLS", "ERRORS", "MEAN US", "SYSCALL");
        }
        for ((comm, syscall), sum) in &rows {
            match self.settings.format {
                Format::Text => {
                    let mean = sum.total_time as f64 / 1e3 / sum.count.max(1) as f64;
                    _ = writeln!(text, "{:>12} {:>10} {mean:>12.3}  {syscall:<16} {comm}", sum.count, sum.errors);
                }
                Format::Json => {
                    let row = Row { kind: "syscall-stats", comm, syscall, sum };
                    text += &serde_json::to_string(&row).expect("strings and numbers always serialise");
                    text.push('\n');
                }
            }
        }
        text
    }

    fn print(&mut self) {
        let report = self.report(name);
        _ = std::io::stdout().lock().write_all(report.as_bytes());
    }
}

impl Plugin for SyscallStats {
    fn start(&mut self, config: &str) -> Result<(), String> {
        self.settings = from_config(config)?;
        Ok(())
    }

    fn stop(&mut self) {
        self.print();
    }
}

impl OnSyscallCount for SyscallStats {
    fn on_syscall_count(&mut self, events: Vec<SyscallCount>) {
        events.iter().for_each(|event| self.add(event));
    }
}

impl OnTick for SyscallStats {
    fn on_tick(&mut self, _now: u64, _interval: u64) {
        self.print();
    }
}

export!(SyscallStats: OnSyscallCount, OnTick);

#[cfg(test)]
mod tests {
    use super::*;

    fn count(comm: &str, abi: Abi, number: u32, count: u64) -> SyscallCount {
        let task = Task {
            pid: 1,
            tid: 1,
            ppid: 1,
            uid: 0,
            gid: 0,
            comm: comm.into(),
            cgroup: 1,
            pid_ns: 1,
            mnt_ns: 1,
            user_ns: 1,
            start_time: 1,
        };
        SyscallCount { time: 1, task, number, abi, count, errors: 1, total_time: 2_000 }
    }

    #[test]
    fn a_report_sums_the_processes_of_a_program_and_begins_anew() {
        let mut stats = SyscallStats { settings: Settings { top: 1, format: Format::Json }, ..Default::default() };
        stats.add(&count("sh", Abi::Native, 0, 5));
        stats.add(&count("sh", Abi::Native, 0, 6));
        stats.add(&count("cat", Abi::Native, 0, 7));
        let expected =
            r#"{"kind":"syscall-stats","comm":"sh","syscall":"call-0","count":11,"errors":2,"total_time":4000}"#;
        let number = |(_, number): Call| format!("call-{number}");
        assert_eq!(stats.report(number).trim_end(), expected);
        assert_eq!(stats.report(number), "");
    }
}
