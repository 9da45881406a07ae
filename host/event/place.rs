//! Who caused an event, and in which cgroup, for every kind.

use super::layout::c;
use crate::wit;
use crate::wit::types::Task;

/// Bytes of a thread's name, as the kernel holds it.
const COMM_BYTES: usize = 16;

/// A thread's name with zeroes behind it.
pub type Comm = [u8; COMM_BYTES];

/// A name as the kernel holds it. Names that it would cut are nobody's: they lack the zero at the end.
pub fn comm(name: &str) -> Comm {
    std::array::from_fn(|at| name.as_bytes().get(at).copied().unwrap_or(0))
}

/// What events are narrowed by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who {
    /// The process.
    pub pid: u32,
    /// Its real user id.
    pub uid: u32,
    /// The thread's name.
    pub comm: Comm,
    /// The cgroup's id in the unified tree.
    pub cgroup: u64,
    /// The cgroup that the event is about, where it is about one.
    pub about: Option<u64>,
}

impl Who {
    fn of(task: &Task) -> Self {
        Who { pid: task.pid, uid: task.uid, comm: comm(&task.comm), cgroup: task.cgroup, about: None }
    }

    fn of_flat(pid: u32, uid: u32, cgroup: u64, comm: [i8; COMM_BYTES]) -> Self {
        Who { pid, uid, comm: comm.map(|byte| byte.to_ne_bytes()[0]), cgroup, about: None }
    }
}

/// Something that happened in a cgroup.
pub trait Placed {
    /// Who caused it; none for what is about no task.
    fn who(&self) -> Option<Who>;

    /// The cgroup's id in the unified tree, as its task was in it; none for what is about no task.
    fn cgroup(&self) -> Option<u64> {
        self.who().map(|who| who.cgroup)
    }
}

macro_rules! placed {
    ($(|$event:ident: $record:ty| $who:expr;)*) => { $(
        impl Placed for $record {
            fn who(&self) -> Option<Who> {
                let $event = self;
                $who
            }
        }
    )* };
}

placed! {
    |event: wit::process::Exec| Some(Who::of(&event.task));
    |event: wit::process::Exit| Some(Who::of(&event.task));
    |event: wit::process::Fork| Some(Who::of(&event.task));
    |event: c::syscall_flat| Some(Who::of_flat(event.pid, event.uid, event.cgroup, event.comm));
    |event: c::syscall_return_flat| Some(Who::of_flat(event.pid, event.uid, event.cgroup, event.comm));
    |event: wit::syscall::SyscallCount| Some(Who::of(&event.task));
    |event: wit::files::FileActivity| Some(Who::of(&event.task));
    |event: c::file_io_flat| Some(Who::of_flat(event.pid, event.uid, event.cgroup, event.comm));
    |event: wit::files::FileOpen| Some(Who::of(&event.task));
    |event: wit::files::FileChange| Some(Who::of(&event.task));
    |event: wit::tcp::TcpConnect| Some(Who::of(&event.task));
    |event: wit::tcp::TcpAccept| Some(Who::of(&event.task));
    |event: wit::tcp::TcpClose| Some(Who::of(&event.task));
    |event: wit::cgroup::CgroupCreated| Some(Who { about: Some(event.id), ..Who::of(&event.task) });
    |event: wit::cgroup::CgroupRemoved| Some(Who { about: Some(event.id), ..Who::of(&event.task) });
    |event: wit::ipc::IpcAccess| Some(Who::of(&event.task));
    |event: wit::seccomp::SeccompAction| Some(Who::of(&event.task));
    |event: wit::alerts::RaisedAlert| event.alert.task.as_ref().map(Who::of);
    |_gap: wit::gaps::Gap| None;
}
