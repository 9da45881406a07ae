//! Source files: reads and writes, opened and changed files.

use super::{Rung, Source, Sums};
use crate::event::decode::files::activity_record;

/// Room for some 60,000 opened files with paths of ordinary length.
const RING_BYTES: u32 = 16 << 20;

/// The source.
pub static FILES: Source = Source {
    name: "files",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/files.bpf.o")),
    ring_bytes: RING_BYTES,
    rungs: &[
        Rung { hook: "tp_btf", programs: &["return_btf"], misses: MISSES },
        Rung { hook: "raw_tp", programs: &["return_raw"], misses: MISSES },
        Rung { hook: "tp", programs: &["return_tp"], misses: MISSES },
    ],
    sums: Some(Sums { maps: ["activity_0", "activity_1"], record: activity_record }),
};

/// What tracepoints on system calls cannot see.
const MISSES: &str =
    "mapped files; sendfile, splice and copy_file_range; recv and send; what io_uring does without a call";
