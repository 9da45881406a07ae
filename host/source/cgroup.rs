//! Source cgroup: control groups made and removed, and those that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::{fmt, fs};

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};

use super::{Rung, Source};
use crate::wit::container_registry::Cgroup;

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

/// The most cgroups of a walk; a busy machine has some hundreds.
const MAX_CGROUPS: usize = 65_536;

/// The id of a cgroup, given as that or as its path in the unified tree, such as `/system.slice/nginx.service`.
pub fn cgroup_id(name: &str) -> Result<u64> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let path = unified_tree()?.join(name.trim_start_matches('/'));
    let metadata = fs::metadata(&path).with_context(|| {
        format!("there is no cgroup {name} ({}); /proc/PID/cgroup shows a process's", path.display())
    })?;
    Ok(metadata.ino())
}

/// Where the unified tree is mounted: by itself, or beside the v1 trees.
fn unified_tree() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot find the tree of cgroups")?;
    let tree = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then_some(path)
    });
    let tree = tree.context("the unified tree of cgroups is not mounted: mount -t cgroup2 none /sys/fs/cgroup")?;
    Ok(PathBuf::from(tree))
}

/// The cgroups of the unified tree, each behind the one above it.
pub fn existing_cgroups() -> Vec<Cgroup> {
    let tree = match unified_tree() {
        Ok(tree) => tree,
        Err(error) => {
            log::warn!("which cgroups there are already is not known: {error:#}");
            return Vec::new();
        }
    };
    let mut found: Vec<Cgroup> = Vec::new();
    let mut folders = vec![(tree, String::new())];
    while let Some((folder, path)) = folders.pop()
        && found.len() < MAX_CGROUPS
    {
        let Ok(metadata) = fs::metadata(&folder) else { continue }; // Gone in the meantime.
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(below.map(|entry| (entry.path(), format!("{path}/{}", entry.file_name().to_string_lossy()))));
        found.push(Cgroup { id: metadata.ino(), path: if path.is_empty() { "/".to_owned() } else { path } });
    }
    found
}

/// The cgroup in the unified tree that a process is in now.
pub fn cgroup_of(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // Outside of the host's own cgroup namespace, or removed.
    if path.split('/').any(|part| part == "..") || path.ends_with(" (deleted)") {
        return None;
    }
    Some(fs::metadata(unified_tree().ok()?.join(path)).ok()?.ino())
}

/// The cgroups of containers that a run is narrowed to. They come and go while it runs, and every source that is attached
/// learns of it at once.
#[derive(Clone, Default)]
pub struct WatchedCgroups(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    ids: BTreeSet<u64>,
    maps: BTreeMap<&'static str, MapHandle>,
}

impl WatchedCgroups {
    /// Lets a cgroup's events, and those of cgroups below it, leave the kernel, or no longer.
    pub fn set(&self, id: u64, watched: bool) {
        let mut inner = self.0.lock().expect("no thread panics while it holds this");
        if watched {
            inner.ids.insert(id);
        } else {
            inner.ids.remove(&id);
        }
        for (source, map) in &inner.maps {
            let done = match watched {
                true => map.update(&id.to_ne_bytes(), &[1], MapFlags::ANY),
                false => map.delete(&id.to_ne_bytes()),
            };
            if let Err(error) = done {
                log::error!("source {source} cannot be told that cgroup {id} is that of a container wanted: {error}");
            }
        }
    }

    /// A source has been attached.
    pub(super) fn join(&self, source: &'static str, object: &Object) {
        let Some(map) = object.maps().find(|map| map.name() == "only_cgroups") else { return };
        let mut inner = self.0.lock().expect("no thread panics while it holds this");
        let filled = inner.ids.iter().try_for_each(|id| map.update(&id.to_ne_bytes(), &[1], MapFlags::ANY));
        match filled.and_then(|()| MapHandle::try_from(&map)) {
            Ok(map) => _ = inner.maps.insert(source, map),
            Err(error) => log::error!("source {source} cannot be told of containers: {error}"),
        }
    }

    /// A source has been detached.
    pub(super) fn leave(&self, source: &'static str) {
        self.0.lock().expect("no thread panics while it holds this").maps.remove(source);
    }
}

impl fmt::Debug for WatchedCgroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.0.lock().expect("no thread panics while it holds this").ids).finish()
    }
}
