//! Raises alerts by rules over programs that are executed, files that are written, connections, system calls and what seccomp
//! filters stop.
//!
//! The rules are in `default_rules.json`; `[config]` adds to them, or takes their place with `default_rules = false`.

mod gaps;
mod pipes;
mod repeats;
mod rules;
mod subject;

use eunomia_plugin::prelude::*;
use eunomia_plugin::syscalls;
use serde::Deserialize;

use gaps::Gaps;
use pipes::Pipes;
use repeats::Repeats;
use rules::Rule;
use subject::{Event, Subject};

#[derive(Default)]
struct Alerts {
    rules: Vec<Rule>,
    pipes: Pipes,
    repeats: Repeats,
    gaps: Gaps,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The rules of the plugin itself, besides those of the settings.
    #[serde(default = "yes")]
    default_rules: bool,
    #[serde(default)]
    rules: Vec<Rule>,
}

fn yes() -> bool {
    true
}

/// The rules that hold for these settings.
fn rules(config: &str) -> Result<Vec<Rule>, String> {
    let settings: Settings = from_config(config)?;
    let mut rules = settings.rules;
    if settings.default_rules {
        rules.extend(rules::default_rules());
    }
    match rules.is_empty() {
        true => {
            Err("[config]: there is no rule; add one under [[config.rules]], or leave out default_rules = false".into())
        }
        false => Ok(rules),
    }
}

impl Plugin for Alerts {
    fn start(&mut self, config: &str) -> Result<(), String> {
        self.rules = rules(config)?;
        Ok(())
    }
}

impl Alerts {
    /// Raises one alert at most: of the first rule that fits, the settings' before the plugin's own. Whether one fits.
    fn judge(&mut self, event: Event<'_>) -> bool {
        let subject = Subject::new(event, processes::lookup);
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(&subject)) else { return false };
        let alert = rule.alert(&subject);
        let key = (rule.name.clone(), subject.task.pid, subject.task.start_time, subject.thing());
        // Each execution is another program; anything else a process may do over and over.
        if matches!(subject.event, Event::Exec(_)) || self.repeats.is_new(key, alert.time) {
            self.gaps.note(alert).raise();
        }
        true
    }
}

impl OnExec for Alerts {
    fn on_exec(&mut self, events: Vec<Exec>) {
        for event in &events {
            if !self.judge(Event::Exec(event))
                && let Some(alert) = self.pipes.watch(event, processes::lookup)
            {
                self.gaps.note(alert).raise();
            }
        }
    }
}

impl OnFileOpen for Alerts {
    fn on_file_open(&mut self, events: Vec<FileOpen>) {
        for event in events.iter().filter(|event| event.write && event.error == 0) {
            self.judge(Event::Open(event));
        }
    }
}

impl OnFileChange for Alerts {
    fn on_file_change(&mut self, events: Vec<FileChange>) {
        for event in events.iter().filter(|event| event.error == 0) {
            self.judge(Event::Change(event));
        }
    }
}

impl OnTcpConnect for Alerts {
    fn on_tcp_connect(&mut self, events: Vec<TcpConnect>) {
        events.iter().for_each(|event| _ = self.judge(Event::Connect(event)));
    }
}

impl SelectSyscalls for Alerts {
    fn names(&mut self) -> Vec<String> {
        self.rules.iter().flat_map(Rule::syscalls).cloned().collect()
    }
}

impl OnSyscall for Alerts {
    fn on_syscall(&mut self, events: Vec<Syscall>) {
        for event in &events {
            let name = syscalls::name(event.abi, event.number).unwrap_or_default();
            self.judge(Event::Syscall(event, &name));
        }
    }
}

impl OnSeccompAction for Alerts {
    fn on_seccomp_action(&mut self, events: Vec<SeccompAction>) {
        events.iter().for_each(|event| _ = self.judge(Event::Seccomp(event)));
    }
}

impl OnGap for Alerts {
    fn on_gap(&mut self, events: Vec<Gap>) {
        events.into_iter().for_each(|gap| self.gaps.remember(gap));
    }
}

export!(Alerts: OnExec, OnFileOpen, OnFileChange, OnTcpConnect, SelectSyscalls, OnSyscall, OnSeccompAction, OnGap);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_extend_or_replace_the_rules() {
        let own = r#"{"rules": [{"name": "gcc", "severity": "low", "exe": ["*/gcc"]}]}"#;
        let all = rules(own).unwrap();
        assert_eq!(all[0].name, "gcc");
        assert_eq!(all.len(), rules("{}").unwrap().len() + 1);
        let replaced = own.replacen('{', r#"{"default_rules": false, "#, 1);
        assert_eq!(rules(&replaced).unwrap().len(), 1);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_by_name() {
        for (config, name) in [
            (r#"{"rule": []}"#, "`rule`"),
            (r#"{"rules": [{"name": "a", "severity": "terrible"}]}"#, "`terrible`"),
            (r#"{"rules": [{"name": "a", "severity": "low", "exes": []}]}"#, "`exes`"),
            (r#"{"rules": [{"name": "a", "severity": "low"}]}"#, "a has no condition"),
            (r#"{"rules": [{"name": "a", "severity": "low", "port": [1]}]}"#, "a has the condition port"),
            (r#"{"rules": [{"name": "a", "severity": "low", "on": "syscall", "uid": [0]}]}"#, "names none"),
            (r#"{"rules": [{"name": "a", "severity": "low", "on": "never", "uid": [0]}]}"#, "`never`"),
            (r#"{"default_rules": false}"#, "there is no rule"),
        ] {
            let error = rules(config).err().unwrap();
            assert!(error.contains(name), "{error}");
        }
    }
}
