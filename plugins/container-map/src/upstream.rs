//! One engine's API: what is asked of it and when, and what the operator is told of its health. It knows nothing of cgroups.

use std::time::{Duration, Instant};

use eunomia_plugin::containers::Engine;

use crate::engine::{Description, inspect_path, list_path, read_list, read_pid};
use crate::http::{Call, Failure};

/// How often in a row an engine may take too long for new containers until they no longer wait for it: each time, events
/// have waited, and a busy engine deserves another chance.
const STRIKES: u32 = 3;

/// Ids asked for in one request: a URL of 3 KiB.
const IDS_PER_REQUEST: usize = 32;

/// Requests for single containers that may be on their way at once, of the eight that the host allows a plugin.
const MAX_INSPECTS: usize = 2;

/// How long a tick waits for the list. Most answer at once; what the others say is read at the next tick.
const TICK_WAIT: Duration = Duration::from_millis(20);

pub struct Upstream {
    /// As in `[grants.http]`.
    name: String,
    pub engine: Engine,
    health: Health,
    list: Option<Call>,
    inspects: Vec<(String, Call)>,
}

impl Upstream {
    pub fn new(name: String, engine: Engine) -> Self {
        Upstream { name, engine, health: Health::default(), list: None, inspects: vec![] }
    }

    /// Whether a container of this engine, by its path, may be one of this upstream.
    pub fn may_know(&self, engine: Engine) -> bool {
        engine == self.engine || engine == Engine::Unknown
    }

    /// What it says of new containers, if it says so in time.
    pub fn ask(&mut self, ids: &[&str], until: Instant) -> Vec<Description> {
        let mut all = vec![];
        for ids in ids.chunks(IDS_PER_REQUEST) {
            if !self.health.worth_waiting() {
                break;
            }
            let left = until.saturating_duration_since(Instant::now());
            let result = match Call::get(&self.name, &list_path(ids)) {
                Ok(mut call) => call.wait(left),
                Err(failure) => Some(Err(failure)),
            };
            match result {
                Some(result) => all.extend(self.listed(result)),
                None => {
                    let line = self.health.late(&self.name);
                    tell(line);
                }
            }
        }
        all
    }

    /// Asks for all containers, and takes the answer if it is there; `wanted` says whether any of its containers runs.
    pub fn tick(&mut self, wanted: bool, wait: Option<Duration>) -> Vec<Description> {
        if self.list.is_none() {
            if !self.health.worth_asking(wanted) {
                return vec![];
            }
            match Call::get(&self.name, &list_path(&[])) {
                Ok(call) => self.list = Some(call),
                Err(failure) => return self.listed(Err(failure)),
            }
        }
        let answer = self.list.as_mut().and_then(|call| call.wait(wait.unwrap_or(TICK_WAIT)));
        answer.map_or_else(Vec::new, |answer| {
            self.list = None;
            self.listed(answer)
        })
    }

    /// Reads a list, and notes how the engine is doing.
    fn listed(&mut self, answer: Result<Vec<u8>, Failure>) -> Vec<Description> {
        let read = answer.and_then(|bytes| read_list(&bytes, self.engine).map_err(Failure::Bad));
        let line = match &read {
            Ok(_) => self.health.answered(&self.name),
            Err(failure) => self.health.failed(&self.name, failure),
        };
        tell(line);
        read.unwrap_or_default()
    }

    /// Asks for a container's first process; `pids` has the answer later.
    pub fn ask_pid(&mut self, id: &str) {
        let asked = self.inspects.iter().any(|(of, _)| of == id);
        if !asked && self.inspects.len() < MAX_INSPECTS && self.health.worth_waiting() {
            self.inspects.extend(Call::get(&self.name, &inspect_path(id)).ok().map(|call| (id.to_owned(), call)));
        }
    }

    /// The first processes that have been told since. Failures are the list's to notice.
    pub fn pids(&mut self) -> Vec<(String, u32)> {
        let mut pids = vec![];
        self.inspects.retain_mut(|(_, call)| match call.wait(Duration::ZERO) {
            None => true,
            Some(answer) => {
                let read = answer.ok().and_then(|bytes| read_pid(&bytes).ok());
                pids.extend(read.and_then(|(id, pid)| Some((id, pid?))));
                false
            }
        });
        pids
    }
}

fn tell(line: Option<String>) {
    if let Some(line) = line {
        eprintln!("{line}");
    }
}

/// Whether an engine answers, with one line for each change.
#[derive(Default)]
struct Health {
    denied: bool,
    silent: bool,
    strikes: u32,
}

impl Health {
    fn worth_waiting(&self) -> bool {
        !self.denied && !self.silent
    }

    /// One that is silent is asked until it is back.
    fn worth_asking(&self, wanted: bool) -> bool {
        !self.denied && (wanted || self.silent)
    }

    fn answered(&mut self, name: &str) -> Option<String> {
        self.strikes = 0;
        let line = format!("{name} answers again");
        std::mem::take(&mut self.silent).then_some(line)
    }

    fn late(&mut self, name: &str) -> Option<String> {
        self.strikes += 1;
        let reason = "it does not answer in time".to_owned();
        (self.strikes >= STRIKES).then(|| self.failed(name, &Failure::Bad(reason))).flatten()
    }

    fn failed(&mut self, name: &str, failure: &Failure) -> Option<String> {
        let (reason, remedy) = match failure {
            Failure::NotGranted => {
                self.denied = true;
                return None;
            }
            Failure::Busy => return None,
            Failure::Absent(reason) => (reason, "is the engine running, and does [grants.http] name its socket?"),
            Failure::Bad(reason) => (reason, "is the engine overloaded or hanging?"),
        };
        let line = format!(
            "warning: {name} cannot be asked about its containers: {reason}; new ones are known by id alone until it \
             answers ({remedy})"
        );
        (!std::mem::replace(&mut self.silent, true)).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_until_it_answers_again() {
        let mut health = Health::default();
        assert!(health.worth_waiting() && !health.worth_asking(false), "nobody's engine is left in peace");
        let absent = Failure::Absent("its socket is not there".into());
        let line = health.failed("docker", &absent).unwrap();
        assert!(line.contains("docker") && line.contains("socket") && line.contains("[grants.http]"), "{line}");
        assert_eq!(health.failed("docker", &absent), None);
        assert!(!health.worth_waiting() && health.worth_asking(false), "asked until it is back");
        assert_eq!(health.answered("docker").as_deref(), Some("docker answers again"));
        assert_eq!(health.answered("docker"), None);
        assert!(health.failed("docker", &absent).is_some(), "a new warning after a recovery");
    }

    #[test]
    fn a_late_answer_is_forgiven_some_times() {
        let mut health = Health::default();
        for _ in 1..STRIKES {
            assert_eq!(health.late("docker"), None);
        }
        health.answered("docker");
        for _ in 1..STRIKES {
            assert_eq!(health.late("docker"), None);
        }
        assert!(health.worth_waiting());
        assert!(health.late("docker").is_some() && !health.worth_waiting());
    }

    #[test]
    fn what_is_not_granted_is_never_asked_again_and_no_warning() {
        let mut health = Health::default();
        assert_eq!(health.failed("podman", &Failure::NotGranted), None);
        assert!(!health.worth_waiting() && !health.worth_asking(true));
    }
}
