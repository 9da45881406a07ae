//! The system calls of the host's processes, by what they are for. Found by running them under strace with all sources and
//! shipped plugins, and what libraries may call besides on other systems.

use syscalls::Sysno;

use super::filter::Allowed;

/// Memory.
pub(super) const MEMORY: Allowed = Allowed::Always(&[
    Sysno::brk,
    Sysno::mmap,
    Sysno::munmap,
    Sysno::mremap,
    Sysno::mprotect,
    Sysno::madvise,
    Sysno::membarrier,
    Sysno::memfd_create,
    Sysno::msync,
    Sysno::mincore,
]);

/// Threads, signals and time.
pub(super) const THREADS: Allowed = Allowed::Always(&[
    Sysno::futex,
    Sysno::set_robust_list,
    Sysno::get_robust_list,
    Sysno::rseq,
    Sysno::set_tid_address,
    Sysno::sched_yield,
    Sysno::sched_getaffinity,
    Sysno::gettid,
    Sysno::getpid,
    Sysno::getppid,
    Sysno::rt_sigaction,
    Sysno::rt_sigprocmask,
    Sysno::rt_sigreturn,
    Sysno::rt_sigtimedwait,
    Sysno::sigaltstack,
    Sysno::tgkill,
    Sysno::restart_syscall,
    Sysno::clock_gettime,
    Sysno::clock_getres,
    Sysno::clock_nanosleep,
    Sysno::nanosleep,
    Sysno::gettimeofday,
    Sysno::time,
    Sysno::getcpu,
    Sysno::getrusage,
    Sysno::times,
    Sysno::exit,
    Sysno::exit_group,
    Sysno::getpriority,
    Sysno::setpriority,
    Sysno::getuid,
    Sysno::geteuid,
    Sysno::getgid,
    Sysno::getegid,
    Sysno::getrlimit,
    Sysno::prlimit64,
    Sysno::prctl,
    Sysno::uname,
    Sysno::sysinfo,
    Sysno::wait4,
    Sysno::waitid,
]);

/// Reading and writing, and waiting for it.
pub(super) const STREAMS: Allowed = Allowed::Always(&[
    Sysno::read,
    Sysno::write,
    Sysno::readv,
    Sysno::writev,
    Sysno::pread64,
    Sysno::pwrite64,
    Sysno::preadv,
    Sysno::preadv2,
    Sysno::pwritev,
    Sysno::pwritev2,
    Sysno::lseek,
    Sysno::close,
    Sysno::dup,
    Sysno::dup2,
    Sysno::dup3,
    Sysno::fcntl,
    Sysno::ioctl,
    Sysno::pipe,
    Sysno::pipe2,
    Sysno::poll,
    Sysno::ppoll,
    Sysno::select,
    Sysno::pselect6,
    Sysno::epoll_create1,
    Sysno::epoll_ctl,
    Sysno::epoll_wait,
    Sysno::epoll_pwait,
    Sysno::epoll_pwait2,
    Sysno::eventfd2,
    Sysno::timerfd_create,
    Sysno::timerfd_settime,
    Sysno::inotify_init1,
    Sysno::inotify_add_watch,
    Sysno::inotify_rm_watch,
    Sysno::getrandom,
]);

/// Looking at files: plugins, settings, folders granted, /proc and /sys; and writing what is open already.
pub(super) const FILES: Allowed = Allowed::Always(&[
    Sysno::stat,
    Sysno::fstat,
    Sysno::lstat,
    Sysno::newfstatat,
    Sysno::statx,
    Sysno::statfs,
    Sysno::fstatfs,
    Sysno::access,
    Sysno::faccessat,
    Sysno::faccessat2,
    Sysno::readlink,
    Sysno::readlinkat,
    Sysno::getdents64,
    Sysno::getcwd,
    Sysno::fadvise64,
    Sysno::ftruncate,
    Sysno::fsync,
    Sysno::fdatasync,
    Sysno::name_to_handle_at,
]);

/// Opening files to read them alone. The newer openat2 hides its flags from filters; libraries fall back to openat.
pub(super) const OPEN: Allowed = Allowed::Where { call: Sysno::open, argument: 1, mask: WRITING, value: 0 };
pub(super) const OPENAT: Allowed = Allowed::Where { call: Sysno::openat, argument: 2, mask: WRITING, value: 0 };

/// `O_WRONLY`, `O_RDWR`, `O_CREAT`, `O_TRUNC`, `O_APPEND`, and what of `O_TMPFILE` is not `O_DIRECTORY`, of the kernel's headers.
const WRITING: u64 = 0o3 | 0o100 | 0o1000 | 0o2000 | 0o20_000_000;

/// Opening files for anything, and changing what is in a folder: that of the cache.
pub(super) const CHANGED_FILES: Allowed = Allowed::Always(&[
    Sysno::open,
    Sysno::openat,
    Sysno::openat2,
    Sysno::unlink,
    Sysno::unlinkat,
    Sysno::renameat,
    Sysno::renameat2,
    Sysno::rename,
    Sysno::mkdir,
    Sysno::mkdirat,
    Sysno::utimensat,
    Sysno::futimesat,
]);

/// Servers that plugins may call, and the connection between the two processes.
pub(super) const SOCKETS: Allowed = Allowed::Always(&[
    Sysno::socket,
    Sysno::socketpair,
    Sysno::connect,
    Sysno::bind,
    Sysno::listen,
    Sysno::accept4,
    Sysno::sendto,
    Sysno::sendmsg,
    Sysno::sendmmsg,
    Sysno::recvfrom,
    Sysno::recvmsg,
    Sysno::recvmmsg,
    Sysno::shutdown,
    Sysno::getsockname,
    Sysno::getpeername,
    Sysno::getsockopt,
    Sysno::setsockopt,
]);

/// The kernel's side.
pub(super) const BPF: Allowed = Allowed::Always(&[Sysno::bpf, Sysno::perf_event_open]);

/// The process that compiles, and what it does before it has a filter of its own.
pub(super) const PROCESSES: Allowed = Allowed::Always(&[
    Sysno::clone,
    Sysno::clone3,
    Sysno::vfork,
    Sysno::execve,
    Sysno::arch_prctl,
    Sysno::setrlimit,
    Sysno::setgroups,
    Sysno::setresuid,
    Sysno::setresgid,
    Sysno::capget,
    Sysno::capset,
    Sysno::seccomp,
    Sysno::kill,
    Sysno::pidfd_open,
    Sysno::pidfd_send_signal,
    Sysno::close_range,
]);

/// New threads, but no processes. The newer clone3 hides its flags from filters; libraries fall back to clone.
pub(super) const NEW_THREADS: Allowed =
    Allowed::Where { call: Sysno::clone, argument: 0, mask: CLONE_THREAD, value: CLONE_THREAD };

/// `CLONE_THREAD` of the kernel's headers.
const CLONE_THREAD: u64 = 0x1_0000;
