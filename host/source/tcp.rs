//! Source tcp: connections made, accepted and ended.

use super::{Rung, Source};
use crate::event::{Kind, KindSet};

/// Room for some 20,000 events.
const RING_BYTES: u32 = 4 << 20;

/// The source.
pub static TCP: Source = Source {
    name: "tcp",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/tcp.bpf.o")),
    ring_bytes: RING_BYTES,
    floods: false,
    rungs: &[
        Rung {
            hook: "fentry",
            programs: &[
                "connect4_enter",
                "connect4_exit",
                "connect6_enter",
                "connect6_exit",
                "accepted_enter",
                "state_btf",
            ],
            misses: OLDER,
        },
        Rung {
            hook: "kprobe",
            programs: &[
                "connect4_kprobe",
                "connect4_kretprobe",
                "connect6_kprobe",
                "connect6_kretprobe",
                "accepted_kprobe",
                "state_raw",
            ],
            misses: OLDER,
        },
        Rung { hook: "tp_btf", programs: &["state_btf", "return_btf"], misses: MISSES },
        Rung { hook: "raw_tp", programs: &["state_raw", "return_raw"], misses: MISSES },
        Rung { hook: "tp", programs: &["state_tp", "return_tp"], misses: MISSES },
    ],
    partial: &[("return_btf", ACCEPTS), ("return_raw", ACCEPTS), ("return_tp", ACCEPTS)],
    sums: None,
};

/// What is learnt of connections accepted from the return of the calls.
const ACCEPTS: KindSet = KindSet::of(&[Kind::TcpAccept]);

/// What nothing can see that comes later.
const OLDER: &str = "connections older than the host";

/// What tracepoints on sockets' states and on the accept calls cannot see.
const MISSES: &str = "connections older than the host; connects refused before a packet is sent; accepts by io_uring";
