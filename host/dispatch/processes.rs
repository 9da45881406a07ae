//! The table of processes: those alive, and those that ended a short while ago. Kept by the events themselves.

use std::collections::{HashMap, VecDeque};
use std::sync::RwLock;

use crate::event::{Batch, Kind};
use crate::wit::process::Exec;
use crate::wit::processes::Process;
use crate::wit::types::Task;

/// How long an ended process is remembered: plugins may be seconds behind, and people look at parents' parents.
const REMEMBER_NS: u64 = 120_000_000_000;

/// How many ended processes are remembered, whatever their age.
const MAX_ENDED: usize = 16_384;

/// How exact a start time is that does not come from an event: that of /proc counts in hundredths of a second.
const FALLBACK_EXACT_NS: u64 = 10_000_000;

/// Looks a process up where the table cannot know it, because no event of it was delivered.
pub type Fallback = Box<dyn Fn(u32) -> Option<Process> + Send + Sync>;

/// The process table.
pub struct Processes {
    table: RwLock<Table>,
    fallback: Fallback,
}

#[derive(Default)]
struct Table {
    live: HashMap<u32, Process>,
    /// In the order of their ends.
    ended: VecDeque<Process>,
}

/// A process whose start time is not known yet: it has been forked, and no event of its own has come.
const START_UNKNOWN: u64 = 0;

impl Processes {
    /// An empty table.
    pub fn new(fallback: Fallback) -> Self {
        Processes { table: RwLock::default(), fallback }
    }

    /// Takes in the processes that run already. What events have told is newer and stays.
    pub fn add_running(&self, running: Vec<Process>) {
        let mut table = self.table.write().expect("no thread panics while it holds this");
        for process in running {
            table.live.entry(process.pid).or_insert(process);
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.table.write().expect("no thread panics while it holds this") = Table::default();
    }

    /// Takes in what a batch tells.
    pub fn apply(&self, batch: &Batch) {
        let columns = &batch.columns;
        if columns.exec.is_empty() && columns.exit.is_empty() && columns.fork.is_empty() {
            return;
        }
        let mut table = self.table.write().expect("no thread panics while it holds this");
        for run in &batch.runs {
            let rows = run.start as usize..run.end as usize;
            match run.kind {
                Kind::Exec => columns.exec[rows].iter().for_each(|exec| table.exec(exec)),
                Kind::Fork => {
                    columns.fork[rows].iter().for_each(|fork| table.fork(&fork.task, fork.child_pid));
                }
                Kind::Exit => columns.exit[rows].iter().for_each(|exit| table.exit(&exit.task, exit.time)),
                _ => {}
            }
        }
    }

    /// The process with a pid: with a start time that very one, else the one that has the pid now or had it last.
    pub fn lookup(&self, pid: u32, start_time: Option<u64>) -> Option<Process> {
        let found = {
            let table = self.table.read().expect("no thread panics while it holds this");
            let is_it = |process: &&Process| {
                process.pid == pid
                    && start_time.is_none_or(|start| process.start_time == start || process.start_time == START_UNKNOWN)
            };
            table.live.get(&pid).filter(is_it).or_else(|| table.ended.iter().rev().find(is_it)).cloned()
        };
        found.or_else(|| {
            let process = (self.fallback)(pid)?;
            let start = start_time.unwrap_or(process.start_time);
            let is_it = process.start_time.abs_diff(start) <= FALLBACK_EXACT_NS;
            is_it.then_some(Process { start_time: start, ..process })
        })
    }
}

impl Table {
    fn exec(&mut self, exec: &Exec) {
        let process = self.of(&exec.task);
        process.comm.clone_from(&exec.task.comm);
        process.exe.clone_from(&exec.exe);
        process.args.clone_from(&exec.args);
    }

    fn fork(&mut self, parent: &Task, child_pid: u32) {
        let parent = self.of(parent);
        let child =
            Process { pid: child_pid, ppid: parent.pid, start_time: START_UNKNOWN, end_time: None, ..parent.clone() };
        self.live.insert(child_pid, child);
    }

    fn exit(&mut self, task: &Task, time: u64) {
        self.of(task);
        if let Some(mut process) = self.live.remove(&task.pid) {
            process.end_time = Some(time);
            self.ended.push_back(process);
        }
        let is_old = |process: &Process| process.end_time.is_some_and(|end| end + REMEMBER_NS < time);
        while self.ended.len() > MAX_ENDED || self.ended.front().is_some_and(is_old) {
            self.ended.pop_front();
        }
    }

    /// The live process that a task belongs to, made from the task where it was not known.
    fn of(&mut self, task: &Task) -> &mut Process {
        let process = self.live.entry(task.pid).or_insert_with(|| from_task(task));
        if process.start_time != task.start_time && process.start_time != START_UNKNOWN {
            *process = from_task(task); // The pid has been reused, and the end of its last owner was not seen.
        }
        (process.start_time, process.ppid, process.uid) = (task.start_time, task.ppid, task.uid);
        process
    }
}

fn from_task(task: &Task) -> Process {
    Process {
        pid: task.pid,
        ppid: task.ppid,
        uid: task.uid,
        comm: task.comm.clone(),
        exe: String::new(),
        args: Vec::new(),
        start_time: task.start_time,
        end_time: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Columns, decode};
    use crate::wit::process::{Exit, Fork};

    fn task(pid: u32, start_time: u64) -> Task {
        Task { pid, start_time, ..decode::tests::task() }
    }

    #[test]
    fn a_forked_process_is_known_by_its_parents_program_and_remembered_after_its_end() {
        let shell = Process { exe: "/bin/sh".into(), ..from_task(&task(10, 5)) };
        let processes = Processes::new(Box::new(|_| None));
        processes.add_running(vec![shell]);
        let fork = Fork { time: 100, task: task(10, 5), child_pid: 11 };
        let exit = Exit {
            time: 200,
            task: Task { ppid: 10, ..task(11, 99) },
            code: 0,
            signal: None,
            core_dumped: false,
            duration: 101,
        };
        let mut pending = Columns { fork: vec![fork], exit: vec![exit], ..Default::default() };
        processes.apply(&Batch::cut(&mut pending, 150));
        let child = processes.lookup(11, Some(99)).expect("the start time is not known yet, so any will do");
        assert_eq!((child.exe.as_str(), child.ppid, child.end_time), ("/bin/sh", 10, None));
        processes.apply(&Batch::cut(&mut pending, u64::MAX));
        let child = processes.lookup(11, Some(99)).expect("ended a moment ago");
        assert_eq!((child.start_time, child.end_time), (99, Some(200)));
        assert!(processes.lookup(11, Some(98)).is_none(), "another process with the same pid");
        assert!(processes.lookup(12, None).is_none());
        processes.clear();
        assert!(processes.lookup(11, None).is_none());
    }

    #[test]
    fn what_no_event_told_of_is_looked_up_elsewhere_and_its_start_time_is_less_exact() {
        let shell = from_task(&task(10, 50_000_000));
        let processes = Processes::new(Box::new(move |pid| (pid == 10).then(|| shell.clone())));
        assert_eq!(processes.lookup(10, Some(55_000_000)).unwrap().start_time, 55_000_000);
        assert!(processes.lookup(10, Some(65_000_000)).is_none(), "another process with the same pid");
        assert!(processes.lookup(11, None).is_none());
    }
}
