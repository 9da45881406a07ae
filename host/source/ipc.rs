//! Source ipc: access to System V shared memory, message queues and semaphores.

use super::{Rung, Source};

/// Room for some 6,000 events.
const RING_BYTES: u32 = 1 << 20;

/// The source.
pub static IPC: Source = Source {
    name: "ipc",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/ipc.bpf.o")),
    ring_bytes: RING_BYTES,
    floods: false,
    rungs: &[
        Rung { hook: "fentry", programs: &["perms_exit", "owner_exit"], misses: LOCKS },
        Rung {
            hook: "kprobe",
            programs: &["perms_kprobe", "perms_kretprobe", "owner_kprobe", "owner_kretprobe"],
            misses: LOCKS,
        },
        Rung { hook: "tp_btf", programs: &["enter_btf", "return_btf"], misses: MISSES },
        Rung { hook: "raw_tp", programs: &["enter_raw", "return_raw"], misses: MISSES },
        Rung { hook: "tp", programs: &["enter_tp", "return_tp"], misses: MISSES },
    ],
    partial: &[],
    sums: None,
};

/// What the kernel decides elsewhere.
const LOCKS: &str = "locking shared memory in RAM";

/// What tracepoints on system calls cannot see.
const MISSES: &str = "32-bit calls; looking at objects by their place in the table, as ipcs does; whether semop waits for zero, which asks to read (said to write)";
