//! The broker: it loads and attaches BPF programs, looks at processes, has plugins compiled, and connects to what plugins were
//! granted. It never runs any of a plugin's code.

use anyhow::Result;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::CapabilitySet;

use super::calls::{BPF, CHANGED_FILES, FILES, MEMORY, PROCESSES, SOCKETS, STREAMS, THREADS};
use super::filter::{Allowed, allow};
use super::power::{Power, had, keep};

/// The capabilities that it keeps of those that it has, each with its reason.
const KEPT: &[(CapabilitySet, &str)] = &[
    // To load BPF programs, and to have them see the kernel's memory and tracepoints.
    (CapabilitySet::BPF, "bpf"),
    (CapabilitySet::PERFMON, "perfmon"),
    // To read /proc/PID/exe and command lines of others' processes.
    (CapabilitySet::SYS_PTRACE, "sys_ptrace"),
    // To read settings that belong to others.
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

/// What it calls. Everything else does not exist for it: mounting, modules, tracing processes, other namespaces, clocks, keys,
/// io_uring, files' owners and modes...
const ALLOWED: &[Allowed] = &[MEMORY, THREADS, STREAMS, FILES, CHANGED_FILES, SOCKETS, BPF, PROCESSES];

/// Gives up all that it does not need. For a process with one thread: those that it starts have what it has.
pub fn broker() -> Result<Power> {
    // Kernels before 5.11 count BPF maps as locked memory. Newer ones do not care, and some machines do not allow it.
    _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    let paranoid = std::fs::read_to_string(PARANOID).ok().and_then(|value| value.trim().parse::<i32>().ok());
    let besides = paranoid.is_some_and(|value| value > MOST_PARANOID).then_some(KEPT_WHERE_PARANOID);
    let kept: Vec<_> = KEPT.iter().copied().chain(besides).collect();
    let capabilities = keep(&kept, had()?)?;
    allow(ALLOWED)?;
    Ok(Power::now(capabilities, ALLOWED))
}
