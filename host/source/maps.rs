//! The maps that the host and a source's programs share.

use std::collections::BTreeSet;

use libbpf_rs::{Map, MapCore, MapFlags, Object};

use super::{Source, Wanted, Whom};
use crate::event::CallSet;
use crate::event::layout::{bytes_of, c};

/// An object's map.
pub fn map<'a>(object: &'a Object, name: &str) -> Option<Map<'a>> {
    object.maps().find(|map| map.name() == name)
}

/// Tells programs something while they run.
pub fn control(object: &Object, key: c::control_key, value: u64) {
    let set = map(object, "control").map(|map| map.update(&key.0.to_ne_bytes(), &value.to_ne_bytes(), MapFlags::ANY));
    if let Some(Err(error)) = set {
        log::error!("a BPF program cannot be controlled: {error}");
    }
}

/// Tells programs that look at system calls which ones are wanted, as each of the source's kinds.
pub fn select_calls(object: &Object, source: &Source, wanted: &Wanted) {
    let Some(map) = map(object, "selected") else { return };
    let words = source.kinds().iter().flat_map(|kind| {
        let all = if wanted.kinds.has(kind) { CallSet::ALL } else { CallSet::default() };
        wanted.calls.get(&kind).unwrap_or(&all).words().collect::<Vec<_>>()
    });
    for (key, word) in (0u32..).zip(words) {
        if let Err(error) = map.update(&key.to_ne_bytes(), &word.to_ne_bytes(), MapFlags::ANY) {
            return log::error!("source {}: the system calls cannot be selected: {error}", source.name);
        }
    }
}

/// Tells programs whose events plugins want, where each plugin that wants some of the source's is narrowed.
pub fn narrow_to_plugins(object: &Object, source: &Source, whom: Option<&BTreeSet<Whom>>) {
    let Some(map) = map(object, "of_plugins") else { return };
    let keys: BTreeSet<Vec<u8>> = whom.into_iter().flatten().map(|whom| bytes_of(&key(whom)).to_vec()).collect();
    let narrowed_by = whom.into_iter().flatten().fold(0, |bits, whom| bits | 1 << key(whom).whose);
    // New ones first, so that nobody misses anything meanwhile.
    let filled = keys.iter().try_for_each(|key| map.update(key, &[1], MapFlags::ANY));
    if let Err(error) = &filled {
        log::warn!(
            "source {}: the kernel cannot hold all that plugins are narrowed to ({error}); the host narrows its events instead",
            source.name
        );
    }
    control(object, c::control_key::CONTROL_PLUGINS, if filled.is_ok() { narrowed_by } else { 0 });
    let old: Vec<Vec<u8>> = map.keys().filter(|key| !keys.contains(key)).collect();
    for key in old {
        if let Err(error) = map.delete(&key) {
            log::debug!("source {}: what a plugin was narrowed to stays in the kernel: {error}", source.name);
        }
    }
}

fn key(whom: &Whom) -> c::whose_key {
    let (whose, value) = match *whom {
        Whom::Pid(pid) => (c::whose::WHOSE_PID, [pid.into(), 0]),
        Whom::Cgroup(id) => (c::whose::WHOSE_CGROUP, [id, 0]),
        Whom::Uid(uid) => (c::whose::WHOSE_UID, [uid.into(), 0]),
        Whom::Comm(comm) => {
            let half = |at: usize| comm[at..at + 8].iter().rev().fold(0, |half, byte| half << 8 | u64::from(*byte));
            (c::whose::WHOSE_COMM, [half(0), half(8)])
        }
    };
    c::whose_key { value, whose: whose.0.into() }
}
