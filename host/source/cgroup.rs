//! Source cgroup: control groups made and removed, and those that there are.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::{fmt, fs};

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};

use super::{Rung, Source};
use crate::broker::{self, Answer};
use crate::event::layout::c;
use crate::wit::container_registry::Cgroup;

/// Room for some 5,000 events.
const RING_BYTES: u32 = 1 << 20;

/// The source.
pub static CGROUP: Source = Source {
    name: "cgroup",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/cgroup.bpf.o")),
    ring_bytes: RING_BYTES,
    floods: false,
    rungs: &[
        Rung { hook: "tp_btf", programs: &["created_btf", "removed_btf"], misses: "" },
        Rung { hook: "raw_tp", programs: &["created_raw", "removed_raw"], misses: "" },
        Rung { hook: "tp", programs: &["created_tp", "removed_tp"], misses: "" },
    ],
    partial: &[],
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

/// The same of some.
pub fn cgroup_ids(names: &[String]) -> Result<Vec<u64>> {
    names.iter().map(|name| cgroup_id(name)).collect()
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

/// The cgroups that a run narrowed to containers knows, and whether each is of a container wanted. They come and go while it
/// runs, and every source that is attached learns of it at once. Until then their events leave the kernel.
#[derive(Clone, Default)]
pub struct JudgedCgroups(Arc<Mutex<Judged>>);

#[derive(Default)]
struct Judged {
    wanted: HashMap<u64, bool>,
    maps: BTreeMap<&'static str, MapHandle>,
    warned: bool,
}

fn verdict(wanted: bool) -> [u8; 1] {
    let verdict = if wanted { c::cgroup_verdict::CGROUP_WANTED } else { c::cgroup_verdict::CGROUP_UNWANTED };
    [u8::try_from(verdict.0).expect("it is 0 or 1")]
}

impl JudgedCgroups {
    /// Says whether the events of a cgroup, and of those below it, are wanted; none when it is gone.
    fn set(&self, id: u64, wanted: Option<bool>) {
        let mut inner = self.0.lock().expect("no thread panics while it holds this");
        let Judged { wanted: all, maps, warned } = &mut *inner;
        match wanted {
            Some(wanted) => _ = all.insert(id, wanted),
            None => _ = all.remove(&id),
        }
        for (source, map) in maps {
            let done = match wanted {
                Some(wanted) => map.update(&id.to_ne_bytes(), &verdict(wanted), MapFlags::ANY),
                // It may never have been there, for want of room.
                None => map.delete(&id.to_ne_bytes()).or(Ok(())),
            };
            if let Err(error) = done
                && !std::mem::replace(warned, true)
            {
                log::warn!(
                    "source {source} cannot learn of more cgroups ({error}); the host narrows its events instead"
                );
            }
        }
    }

    /// Takes in what whoever knows the containers tells: pairs of a cgroup's id and a verdict, as of `set`.
    pub fn serve(&self, stream: &UnixStream) {
        broker::serve(stream, |(id, wanted), _| {
            self.set(id, wanted);
            Answer::of(())
        });
    }

    /// A source has been attached.
    pub(super) fn join(&self, source: &'static str, object: &Object) {
        let Some(map) = object.maps().find(|map| map.name() == "only_cgroups") else { return };
        let mut inner = self.0.lock().expect("no thread panics while it holds this");
        for (id, wanted) in &inner.wanted {
            if map.update(&id.to_ne_bytes(), &verdict(*wanted), MapFlags::ANY).is_err() {
                break; // No room: the host narrows the rest.
            }
        }
        match MapHandle::try_from(&map) {
            Ok(map) => _ = inner.maps.insert(source, map),
            Err(error) => log::error!("source {source} cannot be told of containers: {error}"),
        }
    }

    /// A source has been detached.
    pub(super) fn leave(&self, source: &str) {
        self.0.lock().expect("no thread panics while it holds this").maps.remove(source);
    }
}

impl fmt::Debug for JudgedCgroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0.lock().expect("no thread panics while it holds this").wanted).finish()
    }
}
