//! `curl ... | sh`, seen from outside: two programs that one parent starts within a moment, one that downloads and one
//! that runs what it is given.

use std::collections::VecDeque;

use eunomia_plugin::prelude::*;

use crate::subject::{Event, Lookup, Subject};

/// A shell starts the programs of a pipeline within this time.
const MOMENT_NS: u64 = 200_000_000;

/// The most executions remembered: more than a busy machine makes in that time.
const MAX_REMEMBERED: usize = 256;

/// The latest executions of programs that download or interpret.
#[derive(Default)]
pub struct Pipes {
    recent: VecDeque<(Exec, Role)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Downloads,
    Interprets,
}

fn role(event: &Exec) -> Option<Role> {
    let program = event.args.first().map_or("", |arg| arg.rsplit('/').next().unwrap_or_default());
    let from_input =
        event.args.len() == 1 || matches!(event.args.get(1).map(String::as_str), Some("-" | "-s" | "-x" | "-e"));
    match program {
        "curl" | "wget" | "fetch" => Some(Role::Downloads),
        "sh" | "bash" | "dash" | "zsh" | "ash" | "python" | "python3" | "perl" | "ruby" | "node" | "php"
            if from_input =>
        {
            Some(Role::Interprets)
        }
        _ => None,
    }
}

impl Pipes {
    /// Takes in an execution, and says so when it completes such a pair.
    pub fn watch(&mut self, event: &Exec, lookup: Lookup) -> Option<Alert> {
        let role = role(event)?;
        while self.recent.front().is_some_and(|(old, _)| old.time + MOMENT_NS < event.time)
            || self.recent.len() >= MAX_REMEMBERED
        {
            self.recent.pop_front();
        }
        let other =
            self.recent.iter().rfind(|(other, other_role)| *other_role != role && other.task.ppid == event.task.ppid);
        let found = other.map(|(other, _)| {
            let (interpreter, download) = if role == Role::Interprets { (event, other) } else { (other, event) };
            let message = "an interpreter runs what comes from the network";
            Subject::new(Event::Exec(interpreter), lookup)
                .alert(Severity::High, "interpreter-fed-from-network", message)
                .field("download", download.args.join(" "))
        });
        self.recent.push_back((event.clone(), role));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::exec;

    fn at(time: u64, ppid: u32, args: &str) -> Exec {
        let mut event = Exec { time, ..exec("/usr/bin/x", args, "bash") };
        event.task.ppid = ppid;
        event
    }

    #[test]
    fn a_download_and_a_bare_interpreter_of_one_parent_make_a_pair_in_either_order() {
        let mut pipes = Pipes::default();
        assert!(pipes.watch(&at(1, 10, "curl http://10.0.0.1/a"), |_, _| None).is_none());
        assert!(pipes.watch(&at(2, 11, "sh"), |_, _| None).is_none(), "another parent");
        assert!(pipes.watch(&at(3, 10, "bash script.sh"), |_, _| None).is_none(), "it runs a file");
        let alert = pipes.watch(&at(4, 10, "bash -s"), |_, _| None).unwrap();
        assert_eq!(alert.fields.last().unwrap().value, "curl http://10.0.0.1/a");
        assert!(pipes.watch(&at(MOMENT_NS * 2, 10, "sh"), |_, _| None).is_none(), "long after");
        assert!(pipes.watch(&at(MOMENT_NS * 2 + 1, 10, "wget -qO- http://10.0.0.1/a"), |_, _| None).is_some());
    }
}
