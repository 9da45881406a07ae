//! A byte fixture per kind, asserting the whole JSON.

use serde_json::json;

use super::*;
use crate::event::layout::bytes_of;
use crate::event::layout::c::{exec_flag, exec_record, exit_record, fork_record};
use crate::event::{Columns, decode};

/// A task for other modules' tests.
pub fn task() -> Task {
    super::task(&raw_task(), &clock())
}

fn clock() -> Clock {
    Clock::new(0, 1_700_000_000_000_000_000)
}

fn name<const N: usize, T: Default + Copy + TryFrom<u8>>(text: &[u8]) -> [T; N] {
    let mut name = [T::default(); N];
    for (to, from) in name.iter_mut().zip(text) {
        *to = T::try_from(*from).unwrap_or_default();
    }
    name
}

fn raw_task() -> record_task {
    record_task {
        start_time: 500_000_000,
        cgroup: 77,
        pid: 1234,
        tid: 1235,
        ppid: 1200,
        uid: 1000,
        gid: 1001,
        pid_ns: 11,
        mnt_ns: 12,
        user_ns: 13,
        comm: name(b"curl"),
    }
}

fn header(kind: record_kind, length: usize) -> record_header {
    record_header { start: record_start { kind: kind.0, length: length as u32, time: 1_000_000_001 }, task: raw_task() }
}

fn exec_bytes() -> Vec<u8> {
    let (filename, exe, cwd): (&[u8], &[u8], &[u8]) = (b"./cu\xffrl", b"curl\0bin\0usr\0", b"deep\0");
    let args: &[u8] = b"./curl\0\0-s\xc3\xa9\0";
    let tail = [filename, exe, cwd, args].concat();
    let record = exec_record {
        header: header(record_kind::RECORD_EXEC, size_of::<exec_record>() + tail.len()),
        capabilities: 0x1ff,
        login_uid: 1000,
        flags: exec_flag::EXEC_OVERLAY.0 | exec_flag::EXEC_CWD_CUT.0 | exec_flag::EXEC_DELETED.0,
        filename_length: filename.len() as u32,
        exe_length: exe.len() as u32,
        cwd_length: cwd.len() as u32,
        args_length: args.len() as u32,
        tty: name(b"pts3"),
        parent_comm: name(b"bash"),
    };
    [bytes_of(&record), &tail].concat()
}

fn exit_bytes(status: u32) -> Vec<u8> {
    let header = header(record_kind::RECORD_EXIT, size_of::<exit_record>());
    bytes_of(&exit_record { header, duration: 5, status, padding: 0 }).to_vec()
}

fn fork_bytes() -> Vec<u8> {
    let header = header(record_kind::RECORD_FORK, size_of::<fork_record>());
    bytes_of(&fork_record { header, child_pid: 1300, padding: 0 }).to_vec()
}

fn with_task(time: &str, mut fields: serde_json::Value) -> serde_json::Value {
    let task = json!({
        "time": time, "pid": 1234, "tid": 1235, "ppid": 1200, "uid": 1000, "gid": 1001, "comm": "curl", "cgroup": 77,
        "pid_ns": 11, "mnt_ns": 12, "user_ns": 13, "start_time": "2023-11-14T22:13:20.500000000Z",
    });
    fields.as_object_mut().unwrap().extend(task.as_object().unwrap().clone());
    fields
}

fn decoded(bytes: &[u8]) -> Columns {
    let mut columns = Columns::default();
    decode(bytes, &clock(), &mut columns).unwrap();
    assert_eq!(columns.bytes, bytes.len());
    columns
}

const TIME: &str = "2023-11-14T22:13:21.000000001Z";

#[test]
fn exec() {
    let columns = decoded(&exec_bytes());
    let expected = with_task(
        TIME,
        json!({
            "filename": "./cu\\xffrl", "exe": "/usr/bin/curl", "exe_memfd": false, "exe_deleted": true,
            "exe_upper_layer": false, "args": ["./curl", "", "-sé"], "args_truncated": false, "cwd": ".../deep",
            "paths_truncated": true, "tty": "pts3", "login_uid": 1000, "capabilities": 511, "parent_comm": "bash",
            "lossy": true,
        }),
    );
    assert_eq!(serde_json::to_value(&columns.exec[0]).unwrap(), expected);
}

#[test]
fn exit() {
    let columns = decoded(&exit_bytes(0x2a00));
    let fields = json!({"code": 42, "signal": null, "core_dumped": false, "duration": 5});
    assert_eq!(serde_json::to_value(&columns.exit[0]).unwrap(), with_task(TIME, fields));
    let columns = decoded(&exit_bytes(0x8b));
    let fields = json!({"code": 0, "signal": 11, "core_dumped": true, "duration": 5});
    assert_eq!(serde_json::to_value(&columns.exit[0]).unwrap(), with_task(TIME, fields));
}

#[test]
fn fork() {
    let columns = decoded(&fork_bytes());
    assert_eq!(serde_json::to_value(&columns.fork[0]).unwrap(), with_task(TIME, json!({"child_pid": 1300})));
}

#[test]
fn bytes_that_make_no_sense_are_an_error_and_never_a_panic() {
    let mut columns = Columns::default();
    for fixture in [exec_bytes(), exit_bytes(0), fork_bytes()] {
        for length in 0..fixture.len() {
            assert_eq!(decode(&fixture[..length], &clock(), &mut columns), Err(DecodeError::Short));
        }
        for at in 0..fixture.len() {
            for bit in 0..8 {
                let mut bytes = fixture.clone();
                bytes[at] ^= 1 << bit;
                _ = decode(&bytes, &clock(), &mut columns);
            }
        }
    }
    let mut unknown = fork_bytes();
    unknown[0] = 31;
    assert_eq!(decode(&unknown, &clock(), &mut columns), Err(DecodeError::UnknownKind(31)));
}
