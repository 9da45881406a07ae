//! Source syscall: calls, returns, and their sums.

use super::{Rung, Source, Sums};
use crate::event::decode::syscall::count_record;

/// Room for some 100,000 calls: what a busy core makes in a twentieth of a second.
const RING_BYTES: u32 = 16 << 20;

/// The source.
pub static SYSCALL: Source = Source {
    name: "syscall",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/syscall.bpf.o")),
    ring_bytes: RING_BYTES,
    rungs: &[
        Rung { hook: "tp_btf", programs: &["enter_btf", "return_btf"], misses: MISSES },
        Rung { hook: "raw_tp", programs: &["enter_raw", "return_raw"], misses: MISSES },
        Rung { hook: "tp", programs: &["enter_tp", "return_tp"], misses: MISSES },
    ],
    partial: &[],
    sums: Some(Sums { maps: ["counts_0", "counts_1"], record: count_record }),
};

/// What no hook on system calls can see.
const MISSES: &str = "what io_uring does without a call";
