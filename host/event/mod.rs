//! Events as plugins know them: their kinds, and batches of them in time order. It knows nothing of libbpf, of a
//! plugin's run time, or of any input and output.

mod batch;
pub mod clock;
pub mod decode;
pub mod flat;
mod held;
pub mod layout;
mod place;
mod syscalls;

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

pub use batch::{Batch, Keep, Pick, Picked, Rows, Run, runs_for};
pub use held::{Held, Memory};
pub use place::{Comm, Placed, Who, comm};
pub use syscalls::{CallSet, name as syscall_name, number as syscall_number};

use crate::wit::{self, Canonical};
use clock::Clock;
use decode::DecodeError;
use layout::c::{self, record_kind};

/// Now, in nanoseconds since the Unix epoch.
pub fn now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// What the records of every kind have.
pub trait Record: Placed + Canonical + Clone + Send + Sync + 'static {
    /// The kind.
    const KIND: Kind;
    /// When it happened, in nanoseconds since the Unix epoch.
    fn time(&self) -> u64;
    /// The kind's column.
    fn column(columns: &Columns) -> &Vec<Self>;
}

/// Something to do with the record type of a kind that is known only at run time.
pub trait Visitor {
    /// What comes of it.
    type Output;
    /// Does it.
    fn visit<R: Record>(self) -> Self::Output;
}

/// What an alert's strings and lists take, in bytes.
pub fn alert_bytes(alert: &wit::alerts::Alert) -> usize {
    let wit::alerts::Alert { time: _, severity: _, rule, message, task, fields } = alert;
    let field = |field: &wit::alerts::Field| size_of_val(field) + field.name.len() + field.value.len();
    let comm = task.as_ref().map_or(0, |task| task.comm.len());
    rule.len() + message.len() + comm + fields.iter().map(field).sum::<usize>()
}

/// The table of kinds. Whatever depends on the list of kinds is made from it.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $column:ident, $record:ty, $name:literal, $source:literal
       $(, $number:ident => $decode:path)?;)*) => {
        /// A kind of event.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            /// Every kind there is.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            /// The kind's public name, as in WIT and JSON.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// The source that it comes from; `host` for what the host itself makes.
            pub fn source(self) -> &'static str {
                match self { $(Kind::$kind => $source,)* }
            }

            /// The number of its records in the kernel; none for kinds that the host itself makes.
            pub fn record_number(self) -> Option<u32> {
                match self { $(Kind::$kind => None$(.or(Some(record_kind::$number.0)))?,)* }
            }

            /// Calls the visitor with the kind's record type.
            pub fn visit<V: Visitor>(self, visitor: V) -> V::Output {
                match self { $(Kind::$kind => visitor.visit::<$record>(),)* }
            }
        }

        /// Events by kind: a column for each, so that a run of one kind is a slice.
        #[derive(Default, Debug, Clone)]
        pub struct Columns {
            $(#[allow(missing_docs)] pub $column: Vec<$record>,)*
            /// What strings and lists of each kind's events take, in bytes: about the length of the records they were decoded from.
            pub heap: [usize; Kind::ALL.len()],
        }

        impl Columns {
            /// How many events of a kind there are.
            pub fn count(&self, kind: Kind) -> usize {
                match kind { $(Kind::$kind => self.$column.len(),)* }
            }

            /// The memory that a kind's events take, in bytes.
            pub fn bytes(&self, kind: Kind) -> usize {
                let rows = match kind { $(Kind::$kind => size_of::<$record>() * self.$column.len(),)* };
                rows + self.heap[kind as usize]
            }

            /// The row, from `start` on, of the first event of a kind that `other` events at a time come before.
            fn row_of(&self, kind: Kind, start: usize, other: (u64, Kind)) -> usize {
                match kind {
                    $(Kind::$kind => {
                        start + self.$column[start..].partition_point(|row| (row.time(), kind) < other)
                    })*
                }
            }

            /// When a kind's event happened, by its row.
            pub fn time(&self, kind: Kind, row: usize) -> Option<u64> {
                match kind { $(Kind::$kind => self.$column.get(row).map(Record::time),)* }
            }

            /// Adds copies of some of a kind's events of other columns.
            pub fn copy(&mut self, from: &Columns, kind: Kind, rows: &[u32]) {
                self.heap[kind as usize] += from.heap[kind as usize] * rows.len() / from.count(kind).max(1);
                match kind {
                    $(Kind::$kind => {
                        self.$column.extend(rows.iter().map(|row| from.$column[*row as usize].clone()));
                    })*
                }
            }

            /// Adds the events of other columns behind these.
            pub fn append(&mut self, mut other: Columns) {
                $(self.$column.append(&mut other.$column);)*
                self.heap.iter_mut().zip(other.heap).for_each(|(heap, other)| *heap += other);
            }

            /// Puts every column in time order. Rows arrive nearly in order, which the sort makes use of.
            fn sort(&mut self) {
                $(self.$column.sort_by_key(Record::time);)*
            }

            /// Makes room for as many events as there are of others, but not for more than `most` of a kind.
            pub fn reserve_like(&mut self, others: &Columns, most: usize) {
                $(self.$column.reserve(others.$column.len().min(most));)*
            }

            /// Takes the events at or after `time` out of sorted columns, which then take no more memory than they need.
            fn split_off(&mut self, time: u64) -> Columns {
                let mut later = Columns::default();
                $({
                    let at = self.$column.partition_point(|row| row.time() < time);
                    if at < self.$column.len() {
                        let heap = self.heap[Kind::$kind as usize] * (self.$column.len() - at) / self.$column.len();
                        self.heap[Kind::$kind as usize] -= heap;
                        later.heap[Kind::$kind as usize] = heap;
                        later.$column = self.$column.split_off(at);
                    }
                    self.$column.shrink_to_fit();
                })*
                later
            }
        }

        /// Decodes one record from the kernel and adds it to its kind's column.
        ///
        /// # Errors
        /// Bytes that make no sense.
        pub fn decode(bytes: &[u8], clock: &Clock, into: &mut Columns) -> Result<Kind, DecodeError> {
            let kind = match decode::number(bytes)? {
                $($(record_kind::$number => {
                    into.$column.push($decode(bytes, clock)?);
                    if std::mem::needs_drop::<$record>() {
                        into.heap[Kind::$kind as usize] += bytes.len();
                    }
                    Kind::$kind
                })?)*
                record_kind(number) => return Err(DecodeError::UnknownKind(number)),
            };
            Ok(kind)
        }

        $(impl Record for $record {
            const KIND: Kind = Kind::$kind;
            fn time(&self) -> u64 { self.time }
            fn column(columns: &Columns) -> &Vec<Self> { &columns.$column }
        })*
    };
}

kinds! {
    /// A program was executed.
    Exec, exec, wit::process::Exec, "exec", "process", RECORD_EXEC => decode::process::exec;
    /// A process ended.
    Exit, exit, wit::process::Exit, "exit", "process", RECORD_EXIT => decode::process::exit;
    /// A process forked.
    Fork, fork, wit::process::Fork, "fork", "process", RECORD_FORK => decode::process::fork;
    /// A system call began.
    Syscall, syscall, c::syscall_flat, "syscall", "syscall", RECORD_SYSCALL => flat::syscall;
    /// A system call returned.
    SyscallReturn, syscall_return, c::syscall_return_flat, "syscall-return", "syscall",
        RECORD_SYSCALL_RETURN => flat::syscall_return;
    /// How often a process made a system call in an interval.
    SyscallCount, syscall_count, wit::syscall::SyscallCount, "syscall-count", "syscall",
        RECORD_SYSCALL_COUNT => decode::syscall::syscall_count;
    /// What a thread read from and wrote to a file in an interval.
    FileActivity, file_activity, wit::files::FileActivity, "file-activity", "files",
        RECORD_FILE_ACTIVITY => decode::files::file_activity;
    /// A file was read or written once.
    FileIo, file_io, c::file_io_flat, "file-io", "files", RECORD_FILE_IO => flat::file_io;
    /// A file was opened, or that failed.
    FileOpen, file_open, wit::files::FileOpen, "file-open", "files", RECORD_FILE_OPEN => decode::files::file_open;
    /// A file's name, owner, permissions or size was changed, or that failed.
    FileChange, file_change, wit::files::FileChange, "file-change", "files",
        RECORD_FILE_CHANGE => decode::files::file_change;
    /// A TCP connection was made or failed.
    TcpConnect, tcp_connect, wit::tcp::TcpConnect, "tcp-connect", "tcp", RECORD_TCP_CONNECT => decode::tcp::tcp_connect;
    /// A TCP connection was accepted.
    TcpAccept, tcp_accept, wit::tcp::TcpAccept, "tcp-accept", "tcp", RECORD_TCP_ACCEPT => decode::tcp::tcp_accept;
    /// A TCP connection ended.
    TcpClose, tcp_close, wit::tcp::TcpClose, "tcp-close", "tcp", RECORD_TCP_CLOSE => decode::tcp::tcp_close;
    /// A cgroup was made.
    CgroupCreated, cgroup_created, wit::cgroup::CgroupCreated, "cgroup-created", "cgroup",
        RECORD_CGROUP_CREATED => decode::cgroup::cgroup_created;
    /// A cgroup was removed.
    CgroupRemoved, cgroup_removed, wit::cgroup::CgroupRemoved, "cgroup-removed", "cgroup",
        RECORD_CGROUP_REMOVED => decode::cgroup::cgroup_removed;
    /// A System V object was accessed.
    IpcAccess, ipc_access, wit::ipc::IpcAccess, "ipc-access", "ipc", RECORD_IPC_ACCESS => decode::ipc::ipc_access;
    /// A seccomp filter did something about a system call.
    SeccompAction, seccomp_action, wit::seccomp::SeccompAction, "seccomp-action", "seccomp",
        RECORD_SECCOMP_ACTION => decode::seccomp::seccomp_action;
    /// A plugin raised an alert.
    Alert, alert, wit::alerts::RaisedAlert, "alert", "host";
    /// Events are missing.
    Gap, gap, wit::gaps::Gap, "gap", "host";
}

impl Kind {
    /// Whether its events are about single system calls, of which a plugin may select some.
    pub fn is_of_calls(self) -> bool {
        matches!(self, Kind::Syscall | Kind::SyscallReturn | Kind::SyscallCount)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name).ok_or_else(|| {
            let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            format!("no kind of event is called '{name}'; the kinds are {}", known.join(", "))
        })
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct KindSet(u64);

impl KindSet {
    /// Every kind.
    pub fn all() -> Self {
        Kind::ALL.iter().copied().collect()
    }

    /// These kinds.
    pub const fn of(kinds: &[Kind]) -> Self {
        let (mut set, mut at) = (0, 0);
        while at < kinds.len() {
            set |= 1 << kinds[at] as u8;
            at += 1;
        }
        KindSet(set)
    }

    /// Whether the kind is in it.
    pub fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// Adds a kind.
    pub fn insert(&mut self, kind: Kind) {
        self.0 |= 1 << kind as u8;
    }

    /// Whether no kind is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in both.
    pub fn and(self, other: Self) -> Self {
        KindSet(self.0 & other.0)
    }

    /// What is in either.
    pub fn or(self, other: Self) -> Self {
        KindSet(self.0 | other.0)
    }

    /// The kinds in it, in the table's order.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.iter().copied().filter(move |kind| self.has(*kind))
    }
}

impl FromIterator<Kind> for KindSet {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        let mut set = KindSet::default();
        kinds.into_iter().for_each(|kind| set.insert(kind));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_kind_is_refused_with_the_known_ones() {
        let error = "exce".parse::<Kind>().unwrap_err();
        assert!(error.contains("'exce'") && error.contains("exec, exit, fork"), "{error}");
    }
}
