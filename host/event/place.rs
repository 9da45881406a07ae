//! In which cgroup an event happened, for every kind.

use super::layout::c;
use crate::wit;

/// Something that happened in a cgroup.
pub trait Placed {
    /// The cgroup's id in the unified tree, as its task was in it; none for what is about no task.
    fn cgroup(&self) -> Option<u64>;
}

macro_rules! placed {
    ($(|$event:ident: $record:ty| $cgroup:expr;)*) => { $(
        impl Placed for $record {
            fn cgroup(&self) -> Option<u64> {
                let $event = self;
                $cgroup
            }
        }
    )* };
}

placed! {
    |event: wit::process::Exec| Some(event.task.cgroup);
    |event: wit::process::Exit| Some(event.task.cgroup);
    |event: wit::process::Fork| Some(event.task.cgroup);
    |event: c::syscall_flat| Some(event.cgroup);
    |event: c::syscall_return_flat| Some(event.cgroup);
    |event: wit::syscall::SyscallCount| Some(event.task.cgroup);
    |event: wit::files::FileActivity| Some(event.task.cgroup);
    |event: c::file_io_flat| Some(event.cgroup);
    |event: wit::files::FileOpen| Some(event.task.cgroup);
    |event: wit::files::FileChange| Some(event.task.cgroup);
    |event: wit::tcp::TcpConnect| Some(event.task.cgroup);
    |event: wit::tcp::TcpAccept| Some(event.task.cgroup);
    |event: wit::tcp::TcpClose| Some(event.task.cgroup);
    |event: wit::cgroup::CgroupCreated| Some(event.task.cgroup);
    |event: wit::cgroup::CgroupRemoved| Some(event.task.cgroup);
    |event: wit::ipc::IpcAccess| Some(event.task.cgroup);
    |event: wit::seccomp::SeccompAction| Some(event.task.cgroup);
    |event: wit::alerts::RaisedAlert| event.alert.task.as_ref().map(|task| task.cgroup);
    |_gap: wit::gaps::Gap| None;
}
