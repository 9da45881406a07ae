//! Events as the kernel gives them, and what the same costs natively.

use eunomia_host::event::clock::Clock;
use eunomia_host::event::layout::c::{
    record_kind, syscall_flat, syscall_record, syscall_return_flat, syscall_return_record,
};
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
pub fn recorded(kind: record_kind) -> Vec<u8> {
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
