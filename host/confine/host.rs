//! The host once it is to run plugins: what it keeps is for what it still has to do, attaching BPF programs of plugins that
//! come later included.

use std::fmt;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, geteuid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};
use syscalls::Sysno;

use super::filter::{Allowed, allow};

/// The capabilities that it keeps of those that it has, each with its reason.
const KEPT: &[(CapabilitySet, &str)] = &[
    // To load BPF programs, and to have them see the kernel's memory and tracepoints.
    (CapabilitySet::BPF, "bpf"),
    (CapabilitySet::PERFMON, "perfmon"),
    // To read /proc/PID/exe and command lines of others' processes.
    (CapabilitySet::SYS_PTRACE, "sys_ptrace"),
    // To read plugins, and folders granted to them, that belong to others.
    (CapabilitySet::DAC_READ_SEARCH, "dac_read_search"),
    // To have the thread that reads the rings go before others.
    (CapabilitySet::SYS_NICE, "sys_nice"),
    // To make nobody of the process that compiles, and to end it when it takes too long.
    (CapabilitySet::SETUID, "setuid"),
    (CapabilitySet::SETGID, "setgid"),
    (CapabilitySet::KILL, "kill"),
];

/// What it keeps besides where a value beyond the kernel's own is set here: Debian and Ubuntu have their kernels then ask for
/// this to open a tracepoint or a kprobe, and not for `CAP_PERFMON`.
const KEPT_WHERE_PARANOID: (CapabilitySet, &str) = (CapabilitySet::SYS_ADMIN, "sys_admin");
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";
const MOST_PARANOID: i32 = 2;

/// What it calls, found by running it under strace with all sources and shipped plugins, and what its libraries may call
/// besides on other systems. Everything else does not exist for it: mounting, modules, tracing processes, other
/// namespaces, clocks, keys, io_uring, files' owners and modes...
const ALLOWED: &[Allowed] = &[
    // Memory.
    Allowed::Always(&[
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
    ]),
    // Threads, signals and time.
    Allowed::Always(&[
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
    ]),
    // Reading and writing, and waiting for it.
    Allowed::Always(&[
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
    ]),
    // Files: plugins, settings, folders granted, the cache, the summary, /proc and /sys.
    Allowed::Always(&[
        Sysno::open,
        Sysno::openat,
        Sysno::openat2,
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
        Sysno::unlink,
        Sysno::unlinkat,
        Sysno::renameat,
        Sysno::renameat2,
        Sysno::rename,
        Sysno::mkdir,
        Sysno::mkdirat,
        Sysno::utimensat,
        Sysno::futimesat,
        Sysno::name_to_handle_at,
    ]),
    // Servers that plugins may call.
    Allowed::Always(&[
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
    ]),
    // The kernel's side.
    Allowed::Always(&[Sysno::bpf, Sysno::perf_event_open, Sysno::uname, Sysno::sysinfo]),
    // The process that compiles, and what it does before it has a filter of its own.
    Allowed::Always(&[
        Sysno::clone,
        Sysno::clone3,
        Sysno::vfork,
        Sysno::execve,
        Sysno::arch_prctl,
        Sysno::prctl,
        Sysno::prlimit64,
        Sysno::getrlimit,
        Sysno::setrlimit,
        Sysno::getpriority,
        Sysno::setpriority,
        Sysno::getuid,
        Sysno::geteuid,
        Sysno::getgid,
        Sysno::getegid,
        Sysno::setgroups,
        Sysno::setresuid,
        Sysno::setresgid,
        Sysno::capget,
        Sysno::capset,
        Sysno::seccomp,
        Sysno::wait4,
        Sysno::waitid,
        Sysno::kill,
        Sysno::pidfd_open,
        Sysno::pidfd_send_signal,
        Sysno::close_range,
    ]),
];

/// What the host runs with.
#[derive(Debug, Clone)]
pub struct Power {
    uid: u32,
    capabilities: Vec<&'static str>,
    calls: usize,
}

/// Gives up all that running plugins does not need. For a process with one thread: those that it starts have what it has.
pub fn host() -> Result<Power> {
    // Kernels before 5.11 count BPF maps as locked memory. Newer ones do not care, and some machines do not allow it.
    _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    let paranoid = std::fs::read_to_string(PARANOID).ok().and_then(|value| value.trim().parse::<i32>().ok());
    let besides = paranoid.is_some_and(|value| value > MOST_PARANOID).then_some(&KEPT_WHERE_PARANOID);
    let list = || KEPT.iter().chain(besides);
    let mut kept = CapabilitySet::empty();
    list().for_each(|(capability, _)| kept |= *capability);
    let had = capabilities(None).context("cannot see which capabilities this process has")?.permitted;
    let kept = kept & had;
    // What no program started from here can have either; without CAP_SETPCAP no_new_privs must be enough.
    for bit in (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        if !kept.contains(bit) && had.contains(CapabilitySet::SETPCAP) {
            _ = remove_capability_from_bounding_set(bit); // Beyond the last capability there is none to remove.
        }
    }
    _ = clear_ambient_capability_set();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })
        .context("cannot give up capabilities")?;
    set_no_new_privs(true).context("cannot give up new privileges")?;
    allow(ALLOWED)?;
    let calls = ALLOWED.iter().map(Allowed::count).sum();
    let capabilities = list().filter(|(capability, _)| kept.contains(*capability)).map(|(_, name)| *name).collect();
    Ok(Power { uid: geteuid().as_raw(), capabilities, calls })
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capabilities = if self.capabilities.is_empty() { "none".to_owned() } else { self.capabilities.join(", ") };
        write!(f, "user {}; capabilities {capabilities}; {} system calls; no new privileges", self.uid, self.calls)
    }
}
