//! Raw kernel bytes to typed events. Pure: bytes that make no sense are an error, never a panic. The only decoder; each
//! source's records stand in a file of their own.

pub mod cgroup;
pub mod files;
pub mod ipc;
pub mod process;
pub mod seccomp;
pub mod syscall;
pub mod tcp;

use std::fmt;

use super::clock::Clock;
use super::layout::c::{record_header, record_kind, record_start, record_task};
use super::layout::{self, Plain};
use crate::wit::types::Task;

/// Why bytes are no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than the record has, or than it says it has.
    Short,
    /// No kind has this number.
    UnknownKind(u32),
    /// A field has a value that has no meaning.
    UnknownValue(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Short => f.write_str("the record is shorter than it says"),
            DecodeError::UnknownKind(number) => write!(f, "no kind of record has the number {number}"),
            DecodeError::UnknownValue(field) => write!(f, "the field {field} has a value without a meaning"),
        }
    }
}

/// The kind of a record.
pub fn number(bytes: &[u8]) -> Result<record_kind, DecodeError> {
    fixed::<record_start>(bytes).map(|start| record_kind(start.kind))
}

/// The boot time of a record, without decoding it.
pub fn boot_time(bytes: &[u8]) -> Option<u64> {
    layout::read::<record_start>(bytes).map(|start| start.time)
}

/// A task as the kernel gives it.
pub fn task(task: &record_task, clock: &Clock) -> Task {
    Text::default().task(task, clock)
}

/// A record's fixed part.
fn fixed<T: Plain>(bytes: &[u8]) -> Result<T, DecodeError> {
    layout::read(bytes).ok_or(DecodeError::Short)
}

/// When, and who.
fn header(header: &record_header, clock: &Clock) -> (u64, Task) {
    let record_header { start: record_start { kind: _, length: _, time }, task } = header;
    (clock.time(*time), self::task(task, clock))
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
        self.push(&mut text, bytes);
        text
    }

    /// The same, behind what the text is already.
    fn push(&mut self, text: &mut String, bytes: &[u8]) {
        // Nearly always there is nothing else to do.
        if let Ok(bytes) = std::str::from_utf8(bytes) {
            return text.push_str(bytes);
        }
        self.lossy = true;
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            for byte in chunk.invalid() {
                text.push_str(&format!("\\x{byte:02x}"));
            }
        }
    }

    /// A name in an array, up to its NUL.
    fn name<const N: usize>(&mut self, bytes: &[impl Copy + Into<i64>; N]) -> String {
        let bytes = bytes.map(|byte| byte.into() as u8);
        self.decode(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
    }

    /// A path given as its names, the last one first, each ended by NUL.
    fn path(&mut self, names: &[u8], cut: bool) -> String {
        if names.is_empty() {
            return if cut { ".../".into() } else { "/".into() };
        }
        let names = names.strip_suffix(b"\0").unwrap_or(names);
        let mut path = String::with_capacity(names.len() + "...//".len());
        path.push_str(if cut { "..." } else { "" });
        for name in names.rsplit(|byte| *byte == 0) {
            path.push('/');
            self.push(&mut path, name);
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
