//! A byte fixture per kind, asserting the whole JSON.

use serde_json::json;

use super::*;
use crate::event::layout::bytes_of;
use crate::event::layout::c::{
    activity_key, activity_value, cgroup_record, count_key, count_value, exec_flag, exec_record, exit_record,
    file_change_record, file_changed, file_io_flat, file_io_record, file_kind, file_open_record, file_trait,
    fork_record, given_path, ipc_object, ipc_record, path_cut, seccomp_did, seccomp_record, syscall_abi, syscall_flat,
    syscall_record, syscall_return_flat, syscall_return_record, tcp_record,
};
use crate::event::{Columns, decode};
use crate::wit::files::FileIo;
use crate::wit::syscall::{Syscall, SyscallReturn};

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
        flags: file_trait::FILE_OVERLAY.0 | exec_flag::EXEC_CWD_CUT.0 | file_trait::FILE_DELETED.0,
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

fn start(kind: record_kind, length: usize) -> record_start {
    record_start { kind: kind.0, length: length as u32, time: 1_000_000_001 }
}

fn syscall_bytes() -> Vec<u8> {
    let task = raw_task();
    let start = start(record_kind::RECORD_SYSCALL, size_of::<syscall_record>());
    let record = syscall_record {
        kind: start.kind,
        length: start.length,
        flat: syscall_flat {
            time: start.time,
            start_time: task.start_time,
            cgroup: task.cgroup,
            comm: task.comm,
            pid: task.pid,
            tid: task.tid,
            ppid: task.ppid,
            uid: task.uid,
            gid: task.gid,
            number: 257,
            arg0: 1,
            arg1: 2,
            arg2: 3,
            arg3: 4,
            arg4: 5,
            arg5: u64::MAX,
            abi: syscall_abi::ABI_COMPAT.0 as u8,
            padding: [9; 7],
        },
    };
    bytes_of(&record).to_vec()
}

fn syscall_return_bytes() -> Vec<u8> {
    let task = raw_task();
    let start = start(record_kind::RECORD_SYSCALL_RETURN, size_of::<syscall_return_record>());
    let record = syscall_return_record {
        kind: start.kind,
        length: start.length,
        flat: syscall_return_flat {
            time: start.time,
            start_time: task.start_time,
            cgroup: task.cgroup,
            comm: task.comm,
            pid: task.pid,
            tid: task.tid,
            ppid: task.ppid,
            uid: task.uid,
            gid: task.gid,
            number: 257,
            value: -13,
            duration: 7,
            abi: syscall_abi::ABI_NATIVE.0 as u8,
            padding: [9; 7],
        },
    };
    bytes_of(&record).to_vec()
}

fn syscall_count_bytes() -> Vec<u8> {
    let key = count_key { pid: 1234, number: 110, abi: syscall_abi::ABI_X32.0, padding: 0 };
    let value = count_value { count: 5, errors: 2, total_time: 9, task: raw_task() };
    syscall::count_record(bytes_of(&key), bytes_of(&value), 1_000_000_001).unwrap()
}

fn tcp_bytes(kind: record_kind) -> Vec<u8> {
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
    let mut ipv6 = [0; 16];
    (ipv6[0], ipv6[15]) = (0xfd, 2);
    let is_close = kind.0 == record_kind::RECORD_TCP_CLOSE.0;
    let record = tcp_record {
        header: header(kind, size_of::<tcp_record>()),
        sent_bytes: 10,
        received_bytes: 20,
        duration: 30,
        source_address: if is_close { ipv6 } else { mapped },
        destination_address: if is_close { ipv6 } else { mapped },
        source_port: 40_000,
        destination_port: 443,
        net_ns: 14,
        error: 111,
        incoming: 1,
        is_ipv6: 1,
    };
    bytes_of(&record).to_vec()
}

fn cgroup_bytes(kind: record_kind) -> Vec<u8> {
    let path = b"/docker/4f5e";
    let record = cgroup_record {
        header: header(kind, size_of::<cgroup_record>() + path.len()),
        id: 99,
        level: 2,
        hierarchy: 0,
        path_length: path.len() as u32,
        padding: 0,
    };
    [bytes_of(&record), path].concat()
}

fn seccomp_bytes(action: seccomp_did, code: u32) -> Vec<u8> {
    let record = seccomp_record {
        header: header(record_kind::RECORD_SECCOMP_ACTION, size_of::<seccomp_record>()),
        number: 110,
        abi: syscall_abi::ABI_NATIVE.0,
        action: action.0,
        code,
    };
    bytes_of(&record).to_vec()
}

fn ipc_bytes(known: u32) -> Vec<u8> {
    let record = ipc_record {
        header: header(record_kind::RECORD_IPC_ACCESS, size_of::<ipc_record>()),
        object: ipc_object::IPC_MSG.0,
        key: -5,
        id: 32_769,
        permission: 2,
        known,
        uid: 1,
        gid: 2,
        creator_uid: 3,
        creator_gid: 4,
        denied: 1 - known,
    };
    bytes_of(&record).to_vec()
}

fn activity_bytes(path: &[u8], traits: u32, cut: u32) -> Vec<u8> {
    let key = activity_key { dentry: 1, inode: 5, device: 0x0010_0203, tid: 1235 };
    let path_length = path.len() as u32;
    let value = activity_value {
        reads: 1,
        writes: 2,
        read_bytes: 3,
        write_bytes: 4,
        task: raw_task(),
        r#type: file_kind::FILE_REGULAR.0,
        traits,
        cut,
        path_length,
        path: name(path),
    };
    super::files::activity_record(bytes_of(&key), bytes_of(&value), 1_000_000_001).unwrap()
}

fn file_io_bytes() -> Vec<u8> {
    let start = header(record_kind::RECORD_FILE_IO, size_of::<file_io_record>()).start;
    let record = file_io_record {
        kind: start.kind,
        length: start.length,
        flat: file_io_flat {
            time: start.time,
            start_time: 500_000_000,
            cgroup: 77,
            comm: name(b"curl"),
            pid: 1234,
            tid: 1235,
            ppid: 1200,
            uid: 1000,
            gid: 1001,
            device: 257,
            inode: 5,
            bytes: 6,
            error: 7,
            operation: 1,
            r#type: 1,
            padding: [9; 2],
        },
    };
    bytes_of(&record).to_vec()
}

fn path_of(base: &[u8], given: &[u8], cut: u32) -> given_path {
    given_path { base_length: base.len() as u32, given_length: given.len() as u32, cut, traits: 0 }
}

fn file_open_bytes(base: &[u8], given: &[u8], cut: u32, error: u32) -> Vec<u8> {
    let tail = [base, given].concat();
    let record = file_open_record {
        header: header(record_kind::RECORD_FILE_OPEN, size_of::<file_open_record>() + tail.len()),
        inode: 5,
        device: 0,
        r#type: file_kind::FILE_OTHER.0,
        flags: 0o101,
        mode: 0o640,
        error,
        created: 1 - error.min(1),
        path: path_of(base, given, cut),
    };
    [bytes_of(&record), &tail].concat()
}

fn file_change_bytes(change: file_changed) -> Vec<u8> {
    let (base, given, other): (&[u8], &[u8], &[u8]) = (b"etc\0", b"./a\xff", b"/tmp/b");
    let tail = [base, given, base, other].concat();
    let record = file_change_record {
        header: header(record_kind::RECORD_FILE_CHANGE, size_of::<file_change_record>() + tail.len()),
        size: 9,
        change: change.0,
        error: 13,
        mode: 0o600,
        uid: u32::MAX,
        gid: 4,
        padding: 0,
        path: path_of(base, given, 0),
        other_path: path_of(base, other, 0),
    };
    [bytes_of(&record), &tail].concat()
}

/// A flat record's fields: those of the task that it has, in its own order.
fn flat(mut fields: serde_json::Value) -> serde_json::Value {
    let task = json!({
        "time": TIME, "start_time": "2023-11-14T22:13:20.500000000Z", "cgroup": 77, "comm": "curl", "pid": 1234, "tid": 1235,
        "ppid": 1200, "uid": 1000, "gid": 1001, "number": 257,
    });
    fields.as_object_mut().unwrap().extend(task.as_object().unwrap().clone());
    fields
}

#[test]
fn syscalls() {
    let args = json!({
        "arg0": 1, "arg1": 2, "arg2": 3, "arg3": 4, "arg4": 5, "arg5": u64::MAX, "abi": "compat",
    });
    assert_eq!(serde_json::to_value(Syscall::from(&decoded(&syscall_bytes()).syscall[0])).unwrap(), flat(args));
    let value = json!({"value": -13, "duration": 7, "abi": "native"});
    assert_eq!(
        serde_json::to_value(SyscallReturn::from(&decoded(&syscall_return_bytes()).syscall_return[0])).unwrap(),
        flat(value)
    );
    assert_eq!(decoded(&syscall_bytes()).syscall[0].padding, [0; 7], "what a plugin gets is known");
    let count = json!({"number": 110, "abi": "x32", "count": 5, "errors": 2, "total_time": 9});
    let columns = decoded(&syscall_count_bytes());
    assert_eq!(serde_json::to_value(&columns.syscall_count[0]).unwrap(), with_task(TIME, count));
}

#[test]
fn sums_of_files() {
    let fields = |path: &str, more: serde_json::Value| {
        let mut fields = json!({
            "path": path, "path_truncated": false, "deleted": false, "file_type": "regular", "inode": 5,
            "device": 0x103, "reads": 1, "writes": 2, "read_bytes": 3, "write_bytes": 4, "lossy": false,
        });
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        // Major 1, minor 0x203, as stat packs them.
        fields["device"] = json!(0x0020_0103);
        with_task(TIME, fields)
    };
    let value = |bytes: Vec<u8>| serde_json::to_value(&decoded(&bytes).file_activity[0]).unwrap();
    assert_eq!(value(activity_bytes(b"hosts\0etc\0", 0, 0)), fields("/etc/hosts", json!({})));
    let cut = json!({"path_truncated": true, "deleted": true});
    let deleted = file_trait::FILE_DELETED.0;
    assert_eq!(value(activity_bytes(b"deep\0down\0th", deleted, 1)), fields(".../down/deep", cut));
    let nameless = file_trait::FILE_NAMELESS.0;
    assert_eq!(value(activity_bytes(b"TCP\0", nameless, 0)), fields("TCP", json!({})));
    assert_eq!(value(activity_bytes(b"\0", nameless, 0)), fields("pipe", json!({})));
    let memfd = nameless | file_trait::FILE_MEMFD.0;
    assert_eq!(value(activity_bytes(b"memfd:x\0", memfd, 0)), fields("/memfd:x", json!({})));
}

#[test]
fn single_reads_and_writes() {
    let mut fields = flat(json!({
        "device": 257, "inode": 5, "bytes": 6, "error": 7, "operation": "write", "file_type": "socket",
    }));
    fields.as_object_mut().unwrap().remove("number");
    assert_eq!(serde_json::to_value(FileIo::from(&decoded(&file_io_bytes()).file_io[0])).unwrap(), fields);
}

#[test]
fn opened_files() {
    let fields = |path: &str, truncated: bool, error: u32| {
        let fields = json!({
            "path": path, "path_truncated": truncated, "flags": 0o101, "mode": 0o640, "write": true,
            "created": error == 0, "deleted": false, "memfd": false, "error": error, "file_type": "other", "inode": 5,
            "device": 0, "lossy": false,
        });
        with_task(TIME, fields)
    };
    let value = |bytes: Vec<u8>| serde_json::to_value(&decoded(&bytes).file_open[0]).unwrap();
    assert_eq!(value(file_open_bytes(b"x\0home\0", b"", 0, 0)), fields("/home/x", false, 0));
    assert_eq!(value(file_open_bytes(b"home\0", b"a/../b", 0, 2)), fields("/home/a/../b", false, 2));
    assert_eq!(value(file_open_bytes(b"", b"etc", 0, 2)), fields("/etc", false, 2));
    assert_eq!(value(file_open_bytes(b"", b"/etc", 0, 2)), fields("/etc", false, 2));
    assert_eq!(value(file_open_bytes(b"d\0", b"n", path_cut::BASE_CUT.0, 2)), fields(".../d/n", true, 2));
    assert_eq!(value(file_open_bytes(b"", b"n", path_cut::BASE_UNKNOWN.0, 9)), fields(".../n", true, 9));
}

#[test]
fn changed_files() {
    let fields = |change: &str, other: Option<&str>, size: Option<u64>| {
        let fields = json!({
            "change": change, "path": "/etc/a\\xff", "other_path": other, "paths_truncated": false, "new_mode": 0o600,
            "new_uid": null, "new_gid": 4, "new_size": size, "error": 13, "lossy": true,
        });
        with_task(TIME, fields)
    };
    let value = |change| serde_json::to_value(&decoded(&file_change_bytes(change)).file_change[0]).unwrap();
    assert_eq!(value(file_changed::CHANGE_RENAME), fields("rename", Some("/tmp/b"), None));
    assert_eq!(value(file_changed::CHANGE_SYMLINK), fields("symlink", Some("/tmp/b"), None));
    assert_eq!(value(file_changed::CHANGE_DELETE), fields("delete", None, None));
    assert_eq!(value(file_changed::CHANGE_TRUNCATE), fields("truncate", None, Some(9)));
}

#[test]
fn tcp_connections() {
    let ipv4 = json!({
        "family": "ipv4", "source_address": "10.0.0.1", "source_port": 40_000, "destination_address": "10.0.0.1",
        "destination_port": 443, "net_ns": 14,
    });
    let with = |ends: &serde_json::Value, more: serde_json::Value| {
        let mut all = ends.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with_task(TIME, all)
    };
    let connect = &decoded(&tcp_bytes(record_kind::RECORD_TCP_CONNECT)).tcp_connect[0];
    assert_eq!(serde_json::to_value(connect).unwrap(), with(&ipv4, json!({"error": 111, "duration": 30})));
    let accept = &decoded(&tcp_bytes(record_kind::RECORD_TCP_ACCEPT)).tcp_accept[0];
    assert_eq!(serde_json::to_value(accept).unwrap(), with(&ipv4, json!({})));
    let ipv6 = json!({
        "family": "ipv6", "source_address": "fd00::2", "source_port": 40_000, "destination_address": "fd00::2",
        "destination_port": 443, "net_ns": 14,
    });
    let close = &decoded(&tcp_bytes(record_kind::RECORD_TCP_CLOSE)).tcp_close[0];
    let more = json!({"direction": "incoming", "sent_bytes": 10, "received_bytes": 20, "duration": 30});
    assert_eq!(serde_json::to_value(close).unwrap(), with(&ipv6, more));
}

#[test]
fn cgroups() {
    let fields = json!({"id": 99, "path": "/docker/4f5e", "level": 2, "hierarchy": 0});
    let created = &decoded(&cgroup_bytes(record_kind::RECORD_CGROUP_CREATED)).cgroup_created[0];
    assert_eq!(serde_json::to_value(created).unwrap(), with_task(TIME, fields.clone()));
    let removed = &decoded(&cgroup_bytes(record_kind::RECORD_CGROUP_REMOVED)).cgroup_removed[0];
    assert_eq!(serde_json::to_value(removed).unwrap(), with_task(TIME, fields));
}

#[test]
fn ipc_accesses() {
    let owners = json!({"uid": 1, "gid": 2, "creator_uid": 3, "creator_gid": 4});
    let fields = json!({
        "object": "msg", "key": -5, "id": 32_769, "permission": 2, "ownership": owners, "verdict": "allowed",
    });
    let allowed = &decoded(&ipc_bytes(1)).ipc_access[0];
    assert_eq!(serde_json::to_value(allowed).unwrap(), with_task(TIME, fields));
    let fields =
        json!({"object": "msg", "key": -5, "id": null, "permission": 2, "ownership": null, "verdict": "denied"});
    let denied = &decoded(&ipc_bytes(0)).ipc_access[0];
    assert_eq!(serde_json::to_value(denied).unwrap(), with_task(TIME, fields));
}

#[test]
fn seccomp_actions() {
    let fields = json!({"number": 110, "abi": "native", "action": "errno", "errno": 13, "signal": null});
    let errno = &decoded(&seccomp_bytes(seccomp_did::SECCOMP_ERRNO, 13)).seccomp_action[0];
    assert_eq!(serde_json::to_value(errno).unwrap(), with_task(TIME, fields));
    let fields = json!({"number": 110, "abi": "native", "action": "kill_process", "errno": null, "signal": 31});
    let kill = &decoded(&seccomp_bytes(seccomp_did::SECCOMP_KILL_PROCESS, 31)).seccomp_action[0];
    assert_eq!(serde_json::to_value(kill).unwrap(), with_task(TIME, fields));
}

#[test]
fn bytes_that_make_no_sense_are_an_error_and_never_a_panic() {
    let mut columns = Columns::default();
    let fixtures = [
        exec_bytes(),
        exit_bytes(0),
        fork_bytes(),
        syscall_bytes(),
        syscall_return_bytes(),
        syscall_count_bytes(),
        tcp_bytes(record_kind::RECORD_TCP_CLOSE),
        cgroup_bytes(record_kind::RECORD_CGROUP_CREATED),
        seccomp_bytes(seccomp_did::SECCOMP_TRAP, 31),
        ipc_bytes(1),
        activity_bytes(b"a\0", 0, 0),
        file_io_bytes(),
        file_open_bytes(b"a\0", b"b", 0, 2),
        file_change_bytes(file_changed::CHANGE_RENAME),
    ];
    for fixture in fixtures {
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
