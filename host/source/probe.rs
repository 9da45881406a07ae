//! What this kernel grants to whole classes of hooks, and whether it interrupts their programs: found out by small programs
//! (`bpf/probe.bpf.c`), for loading a whole source for it takes long.

use std::fs;
use std::sync::OnceLock;

use libbpf_rs::{MapCore, MapFlags};

use super::load::load_rung;
use super::{Narrowing, Refusal, Rung, Source};
use crate::event::KindSet;

/// As in bpf/probe.bpf.c.
const RUNS_FORBIDDEN: u32 = 0;
const RUNS_ALLOWED: u32 = 1;

/// The hook that forbids its CPU to run anything else meanwhile, on every kernel.
pub const NEVER_INTERRUPTED: &str = "tp";

static PROBE: Source = Source {
    name: "probe",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/probe.bpf.o")),
    ring_bytes: 1 << 12,
    floods: false,
    rungs: &[
        Rung { hook: "fentry", programs: &["probe_fentry"], misses: "" },
        Rung { hook: "kprobe", programs: &["probe_kprobe"], misses: "" },
    ],
    partial: &[],
    sums: None,
};

/// What came of them: they are tried once.
static PROBED: [OnceLock<Result<(), Refusal>>; 2] = [const { OnceLock::new() }; 2];

/// Whether this kernel grants such hooks at all.
pub fn granted(hook: &'static str) -> Result<(), Refusal> {
    match PROBE.rungs.iter().zip(&PROBED).find(|(rung, _)| rung.hook == hook) {
        Some((rung, probed)) => {
            probed.get_or_init(|| load_rung(&PROBE, rung, KindSet::default(), &Narrowing::default()).map(drop)).clone()
        }
        None => Ok(()),
    }
}

/// Whether this kernel may let other threads run in the middle of a hook's programs. As long as one of them waits to go on, its
/// program is left out for all other threads of that CPU.
pub fn is_interrupted(hook: &str) -> bool {
    static TRACEPOINTS: OnceLock<bool> = OnceLock::new();
    match hook {
        "fentry" => preempts(),
        "tp_btf" | "raw_tp" => preempts() && *TRACEPOINTS.get_or_init(tracepoints_are_interrupted),
        _ => false,
    }
}

/// Whether this kernel takes the CPU from threads that are within it. Where it does not say so (it can be changed while it
/// runs), it may.
fn preempts() -> bool {
    static PREEMPTS: OnceLock<bool> = OnceLock::new();
    *PREEMPTS.get_or_init(|| match fs::read_to_string("/sys/kernel/debug/sched/preempt") {
        Ok(modes) => modes.contains("(full)") || modes.contains("(lazy)"),
        Err(_) => fs::read_to_string("/proc/version").is_ok_and(|version| version.contains("PREEMPT")),
    })
}

/// From Linux 7 on, programs on tracepoints run without forbidding preemption.
fn tracepoints_are_interrupted() -> bool {
    let rung = Rung { hook: "raw_tp", programs: &["probe_raw_tp"], misses: "" };
    let Ok(loaded) = load_rung(&PROBE, &rung, KindSet::default(), &Narrowing::default()) else { return false };
    _ = fs::metadata("/"); // A system call.
    let Some(map) = loaded.object.maps().find(|map| map.name() == "preempted_runs") else { return false };
    let runs = |key: u32| {
        let value = map.lookup(&key.to_ne_bytes(), MapFlags::ANY).ok().flatten();
        value.is_some_and(|value| value.iter().any(|byte| *byte != 0))
    };
    runs(RUNS_ALLOWED) && !runs(RUNS_FORBIDDEN)
}
