//! The process that compiles a plugin: it handles bytes that nobody vouches for, so it gives up everything but reading
//! standard input, using processor and memory up to a limit, and writing its answer.

use anyhow::{Context, Result};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, geteuid, nice, set_dumpable_behavior, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};
use serde::{Deserialize, Serialize};
use syscalls::Sysno;

use super::calls::NEW_THREADS;
use super::filter::{Allowed, allow};

/// Processor time for compiling one plugin. Rust plugins take 0.1 s, whole run times of Python or JavaScript some seconds;
/// a small component made to be slow takes minutes.
pub const COMPILE_CPU_SECONDS: u64 = 30;

/// Address space for compiling one plugin, the host's own program of some 60 MiB included. A small component made to be
/// large takes more than 3 GiB.
pub const COMPILE_MEMORY_BYTES: u64 = 2 << 30;

/// What a process may use that compiles a plugin.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct CompileLimits {
    /// Address space in bytes.
    pub memory_bytes: u64,
    /// Processor time in seconds.
    pub cpu_seconds: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        CompileLimits { memory_bytes: COMPILE_MEMORY_BYTES, cpu_seconds: COMPILE_CPU_SECONDS }
    }
}

/// Threads that compile: more would take address space, and processors from those who handle events.
pub const COMPILE_THREADS: usize = 2;

/// Events go before new plugins.
const NICE: i32 = 10;

/// The user and the group that own nothing.
const NOBODY: u32 = 65_534;

/// `PROT_EXEC` and `PR_SET_NAME` of the kernel's headers.
const PROT_EXEC: u64 = 4;
const PR_SET_NAME: u64 = 15;

/// The part of an argument that is a file's number.
const FILE: u64 = 0xffff_ffff;

/// Found by running it under strace, with plugins that compile, that do not, and that pass a limit.
const ALLOWED: &[Allowed] = &[
    Allowed::Always(&[
        Sysno::munmap,
        Sysno::mremap,
        Sysno::madvise,
        Sysno::brk,
        Sysno::futex,
        Sysno::set_robust_list,
        Sysno::rseq,
        Sysno::sched_yield,
        Sysno::sched_getaffinity,
        Sysno::rt_sigaction,
        Sysno::rt_sigprocmask,
        Sysno::rt_sigreturn,
        Sysno::sigaltstack,
        Sysno::getpid,
        Sysno::gettid,
        Sysno::tgkill,
        Sysno::getrandom,
        Sysno::clock_gettime,
        Sysno::restart_syscall,
        Sysno::exit,
        Sysno::exit_group,
    ]),
    // Its pipes, and none of the files that whoever started the host may have left open.
    Allowed::Where { call: Sysno::read, argument: 0, mask: FILE, value: 0 },
    Allowed::Where { call: Sysno::write, argument: 0, mask: FILE, value: 1 },
    Allowed::Where { call: Sysno::write, argument: 0, mask: FILE, value: 2 },
    // Memory, but none to run: what it compiles is for others.
    Allowed::Where { call: Sysno::mmap, argument: 2, mask: PROT_EXEC, value: 0 },
    Allowed::Where { call: Sysno::mprotect, argument: 2, mask: PROT_EXEC, value: 0 },
    NEW_THREADS,
    Allowed::Where { call: Sysno::prctl, argument: 0, mask: u64::MAX, value: PR_SET_NAME },
];

/// Gives up all that compiling does not need. For a process with one thread, before it reads the first byte.
pub fn compiler(limits: CompileLimits) -> Result<()> {
    let limit = |resource, most| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .with_context(|| format!("cannot limit {resource:?}"))
    };
    limit(Resource::As, limits.memory_bytes)?;
    limit(Resource::Cpu, limits.cpu_seconds)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Core, 0)?;
    _ = nice(NICE); // Without it, it is only less polite.
    if geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&[]).context("cannot give up groups")?;
        set_thread_res_gid(gid, gid, gid).context("cannot give up root's group")?;
        set_thread_res_uid(uid, uid, uid).context("cannot give up root's user id")?;
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .context("cannot give up capabilities")?;
    set_no_new_privs(true).context("cannot give up new privileges")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot keep others from looking in")?;
    // After the change of user, which clears it.
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot end with the host")?;
    allow(ALLOWED)
}
