//! Events as the kernel gives them, and what the same costs natively.

use eunomia_host::event::clock::Clock;
use eunomia_host::event::layout::c::{
    file_open_record, given_path, record_header, record_kind, syscall_flat, syscall_record, syscall_return_flat,
    syscall_return_record, tcp_record,
};
use eunomia_host::event::layout::{bytes_of, read};
use eunomia_host::event::{Columns, decode};

/// Numbers of system calls, as count has them.
const NUMBERS: usize = 1_024;

/// A system call as the kernel gives it.
pub fn syscall(at: u64) -> syscall_record {
    let comm = std::array::from_fn(|index| b"worker\0\0\0\0\0\0\0\0\0\0"[index] as i8);
    let flat = syscall_flat {
        time: 1_000_000 + at,
        start_time: 1_000,
        cgroup: 77,
        comm,
        pid: 1_234,
        tid: 1_235,
        ppid: 1,
        uid: 1_000,
        gid: 1_000,
        number: (at % 300) as u32,
        arg0: at,
        arg1: 2,
        arg2: 3,
        arg3: 4,
        arg4: 5,
        arg5: 6,
        abi: 0,
        padding: [0; 7],
    };
    syscall_record { kind: record_kind::RECORD_SYSCALL.0, length: size_of::<syscall_record>() as u32, flat }
}

/// The return of the same.
pub fn syscall_return(at: u64) -> syscall_return_record {
    let syscall_flat { time, start_time, cgroup, comm, pid, tid, ppid, uid, gid, number, abi, padding, .. } =
        syscall(at).flat;
    let (value, duration) = (0, 100);
    let flat = syscall_return_flat {
        time,
        start_time,
        cgroup,
        comm,
        pid,
        tid,
        ppid,
        uid,
        gid,
        number,
        value,
        duration,
        abi,
        padding,
    };
    let length = size_of::<syscall_return_record>() as u32;
    syscall_return_record { kind: record_kind::RECORD_SYSCALL_RETURN.0, length, flat }
}

/// A recorded event of a kind.
fn recorded(kind: record_kind) -> Vec<u8> {
    let mut rest = &include_bytes!("../../tests/fixtures/process.records")[..];
    loop {
        let length = u32::from_le_bytes(rest[..4].try_into().expect("four bytes")) as usize;
        let bytes = &rest[4..4 + length];
        if decode::number(bytes) == Ok(kind) {
            return bytes.to_vec();
        }
        rest = &rest[4 + length..];
    }
}

/// A file opened by its absolute path, by whom that record is.
fn file_open(header: record_header) -> Vec<u8> {
    let path = b"/usr/lib/x86_64-linux-gnu/libc.so.6";
    let given = given_path { base_length: 0, given_length: path.len() as u32, cut: 0, traits: 0 };
    let (inode, device, r#type, flags, mode, error, created) = (1_234_567, 0x80_0001, 0, 0o2_000_000, 0, 0, 0);
    let record = file_open_record { header, inode, device, r#type, flags, mode, error, created, path: given };
    [bytes_of(&record), path].concat()
}

/// A connection made, by whom that record is.
fn tcp_connect(header: record_header) -> Vec<u8> {
    let address = |last: u8| std::array::from_fn(|at| [10, 0, 0, last].get(at).copied().unwrap_or_default());
    bytes_of(&tcp_record {
        header,
        sent_bytes: 0,
        received_bytes: 0,
        duration: 0,
        source_address: address(1),
        destination_address: address(2),
        source_port: 50_123,
        destination_port: 443,
        net_ns: 4_026_531_840,
        error: 0,
        incoming: 0,
        is_ipv6: 0,
    })
    .to_vec()
}

/// An event of each of five kinds with strings, by the kinds' names, as the kernel gives it.
pub fn with_strings() -> [(&'static str, Vec<u8>); 5] {
    let by = |kind: record_kind, make: fn(record_header) -> Vec<u8>| {
        let mut header: record_header = read(&recorded(record_kind::RECORD_EXEC)).expect("a header");
        header.start.kind = kind.0;
        header.start.length = make(header).len() as u32;
        make(header)
    };
    [
        ("exec", recorded(record_kind::RECORD_EXEC)),
        ("exit", recorded(record_kind::RECORD_EXIT)),
        ("fork", recorded(record_kind::RECORD_FORK)),
        ("file-open", by(record_kind::RECORD_FILE_OPEN, file_open)),
        ("tcp-connect", by(record_kind::RECORD_TCP_CONNECT, tcp_connect)),
    ]
}

/// What a plugin that counts does, natively, on the kernel's bytes.
pub fn count_natively(records: &[Vec<u8>]) -> [u64; NUMBERS] {
    let number_at = std::mem::offset_of!(syscall_record, flat) + std::mem::offset_of!(syscall_flat, number);
    let mut counts = [0; NUMBERS];
    for record in records {
        let number = u32::from_le_bytes(record[number_at..number_at + 4].try_into().expect("four bytes"));
        counts[(number as usize).min(NUMBERS - 1)] += 1;
    }
    counts
}

pub fn decoded(records: &[Vec<u8>], clock: &Clock) -> Columns {
    let mut columns = Columns::default();
    for record in records {
        eunomia_host::event::decode(record, clock, &mut columns).expect("it is a record");
    }
    columns
}
