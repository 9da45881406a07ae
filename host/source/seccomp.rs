//! Source seccomp: what filters did to system calls.

use super::{Rung, Source};

/// Room for some 8,000 events.
const RING_BYTES: u32 = 1 << 20;

/// The source.
pub static SECCOMP: Source = Source {
    name: "seccomp",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/seccomp.bpf.o")),
    ring_bytes: RING_BYTES,
    rungs: &[
        Rung { hook: "tp_btf", programs: &["enter_btf", "return_btf", "exit_btf"], misses: MISSES },
        Rung { hook: "raw_tp", programs: &["enter_raw", "return_raw", "exit_raw"], misses: MISSES },
        Rung { hook: "tp", programs: &["enter_tp", "return_tp", "exit_tp"], misses: MISSES },
    ],
    sums: None,
};

/// What tracepoints on calls and returns cannot see.
const MISSES: &str = "calls that a filter only logs or hands to a tracer; whether a supervisor answered";
