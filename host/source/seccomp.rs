//! Source seccomp: what filters did to system calls.

use super::{Rung, Source};

/// Room for some 8,000 events.
const RING_BYTES: u32 = 1 << 20;

/// The source.
pub static SECCOMP: Source = Source {
    name: "seccomp",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/seccomp.bpf.o")),
    ring_bytes: RING_BYTES,
    floods: false,
    rungs: &[
        Rung {
            hook: "fentry",
            programs: &[
                "filter_enter",
                "filter_exit",
                "log_enter",
                "trace_enter",
                "wait_enter",
                "wait_killable_enter",
                "exit_btf",
            ],
            misses: NOBODY_THERE,
        },
        // No kretprobe on the filter: a supervisor's answer may take long, and the kernel follows only a few returns at a time.
        Rung {
            hook: "kprobe",
            programs: &[
                "log_kprobe",
                "trace_kprobe",
                "wait_kprobe",
                "wait_killable_kprobe",
                "enter_raw",
                "return_raw",
                "exit_raw",
            ],
            misses: NOBODY_THERE,
        },
        Rung { hook: "tp_btf", programs: &["enter_btf", "return_btf", "exit_btf"], misses: MISSES },
        Rung { hook: "raw_tp", programs: &["enter_raw", "return_raw", "exit_raw"], misses: MISSES },
        Rung { hook: "tp", programs: &["enter_tp", "return_tp", "exit_tp"], misses: MISSES },
    ],
    partial: &[],
    sums: None,
};

/// What looks like something else to every hook.
const NOBODY_THERE: &str = "that a tracer or supervisor was to be asked and none was there (said to be errno 38)";

/// What tracepoints on calls and returns cannot see.
const MISSES: &str =
    "calls that a filter only logs; that a tracer or supervisor was asked (said to be errno where it stopped the call)";
