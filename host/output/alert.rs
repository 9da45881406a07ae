//! An alert as a line.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::wit::alerts::{RaisedAlert, Severity};

#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    #[serde(flatten)]
    alert: &'a RaisedAlert,
}

/// As JSON, the same that the plugin json-log prints of it.
pub fn json(alert: &RaisedAlert) -> String {
    let mut line = serde_json::to_string(&Line { kind: "alert", alert }).expect("strings and numbers always serialise");
    line.push('\n');
    line
}

/// For people: time, severity, rule and message, then who and what.
pub fn human(raised: &RaisedAlert, colours: bool) -> String {
    let alert = &raised.alert;
    let (name, colour) = match alert.severity {
        Severity::Info => ("INFO", "36"),
        Severity::Low => ("LOW", "34"),
        Severity::Medium => ("MEDIUM", "33"),
        Severity::High => ("HIGH", "31"),
        Severity::Critical => ("CRITICAL", "1;97;41"),
    };
    let time = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(alert.time)).to_string();
    let mut line = match colours {
        true => format!("{time} \x1b[{colour}m{name:<8}\x1b[0m \x1b[1m{}\x1b[0m: ", plain(&alert.rule)),
        false => format!("{time} {name:<8} {}: ", plain(&alert.rule)),
    };
    line += &plain(&alert.message);
    if let Some(task) = &alert.task {
        _ = write!(line, " [pid {} {} uid {} ppid {}]", task.pid, plain(&task.comm), task.uid, task.ppid);
    }
    for field in &alert.fields {
        _ = write!(line, " {}={}", plain(&field.name), plain(&field.value));
    }
    _ = writeln!(line, " ({})", raised.plugin);
    line
}

/// Text that came from processes and plugins, with control characters shown instead of obeyed.
fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wit::alerts::{Alert, Field};

    fn raised() -> RaisedAlert {
        RaisedAlert {
            time: 1_700_000_000_500_000_001,
            plugin: "alerts".into(),
            alert: Alert {
                time: 1_700_000_000_000_000_001,
                severity: Severity::High,
                rule: "exec-from-tmp".into(),
                message: "a\x1b[2Jb".into(),
                task: Some(crate::event::decode::tests::task()),
                fields: vec![Field { name: "exe".into(), value: "/tmp/x\n".into() }],
            },
        }
    }

    #[test]
    fn people_see_one_line_that_cannot_forge_another_or_move_the_cursor() {
        let line = human(&raised(), false);
        assert!(line.starts_with("2023-11-14T22:13:20.000Z HIGH     exec-from-tmp: a\\u{1b}[2Jb"), "{line}");
        assert!(line.ends_with("exe=/tmp/x\\n (alerts)\n"), "{line}");
        assert!(human(&raised(), true).contains("\x1b[31mHIGH"));
    }

    #[test]
    fn json_has_the_kind_first_and_the_task_beside() {
        let line = json(&raised());
        assert!(
            line.starts_with(r#"{"kind":"alert","time":"2023-11-14T22:13:20.500000001Z","plugin":"alerts""#),
            "{line}"
        );
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["alert"]["severity"], "high");
        assert_eq!(value["alert"]["fields"]["exe"], "/tmp/x\n");
    }
}
