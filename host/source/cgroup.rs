//! Source cgroup: control groups made and removed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

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

/// The id of a cgroup, given as that or as its path in the unified tree, such as `/system.slice/nginx.service`.
pub fn cgroup_id(name: &str) -> Result<u64> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot find the tree of cgroups")?;
    let tree = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then_some(path)
    });
    let tree = tree.context("the unified tree of cgroups is not mounted: mount -t cgroup2 none /sys/fs/cgroup")?;
    let path = Path::new(tree).join(name.trim_start_matches('/'));
    let metadata = fs::metadata(&path).with_context(|| {
        format!("there is no cgroup {name} ({}); /proc/PID/cgroup shows a process's", path.display())
    })?;
    Ok(metadata.ino())
}
