//! A filter: what its settings name does not reach the plugins behind it. Without settings everything passes.

use eunomia_plugin::prelude::*;
use serde::{Deserialize, Deserializer};
use wildmatch::WildMatch;

/// What is dropped. Any one that fits is enough.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Quiet {
    /// Patterns for the thread's name.
    comm: Vec<Glob>,
    /// User ids.
    uid: Vec<u32>,
    /// Patterns for the parent's name; for exec events alone.
    parent: Vec<Glob>,
    /// Patterns for the program's path; for exec events alone.
    exe: Vec<Glob>,
}

/// A pattern with `*` and `?`, for a whole string.
struct Glob(WildMatch);

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Glob(WildMatch::new(&text)))
    }
}

fn any(globs: &[Glob], text: &str) -> bool {
    globs.iter().any(|glob| glob.0.matches(text))
}

impl Quiet {
    fn keeps_task(&self, task: &Task) -> bool {
        !self.uid.contains(&task.uid) && !any(&self.comm, &task.comm)
    }

    fn keeps_exec(&self, event: &Exec) -> bool {
        self.keeps_task(&event.task) && !any(&self.parent, &event.parent_comm) && !any(&self.exe, &event.exe)
    }
}

impl Plugin for Quiet {
    fn start(&mut self, config: &str) -> Result<(), String> {
        *self = from_config(config)?;
        Ok(())
    }
}

impl FilterExec for Quiet {
    fn keep_exec(&mut self, events: Vec<Exec>) -> Vec<bool> {
        events.iter().map(|event| self.keeps_exec(event)).collect()
    }
}

impl FilterExit for Quiet {
    fn keep_exit(&mut self, events: Vec<Exit>) -> Vec<bool> {
        events.iter().map(|event| self.keeps_task(&event.task)).collect()
    }
}

impl FilterFork for Quiet {
    fn keep_fork(&mut self, events: Vec<Fork>) -> Vec<bool> {
        events.iter().map(|event| self.keeps_task(&event.task)).collect()
    }
}

export!(Quiet: FilterExec, FilterExit, FilterFork);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_users_are_dropped_and_nothing_else() {
        let quiet: Quiet = from_config(r#"{"comm": ["kworker*"], "uid": [33]}"#).unwrap();
        let task = |comm: &str, uid| Task {
            pid: 1,
            tid: 1,
            ppid: 1,
            uid,
            gid: 1,
            comm: comm.into(),
            cgroup: 1,
            pid_ns: 1,
            mnt_ns: 1,
            user_ns: 1,
            start_time: 1,
        };
        assert!(!quiet.keeps_task(&task("kworker/0:1", 0)));
        assert!(!quiet.keeps_task(&task("sh", 33)));
        assert!(quiet.keeps_task(&task("sh", 0)));
        assert!(Quiet::default().keeps_task(&task("kworker/0:1", 33)), "without settings everything passes");
        let error = from_config::<Quiet>(r#"{"comms": []}"#).err().unwrap();
        assert!(error.contains("`comms`") && error.contains("`comm`"), "{error}");
    }
}
