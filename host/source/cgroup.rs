//! Source cgroup: control groups made and removed.

use super::{Rung, Source};

/// Room for some 5,000 events.
const RING_BYTES: u32 = 1 << 20;

/// The source.
pub static CGROUP: Source = Source {
    name: "cgroup",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/cgroup.bpf.o")),
    ring_bytes: RING_BYTES,
    rungs: &[
        Rung { hook: "tp_btf", programs: &["created_btf", "removed_btf"], misses: "" },
        Rung { hook: "raw_tp", programs: &["created_raw", "removed_raw"], misses: "" },
        Rung { hook: "tp", programs: &["created_tp", "removed_tp"], misses: "" },
    ],
    sums: None,
};
