//! Counts executions and durations per program, and reports the busiest at each tick and at the end.

use std::collections::HashMap;

use eunomia_plugin::prelude::*;
use eunomia_plugin::report::{self, Row, Settings};
use serde::Serialize;

/// Programs counted one by one. Those that come later are counted together, as `(other)`.
const MAX_PROGRAMS: usize = 4096;

/// Running processes whose program is remembered until they end.
const MAX_RUNNING: usize = 65_536;

/// What is counted of a program.
#[derive(Default, Clone, Serialize)]
struct Program {
    executions: u64,
    exits: u64,
    failures: u64,
    /// Over all exits, in nanoseconds.
    duration: u64,
}

#[derive(Serialize)]
struct Runs<'a> {
    exe: &'a str,
    #[serde(flatten)]
    program: &'a Program,
}

impl Row for Runs<'_> {
    const KIND: &'static str = "exec-stats";
    const HEADING: &'static str = "     EXECS      EXITS   FAILURES      MEAN MS  PROGRAM";

    fn line(&self) -> String {
        let Runs { exe, program: Program { executions, exits, failures, duration } } = self;
        let mean = *duration as f64 / 1e6 / (*exits).max(1) as f64;
        format!("{executions:>10} {exits:>10} {failures:>10} {mean:>12.3}  {exe}")
    }
}

#[derive(Default)]
struct ExecStats {
    settings: Settings,
    programs: HashMap<String, Program>,
    /// Program by pid and start time.
    running: HashMap<(u32, u64), String>,
    changed: bool,
}

impl ExecStats {
    fn program(&mut self, exe: &str) -> &mut Program {
        let known = self.programs.contains_key(exe) || self.programs.len() < MAX_PROGRAMS;
        self.programs.entry(if known { exe } else { "(other)" }.to_owned()).or_default()
    }

    fn exec(&mut self, event: &Exec) {
        self.changed = true;
        self.program(&event.exe).executions += 1;
        if self.running.len() < MAX_RUNNING {
            self.running.insert((event.task.pid, event.task.start_time), event.exe.clone());
        }
    }

    fn exit(&mut self, event: &Exit) {
        let Some(exe) = self.running.remove(&(event.task.pid, event.task.start_time)) else { return };
        self.changed = true;
        let program = self.program(&exe);
        program.exits += 1;
        program.failures += u64::from(event.code != 0 || event.signal.is_some());
        program.duration += event.duration;
    }

    fn report(&self) -> String {
        let mut programs: Vec<_> = self.programs.iter().collect();
        programs.sort_by_key(|(exe, program)| (std::cmp::Reverse(program.executions), *exe));
        programs.truncate(self.settings.top);
        let rows: Vec<_> = programs.into_iter().map(|(exe, program)| Runs { exe, program }).collect();
        report::text(self.settings.format, &rows)
    }

    fn print(&mut self) {
        if std::mem::take(&mut self.changed) {
            print!("{}", self.report());
        }
    }
}

impl Plugin for ExecStats {
    fn start(&mut self, config: &str) -> Result<(), String> {
        self.settings = from_config(config)?;
        Ok(())
    }

    fn stop(&mut self) {
        self.print();
    }
}

impl OnExec for ExecStats {
    fn on_exec(&mut self, events: Vec<Exec>) {
        events.iter().for_each(|event| self.exec(event));
    }
}

impl OnExit for ExecStats {
    fn on_exit(&mut self, events: Vec<Exit>) {
        events.iter().for_each(|event| self.exit(event));
    }
}

impl OnTick for ExecStats {
    fn on_tick(&mut self, _now: u64, _interval: u64) {
        self.print();
    }
}

export!(ExecStats: OnExec, OnExit, OnTick);

#[cfg(test)]
mod tests {
    use super::*;

    fn task(pid: u32) -> Task {
        let comm = "true".to_owned();
        Task {
            pid,
            tid: pid,
            ppid: 1,
            uid: 0,
            gid: 0,
            comm,
            cgroup: 1,
            pid_ns: 1,
            mnt_ns: 1,
            user_ns: 1,
            start_time: 5,
        }
    }

    fn exec(pid: u32, exe: &str) -> Exec {
        Exec {
            time: 1,
            task: task(pid),
            filename: exe.into(),
            exe: exe.into(),
            exe_memfd: false,
            exe_deleted: false,
            exe_upper_layer: None,
            args: vec![],
            args_truncated: false,
            cwd: "/".into(),
            paths_truncated: false,
            tty: None,
            login_uid: None,
            capabilities: 0,
            parent_comm: "sh".into(),
            lossy: false,
        }
    }

    fn exit(pid: u32, code: u32) -> Exit {
        Exit { time: 2, task: task(pid), code, signal: None, core_dumped: false, duration: 3_000_000 }
    }

    #[test]
    fn executions_and_durations_are_summed_per_program() {
        let mut stats = ExecStats { settings: Settings { top: 1, format: report::Format::Json }, ..Default::default() };
        for pid in 1..=3 {
            stats.exec(&exec(pid, "/bin/true"));
        }
        stats.exec(&exec(4, "/bin/false"));
        stats.exit(&exit(1, 0));
        stats.exit(&exit(2, 1));
        stats.exit(&exit(9, 1)); // Began before the plugin did.
        let expected =
            r#"{"kind":"exec-stats","exe":"/bin/true","executions":3,"exits":2,"failures":1,"duration":6000000}"#;
        assert_eq!(stats.report().trim_end(), expected);
    }

    #[test]
    fn the_number_of_programs_is_bounded() {
        let mut stats = ExecStats::default();
        for number in 0..MAX_PROGRAMS as u32 + 5 {
            stats.exec(&exec(number, &format!("/bin/{number}")));
        }
        assert_eq!(stats.programs.len(), MAX_PROGRAMS + 1);
        assert_eq!(stats.programs["(other)"].executions, 5);
    }
}
