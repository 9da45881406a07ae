//! The conventions, on types shaped as the generators make them.

use eunomia_derive::Json;
use serde_json::{json, to_value};

type Timestamp = u64;

#[derive(Json)]
struct Task {
    pid: u32,
    start_time: Timestamp,
}

#[derive(Json)]
enum What {
    KillProcess,
    Errno(u32),
}

#[derive(Json)]
struct Pair {
    name: String,
    value: String,
}

#[derive(Json)]
struct Event {
    time: Timestamp,
    task: Task,
    end_time: Option<Timestamp>,
    r#type: What,
    where_: u32,
    fields: Vec<Pair>,
}

#[derive(Json)]
struct Alert {
    task: Option<Task>,
    what: What,
}

#[test]
fn an_event_has_its_tasks_fields_beside_its_own_and_readable_times() {
    let event = Event {
        time: 1_767_323_045_000_000_006,
        task: Task { pid: 7, start_time: 0 },
        end_time: Some(1),
        r#type: What::KillProcess,
        where_: 3,
        fields: vec![Pair { name: "exe".into(), value: "/bin/sh".into() }],
    };
    let expected = json!({
        "time": "2026-01-02T03:04:05.000000006Z", "pid": 7, "start_time": "1970-01-01T00:00:00.000000000Z",
        "end_time": "1970-01-01T00:00:00.000000001Z", "type": "kill_process", "where": 3, "fields": {"exe": "/bin/sh"},
    });
    assert_eq!(to_value(event).unwrap(), expected);
}

#[test]
fn no_task_adds_nothing_and_a_case_with_a_value_is_tagged() {
    assert_eq!(to_value(Alert { task: None, what: What::Errno(13) }).unwrap(), json!({"what": {"errno": 13}}));
    assert_eq!(to_value(Pair { name: "a".into(), value: "b".into() }).unwrap(), json!({"name": "a", "value": "b"}));
}
