//! Records of the source syscall.

use super::{Clock, DecodeError, fixed};
use crate::event::layout::c::{
    count_key, count_value, record_header, record_kind, record_start, syscall_abi, syscall_count_record,
    syscall_record, syscall_return_record,
};
use crate::event::layout::{bytes_of, read};
use crate::wit::syscall::{Abi, FlatComm, Syscall, SyscallCount, SyscallReturn};

/// How a call was made.
pub(super) fn abi(number: u32) -> Result<Abi, DecodeError> {
    match syscall_abi(number) {
        syscall_abi::ABI_NATIVE => Ok(Abi::Native),
        syscall_abi::ABI_COMPAT => Ok(Abi::Compat),
        syscall_abi::ABI_X32 => Ok(Abi::X32),
        _ => Err(DecodeError::UnknownValue("abi")),
    }
}

pub(super) fn flat_comm(comm: [i8; 16]) -> FlatComm {
    let bytes = comm.map(|byte| byte.to_ne_bytes()[0]);
    let half = |from: usize| bytes[from..from + 8].iter().rev().fold(0, |half, byte| half << 8 | u64::from(*byte));
    FlatComm { low: half(0), high: half(8) }
}

/// A system call began.
pub fn syscall(bytes: &[u8], clock: &Clock) -> Result<Syscall, DecodeError> {
    let syscall_record {
        start: record_start { kind: _, length: _, time },
        start_time,
        cgroup,
        comm,
        pid,
        tid,
        ppid,
        uid,
        gid,
        number,
        args: [arg0, arg1, arg2, arg3, arg4, arg5],
        abi: abi_number,
        padding: _,
    } = fixed(bytes)?;
    Ok(Syscall {
        time: clock.time(time),
        start_time: clock.start_time(start_time),
        cgroup,
        comm: flat_comm(comm),
        pid,
        tid,
        ppid,
        uid,
        gid,
        number,
        arg0,
        arg1,
        arg2,
        arg3,
        arg4,
        arg5,
        abi: abi(abi_number.into())?,
    })
}

/// A system call returned.
pub fn syscall_return(bytes: &[u8], clock: &Clock) -> Result<SyscallReturn, DecodeError> {
    let syscall_return_record {
        start: record_start { kind: _, length: _, time },
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
        abi: abi_number,
        padding: _,
    } = fixed(bytes)?;
    Ok(SyscallReturn {
        time: clock.time(time),
        start_time: clock.start_time(start_time),
        cgroup,
        comm: flat_comm(comm),
        pid,
        tid,
        ppid,
        uid,
        gid,
        number,
        value,
        duration,
        abi: abi(abi_number.into())?,
    })
}

/// An entry of the kernel's sums, made a record at the end of its interval.
pub fn count_record(key: &[u8], value: &[u8], time: u64) -> Option<Vec<u8>> {
    let count_key { pid: _, number, abi, padding: _ } = read(key)?;
    let count_value { count, errors, total_time, task } = read(value)?;
    let length = u32::try_from(size_of::<syscall_count_record>()).ok()?;
    let start = record_start { kind: record_kind::RECORD_SYSCALL_COUNT.0, length, time };
    let header = record_header { start, task };
    Some(bytes_of(&syscall_count_record { header, count, errors, total_time, number, abi }).to_vec())
}

/// How often a process made a system call in an interval.
pub fn syscall_count(bytes: &[u8], clock: &Clock) -> Result<SyscallCount, DecodeError> {
    let syscall_count_record { header, count, errors, total_time, number, abi: abi_number } = fixed(bytes)?;
    let (time, task) = super::header(&header, clock);
    Ok(SyscallCount { time, task, number, abi: abi(abi_number)?, count, errors, total_time })
}
