//! The maps that the host and a source's programs share.

use libbpf_rs::{Map, MapCore, MapFlags, Object};

use super::{Source, Wanted};
use crate::event::CallSet;
use crate::event::layout::c;

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
