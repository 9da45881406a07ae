//! What a process may do.

use std::fmt;

use anyhow::{Context, Result};
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};
use serde::{Deserialize, Serialize};

use super::filter::Allowed;

/// What a process runs with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Power {
    uid: u32,
    capabilities: Vec<String>,
    calls: usize,
}

impl Power {
    /// That of this process, which has just given up the rest.
    pub(super) fn now(capabilities: Vec<String>, allowed: &[Allowed]) -> Self {
        Power { uid: geteuid().as_raw(), capabilities, calls: allowed.iter().map(Allowed::count).sum() }
    }
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capabilities = if self.capabilities.is_empty() { "none".to_owned() } else { self.capabilities.join(", ") };
        write!(f, "user {}; capabilities {capabilities}; {} system calls", self.uid, self.calls)
    }
}

/// The capabilities that this process has.
pub(super) fn had() -> Result<CapabilitySet> {
    Ok(capabilities(None).context("cannot see which capabilities this process has")?.permitted)
}

/// Keeps these of the capabilities that there are, and gives up all others, and for good. The names of those kept.
pub(super) fn keep(list: &[(CapabilitySet, &str)], had: CapabilitySet) -> Result<Vec<String>> {
    let mut kept = CapabilitySet::empty();
    list.iter().for_each(|(capability, _)| kept |= *capability);
    let kept = kept & had;
    // What no program started from here can have either; without CAP_SETPCAP no_new_privs must be enough. Beyond the last
    // capability there is none to remove.
    set_capabilities(None, CapabilitySets { effective: had, permitted: had, inheritable: CapabilitySet::empty() })
        .context("cannot use the capabilities that this process has")?;
    for bit in (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        if !kept.contains(bit) && had.contains(CapabilitySet::SETPCAP) {
            _ = remove_capability_from_bounding_set(bit);
        }
    }
    _ = clear_ambient_capability_set();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })
        .context("cannot give up capabilities")?;
    set_no_new_privs(true).context("cannot give up new privileges")?;
    Ok(list.iter().filter(|(capability, _)| kept.contains(*capability)).map(|(_, name)| (*name).to_owned()).collect())
}
