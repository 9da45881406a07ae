//! Reports at each tick which programs made which system calls most often, and how long those took.

use eunomia_plugin::prelude::*;
use eunomia_plugin::report::{self, Row, Settings, Sums};
use eunomia_plugin::syscall::Abi;
use eunomia_plugin::syscalls;
use serde::Serialize;

/// Pairs of program and call counted one by one in an interval. Those beyond are counted together, as `(other)`.
const MAX_ROWS: usize = 16_384;

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
struct Calls {
    comm: String,
    syscall: String,
    #[serde(flatten)]
    sum: Sum,
}

impl Row for Calls {
    const KIND: &'static str = "syscall-stats";
    const HEADING: &'static str = "       CALLS     ERRORS      MEAN US  SYSCALL          PROGRAM";

    fn line(&self) -> String {
        let Calls { comm, syscall, sum: Sum { count, errors, total_time } } = self;
        let mean = *total_time as f64 / 1e3 / (*count).max(1) as f64;
        format!("{count:>12} {errors:>10} {mean:>12.3}  {syscall:<16} {comm}")
    }
}

#[derive(Default)]
struct SyscallStats {
    settings: Settings,
    sums: Sums<(String, Call), Sum, MAX_ROWS>,
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
        let sum = self.sums.of((event.task.comm.clone(), (event.abi, event.number)));
        sum.count += event.count;
        sum.errors += event.errors;
        sum.total_time += event.total_time;
    }

    /// The rows of what has come since the last report.
    fn rows(&mut self, name: fn(Call) -> String) -> Vec<Calls> {
        let other = || "(other)".to_owned();
        let sums = self.sums.take(self.settings.top, |sum| sum.count).into_iter();
        sums.map(|(key, sum)| match key {
            Some((comm, call)) => Calls { comm, syscall: name(call), sum },
            None => Calls { comm: other(), syscall: other(), sum },
        })
        .collect()
    }

    fn print(&mut self) {
        let rows = self.rows(name);
        report::print(self.settings.format, &rows);
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
        let settings = Settings { top: 1, format: report::Format::Json };
        let mut stats = SyscallStats { settings, ..Default::default() };
        stats.add(&count("sh", Abi::Native, 0, 5));
        stats.add(&count("sh", Abi::Native, 0, 6));
        stats.add(&count("cat", Abi::Native, 0, 7));
        let expected =
            r#"{"kind":"syscall-stats","comm":"sh","syscall":"call-0","count":11,"errors":2,"total_time":4000}"#;
        let number = |(_, number): Call| format!("call-{number}");
        assert_eq!(report::text(report::Format::Json, &stats.rows(number)).trim_end(), expected);
        assert!(stats.rows(number).is_empty());
    }
}
