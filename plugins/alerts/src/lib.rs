//! Raises alerts by rules over the programs that are executed.
//!
//! The rules are in `default_rules.json`; `[config]` adds to them, or takes their place with `default_rules = false`.

mod pipes;
mod rules;

use eunomia_plugin::prelude::*;
use serde::Deserialize;

use pipes::Pipes;
use rules::Rule;

/// How far up an alert tells of a process's ancestors.
const MAX_ANCESTORS: usize = 8;

#[derive(Default)]
struct Alerts {
    rules: Vec<Rule>,
    pipes: Pipes,
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

/// The names of the processes above, the nearest first: `bash < sshd < systemd`.
fn ancestors(event: &Exec) -> String {
    let mut names = Vec::new();
    let mut pid = event.task.ppid;
    while names.len() < MAX_ANCESTORS
        && pid != 0
        && let Some(process) = processes::lookup(pid, None)
    {
        names.push(process.comm);
        pid = process.ppid;
    }
    names.join(" < ")
}

impl OnExec for Alerts {
    fn on_exec(&mut self, events: Vec<Exec>) {
        for event in &events {
            // One alert an event: the first rule that fits, the settings' before the plugin's own.
            if let Some(rule) = self.rules.iter().find(|rule| rule.fits(event)) {
                rule.alert(event).field("ancestors", ancestors(event)).raise();
            } else if let Some(alert) = self.pipes.watch(event) {
                alert.field("ancestors", ancestors(event)).raise();
            }
        }
    }
}

export!(Alerts: OnExec);

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
            (r#"{"default_rules": false}"#, "there is no rule"),
        ] {
            let error = rules(config).err().unwrap();
            assert!(error.contains(name), "{error}");
        }
    }
}
