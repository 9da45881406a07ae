//! Raw kernel bytes to typed events. Pure: bytes that make no sense are an error, never a panic. The only decoder.

use std::fmt;

use super::clock::Clock;
use super::layout::process::{
    exec_flag, exec_record, exit_record, fork_record, record_header, record_kind, record_task,
};
use super::layout::{self, Plain};
use super::{Columns, Kind};
use crate::wit::process::{Exec, Exit, Fork};
use crate::wit::types::Task;

/// Why bytes are no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than the record has, or than it says it has.
    Short,
    /// No kind has this number.
    UnknownKind(u32),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Short => f.write_str("the record is shorter than it says"),
            DecodeError::UnknownKind(number) => write!(f, "no kind of record has the number {number}"),
        }
    }
}

/// Which record a kind has in the kernel; none for kinds that the host itself makes.
pub fn record_number(kind: Kind) -> Option<u32> {
    match kind {
        Kind::Exec => Some(record_kind::RECORD_EXEC.0),
        Kind::Exit => Some(record_kind::RECORD_EXIT.0),
        Kind::Fork => Some(record_kind::RECORD_FORK.0),
        Kind::Alert => None,
    }
}

/// The boot time of a record, without decoding it.
pub fn boot_time(bytes: &[u8]) -> Option<u64> {
    layout::read::<record_header>(bytes).map(|header| header.time)
}

/// Decodes one record and adds it to its kind's column.
pub fn decode(bytes: &[u8], clock: &Clock, into: &mut Columns) -> Result<Kind, DecodeError> {
    let header: record_header = fixed(bytes)?;
    let kind = match record_kind(header.kind) {
        record_kind::RECORD_EXEC => {
            into.exec.push(exec(bytes, clock)?);
            Kind::Exec
        }
        record_kind::RECORD_EXIT => {
            into.exit.push(exit(bytes, clock)?);
            Kind::Exit
        }
        record_kind::RECORD_FORK => {
            into.fork.push(fork(bytes, clock)?);
            Kind::Fork
        }
        record_kind(number) => return Err(DecodeError::UnknownKind(number)),
    };
    into.bytes += bytes.len();
    Ok(kind)
}

fn fixed<T: Plain>(bytes: &[u8]) -> Result<T, DecodeError> {
    layout::read(bytes).ok_or(DecodeError::Short)
}

fn exec(bytes: &[u8], clock: &Clock) -> Result<Exec, DecodeError> {
    let exec_record {
        header: record_header { time, kind: _, length: _, task },
        capabilities,
        login_uid,
        flags,
        filename_length,
        exe_length,
        cwd_length,
        args_length,
        tty,
        parent_comm,
    } = fixed(bytes)?;
    let mut tail = Tail(&bytes[size_of::<exec_record>()..]);
    let mut text = Text::default();
    let has = |flag: exec_flag| flags & flag.0 != 0;
    let filename = text.decode(tail.take(filename_length)?);
    let exe = text.path(tail.take(exe_length)?, has(exec_flag::EXEC_EXE_CUT));
    let cwd = text.path(tail.take(cwd_length)?, has(exec_flag::EXEC_CWD_CUT));
    let args = tail.take(args_length)?;
    let args = args.strip_suffix(b"\0").unwrap_or(args);
    let args =
        if args_length == 0 { Vec::new() } else { args.split(|byte| *byte == 0).map(|arg| text.decode(arg)).collect() };
    let tty = text.name(&tty);
    Ok(Exec {
        time: clock.time(time),
        task: text.task(&task, clock),
        filename,
        exe,
        exe_memfd: has(exec_flag::EXEC_MEMFD),
        exe_deleted: has(exec_flag::EXEC_DELETED),
        exe_upper_layer: has(exec_flag::EXEC_OVERLAY).then(|| has(exec_flag::EXEC_UPPER)),
        args,
        args_truncated: has(exec_flag::EXEC_ARGS_CUT),
        cwd,
        paths_truncated: has(exec_flag::EXEC_FILENAME_CUT)
            || has(exec_flag::EXEC_EXE_CUT)
            || has(exec_flag::EXEC_CWD_CUT),
        tty: (!tty.is_empty()).then_some(tty),
        login_uid: (login_uid != u32::MAX).then_some(login_uid),
        capabilities,
        parent_comm: text.name(&parent_comm),
        lossy: text.lossy,
    })
}

/// A core dump's bit in a wait status, and the signal's bits.
const STATUS_CORE: u32 = 0x80;
const STATUS_SIGNAL: u32 = 0x7f;

fn exit(bytes: &[u8], clock: &Clock) -> Result<Exit, DecodeError> {
    let exit_record { header: record_header { time, kind: _, length: _, task }, duration, status, padding: _ } =
        fixed(bytes)?;
    let signal = status & STATUS_SIGNAL;
    Ok(Exit {
        time: clock.time(time),
        task: Text::default().task(&task, clock),
        code: if signal == 0 { (status >> 8) & 0xff } else { 0 },
        signal: (signal != 0).then_some(signal),
        core_dumped: status & STATUS_CORE != 0,
        duration,
    })
}

fn fork(bytes: &[u8], clock: &Clock) -> Result<Fork, DecodeError> {
    let fork_record { header: record_header { time, kind: _, length: _, task }, child_pid, padding: _ } = fixed(bytes)?;
    Ok(Fork { time: clock.time(time), task: Text::default().task(&task, clock), child_pid })
}

/// A task as the kernel gives it.
pub fn task(task: &record_task, clock: &Clock) -> Task {
    Text::default().task(task, clock)
}

/// What stands behind a record's fixed part.
struct Tail<'a>(&'a [u8]);

impl<'a> Tail<'a> {
    fn take(&mut self, length: u32) -> Result<&'a [u8], DecodeError> {
        let (part, rest) = self.0.split_at_checked(length as usize).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(part)
    }
}

/// Turns bytes into strings, and remembers whether any was not UTF-8.
#[derive(Default)]
struct Text {
    lossy: bool,
}

impl Text {
    /// Bytes that are not UTF-8 become `\xNN`.
    fn decode(&mut self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            for byte in chunk.invalid() {
                self.lossy = true;
                text.push_str(&format!("\\x{byte:02x}"));
            }
        }
        text
    }

    /// A name in an array, up to its NUL.
    fn name(&mut self, bytes: &[impl Copy + Into<i64>]) -> String {
        let bytes: Vec<u8> = bytes.iter().map(|byte| (*byte).into() as u8).take_while(|byte| *byte != 0).collect();
        self.decode(&bytes)
    }

    /// A path given as its names, the last one first, each ended by NUL.
    fn path(&mut self, names: &[u8], cut: bool) -> String {
        if names.is_empty() {
            return if cut { ".../".into() } else { "/".into() };
        }
        let names = names.strip_suffix(b"\0").unwrap_or(names);
        let mut path = String::from(if cut { "..." } else { "" });
        for name in names.rsplit(|byte| *byte == 0) {
            path.push('/');
            path.push_str(&self.decode(name));
        }
        path
    }

    fn task(&mut self, task: &record_task, clock: &Clock) -> Task {
        let record_task { start_time, cgroup, pid, tid, ppid, uid, gid, pid_ns, mnt_ns, user_ns, comm } = task;
        Task {
            pid: *pid,
            tid: *tid,
            ppid: *ppid,
            uid: *uid,
            gid: *gid,
            comm: self.name(comm),
            cgroup: *cgroup,
            pid_ns: *pid_ns,
            mnt_ns: *mnt_ns,
            user_ns: *user_ns,
            start_time: clock.start_time(*start_time),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
