//! Source syscall: calls, returns, and their sums.

use super::{Rung, Source, Sums};
use crate::event::decode::syscall::count_record;
use crate::event::{Kind, KindSet};

/// Room for some 250,000 calls: what two CPUs that do nothing else make in a tenth of a second.
const RING_BYTES: u32 = 32 << 20;

/// The source.
pub static SYSCALL: Source = Source {
    name: "syscall",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/syscall.bpf.o")),
    ring_bytes: RING_BYTES,
    floods: true,
    rungs: &[
        Rung { hook: "tp_btf", programs: &["enter_btf", "return_btf"], misses: MISSES },
        Rung { hook: "raw_tp", programs: &["enter_raw", "return_raw"], misses: MISSES },
        Rung { hook: "tp", programs: &["enter_tp", "return_tp"], misses: MISSES },
    ],
    partial: &[("return_btf", RETURNS), ("return_raw", RETURNS), ("return_tp", RETURNS)],
    sums: Some(Sums { kind: Kind::SyscallCount, maps: ["counts_0", "counts_1"], record: count_record }),
};

/// What needs to know of a call's return.
const RETURNS: KindSet = KindSet::of(&[Kind::SyscallReturn, Kind::SyscallCount]);

/// What no hook on system calls can see.
const MISSES: &str = "what io_uring does without a call";
