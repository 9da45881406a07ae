//! Records of the source syscall.

use super::{Clock, DecodeError, fixed};
use crate::event::layout::c::{
    count_key, count_value, record_header, record_kind, record_start, syscall_abi, syscall_count_record,
};
use crate::event::layout::{bytes_of, read};
use crate::wit::syscall::{Abi, SyscallCount};

/// How a call was made.
pub(super) fn abi(number: u32) -> Result<Abi, DecodeError> {
    match syscall_abi(number) {
        syscall_abi::ABI_NATIVE => Ok(Abi::Native),
        syscall_abi::ABI_COMPAT => Ok(Abi::Compat),
        syscall_abi::ABI_X32 => Ok(Abi::X32),
        _ => Err(DecodeError::UnknownValue("abi")),
    }
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
