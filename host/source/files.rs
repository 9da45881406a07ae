//! Source files: reads and writes, opened and changed files.

use super::{Rung, Source, Sums};
use crate::event::decode::files::activity_record;
use crate::event::{Kind, KindSet};

/// Room for some 60,000 opened files with paths of ordinary length.
const RING_BYTES: u32 = 16 << 20;

/// The source.
pub static FILES: Source = Source {
    name: "files",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/files.bpf.o")),
    ring_bytes: RING_BYTES,
    floods: true,
    rungs: &[
        Rung {
            hook: "fentry",
            programs: &["read_exit", "write_exit", "readv_exit", "writev_exit", "paths_btf"],
            misses: MISSES,
        },
        Rung { hook: "tp_btf", programs: &["return_btf"], misses: MISSES },
        Rung { hook: "raw_tp", programs: &["return_raw"], misses: MISSES },
        Rung { hook: "tp", programs: &["return_tp"], misses: MISSES },
    ],
    partial: &[("read_exit", IO), ("write_exit", IO), ("readv_exit", IO), ("writev_exit", IO), ("paths_btf", PATHS)],
    sums: Some(Sums { kind: Kind::FileActivity, maps: ["activity_0", "activity_1"], record: activity_record }),
};

/// Reads and writes.
const IO: KindSet = KindSet::of(&[Kind::FileActivity, Kind::FileIo]);

/// What is told with paths.
const PATHS: KindSet = KindSet::of(&[Kind::FileOpen, Kind::FileChange]);

/// What is not done by a call that reads or writes.
const MISSES: &str =
    "mapped files; sendfile, splice and copy_file_range; recv and send; what io_uring does without a call";
