//! An alert as a line.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::wit::alerts::{RaisedAlert, Severity};
use crate::wit::containers::Container;

#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    #[serde(flatten)]
    alert: &'a RaisedAlert,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a Container>,
}

/// How much of a container's id people see: as much as engines print.
const SHORT_ID: usize = 12;

/// As JSON, the same that the plugin json-log prints of it.
pub fn json(alert: &RaisedAlert, container: Option<&Container>) -> String {
    let line = Line { kind: "alert", alert, container };
    let mut line = serde_json::to_string(&line).expect("strings and numbers always serialise");
    line.push('\n');
    line
}

/// For people: time, severity, rule and message, then who, in which container, and what.
pub fn human(raised: &RaisedAlert, container: Option<&Container>, colours: bool) -> String {
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
    if let Some(Container { id, name, image, pod, .. }) = container {
        let id: String = id.chars().take(SHORT_ID).collect();
        _ = write!(line, " container={}", plain(if name.is_empty() { &id } else { name }));
        let pod = pod.as_ref();
        let more = [
            ("container_id", if name.is_empty() { "" } else { &id }),
            ("image", image),
            ("pod", pod.map_or("", |pod| &pod.name)),
            ("namespace", pod.map_or("", |pod| &pod.namespace)),
        ];
        for (name, value) in more.iter().filter(|(_, value)| !value.is_empty()) {
            _ = write!(line, " {name}={}", plain(value));
        }
    }
    for field in &alert.fields {
        _ = write!(line, " {}={}", plain(&field.name), plain(&field.value));
    }
    _ = writeln!(line, " ({})", raised.plugin);
    line
}

/// Text that came from processes and plugins, with what would move the cursor, begin a line or turn the direction of writing
/// shown instead of obeyed.
pub fn plain(text: &str) -> String {
    let is_obeyed = |c: char| {
        (c.is_control() && c != '\t')
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().flat_map(|c| if is_obeyed(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wit::alerts::{Alert, Field};
    use crate::wit::containers::{Engine, Pod, State};

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
        let line = human(&raised(), None, false);
        assert!(line.starts_with("2023-11-14T22:13:20.000Z HIGH     exec-from-tmp: a\\u{1b}[2Jb"), "{line}");
        assert!(line.ends_with("exe=/tmp/x\\n (alerts)\n"), "{line}");
        assert!(human(&raised(), None, true).contains("\x1b[31mHIGH"));
    }

    #[test]
    fn text_can_neither_begin_a_line_nor_turn_its_direction() {
        assert_eq!(plain("a\r\n\u{2028}b\u{202e}c\u{9b}\té"), "a\\r\\n\\u{2028}b\\u{202e}c\\u{9b}\té");
    }

    fn container() -> Container {
        Container {
            id: "0123456789abcdef".into(),
            engine: Engine::Containerd,
            name: "web\n".into(),
            image: "nginx:1".into(),
            labels: vec![],
            state: State::Running,
            pod: Some(Pod { name: "web-1".into(), namespace: "shop".into(), uid: String::new() }),
            cgroup: 1,
            pid: None,
            parents: vec![],
        }
    }

    #[test]
    fn an_alert_from_a_container_says_so_to_people_and_machines() {
        let line = human(&raised(), Some(&container()), false);
        let expected = " container=web\\n container_id=0123456789ab image=nginx:1 pod=web-1 namespace=shop exe=";
        assert!(line.contains(expected), "{line}");
        let unnamed = Container { name: String::new(), image: String::new(), pod: None, ..container() };
        let line = human(&raised(), Some(&unnamed), false);
        assert!(line.contains("] container=0123456789ab exe="), "{line}");
        let value: serde_json::Value = serde_json::from_str(&json(&raised(), Some(&container()))).unwrap();
        let expected = serde_json::json!({"id": "0123456789abcdef", "engine": "containerd", "name": "web\n",
            "image": "nginx:1", "pod": "web-1", "namespace": "shop"});
        assert_eq!(value["container"], expected);
    }

    #[test]
    fn json_has_the_kind_first_and_the_task_beside() {
        let line = json(&raised(), None);
        assert!(
            line.starts_with(r#"{"kind":"alert","time":"2023-11-14T22:13:20.500000001Z","plugin":"alerts""#),
            "{line}"
        );
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["alert"]["severity"], "high");
        assert_eq!(value["alert"]["fields"]["exe"], "/tmp/x\n");
    }
}
