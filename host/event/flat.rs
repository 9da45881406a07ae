//! Flat records: the kernel's bytes are the plugin's, but for the two times, which count from boot there and from the epoch here. A
//! column of them is what a plugin gets, by one copy; `host/plugin/lower.rs` holds the layouts to the interface.

use super::clock::Clock;
use super::decode::DecodeError;
use super::layout::c::{
    file_did, file_io_flat, file_io_record, file_kind, syscall_abi, syscall_flat, syscall_record, syscall_return_flat,
    syscall_return_record,
};
use super::layout::{Plain, read};
use crate::wit::files::{FileIo, FileOperation, FileType};
use crate::wit::syscall::{Abi, FlatComm, Syscall, SyscallReturn};

fn fixed<T: Plain>(bytes: &[u8]) -> Result<T, DecodeError> {
    read(bytes).ok_or(DecodeError::Short)
}

/// A number in a record that stands for the case of an enum must be one of them: plugins read it as such.
fn is_case(number: u8, last: u32, field: &'static str) -> Result<(), DecodeError> {
    if u32::from(number) <= last { Ok(()) } else { Err(DecodeError::UnknownValue(field)) }
}

/// A system call began.
pub fn syscall(bytes: &[u8], clock: &Clock) -> Result<syscall_flat, DecodeError> {
    let syscall_record { kind: _, length: _, mut flat } = fixed(bytes)?;
    is_case(flat.abi, syscall_abi::ABI_X32.0, "abi")?;
    (flat.time, flat.start_time) = (clock.time(flat.time), clock.start_time(flat.start_time));
    flat.padding = Default::default();
    Ok(flat)
}

/// A system call returned.
pub fn syscall_return(bytes: &[u8], clock: &Clock) -> Result<syscall_return_flat, DecodeError> {
    let syscall_return_record { kind: _, length: _, mut flat } = fixed(bytes)?;
    is_case(flat.abi, syscall_abi::ABI_X32.0, "abi")?;
    (flat.time, flat.start_time) = (clock.time(flat.time), clock.start_time(flat.start_time));
    flat.padding = Default::default();
    Ok(flat)
}

/// A file was read or written once.
pub fn file_io(bytes: &[u8], clock: &Clock) -> Result<file_io_flat, DecodeError> {
    let file_io_record { kind: _, length: _, mut flat } = fixed(bytes)?;
    is_case(flat.operation, file_did::FILE_WRITE.0, "operation")?;
    is_case(flat.r#type, file_kind::FILE_OTHER.0, "type")?;
    (flat.time, flat.start_time) = (clock.time(flat.time), clock.start_time(flat.start_time));
    flat.padding = Default::default();
    Ok(flat)
}

/// How a call was made, of a number that decoding has let pass.
pub fn abi(number: u8) -> Abi {
    match syscall_abi(number.into()) {
        syscall_abi::ABI_COMPAT => Abi::Compat,
        syscall_abi::ABI_X32 => Abi::X32,
        _ => Abi::Native,
    }
}

fn flat_comm(comm: [i8; 16]) -> FlatComm {
    let bytes = comm.map(|byte| byte.to_ne_bytes()[0]);
    let half = |from: usize| bytes[from..from + 8].iter().rev().fold(0, |half, byte| half << 8 | u64::from(*byte));
    FlatComm { low: half(0), high: half(8) }
}

// The same field by field, for whoever reads them by their types.

impl From<&syscall_flat> for Syscall {
    #[rustfmt::skip]
    fn from(flat: &syscall_flat) -> Self {
        let syscall_flat {
            time, start_time, cgroup, comm, pid, tid, ppid, uid, gid, number, arg0, arg1, arg2, arg3, arg4, arg5,
            abi: abi_number, padding: _,
        } = *flat;
        Syscall {
            time, start_time, cgroup, comm: flat_comm(comm), pid, tid, ppid, uid, gid, number, arg0, arg1, arg2, arg3, arg4,
            arg5, abi: abi(abi_number),
        }
    }
}

impl From<&syscall_return_flat> for SyscallReturn {
    #[rustfmt::skip]
    fn from(flat: &syscall_return_flat) -> Self {
        let syscall_return_flat {
            time, start_time, cgroup, comm, pid, tid, ppid, uid, gid, number, value, duration, abi: abi_number, padding: _,
        } = *flat;
        SyscallReturn {
            time, start_time, cgroup, comm: flat_comm(comm), pid, tid, ppid, uid, gid, number, value, duration,
            abi: abi(abi_number),
        }
    }
}

impl From<&file_io_flat> for FileIo {
    #[rustfmt::skip]
    fn from(flat: &file_io_flat) -> Self {
        let file_io_flat {
            time, start_time, cgroup, comm, pid, tid, ppid, uid, gid, device, inode, bytes, error, operation, r#type,
            padding: _,
        } = *flat;
        let operation = match file_did(operation.into()) {
            file_did::FILE_WRITE => FileOperation::Write,
            _ => FileOperation::Read,
        };
        let file_type = match file_kind(r#type.into()) {
            file_kind::FILE_SOCKET => FileType::Socket,
            file_kind::FILE_OTHER => FileType::Other,
            _ => FileType::Regular,
        };
        FileIo {
            time, start_time, cgroup, comm: flat_comm(comm), pid, tid, ppid, uid, gid, device, inode, bytes, error, operation,
            file_type,
        }
    }
}
