//! The host once it is to run plugins: it reads what the kernel shares with it, and files. All else is done by the broker.

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, geteuid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, Gid, Uid, set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::calls::{FILES, MEMORY, NEW_THREADS, OPEN, OPENAT, SOCKETS, STREAMS, THREADS};
use super::filter::{Allowed, allow};
use super::power::{Power, had, keep};

/// The user that the host becomes, and its group. No system gives it to anybody: those of systemd's services end before it,
/// and 65,534 is nobody's, whom other programs may run as.
const USER: u32 = 65_520;

/// To read plugins, and folders granted to them, that belong to others.
const KEPT: &[(CapabilitySet, &str)] = &[(CapabilitySet::DAC_READ_SEARCH, "dac_read_search")];

/// What it calls. Everything else does not exist for it: BPF, other programs, signals to others, mounting, modules, tracing
/// processes, other users, namespaces, clocks, keys, io_uring, changing folders...
const ALLOWED: &[Allowed] = &[MEMORY, THREADS, STREAMS, FILES, OPEN, OPENAT, SOCKETS, NEW_THREADS];

/// Gives up all that running plugins does not need. For a process with one thread: those that it starts have what it has.
pub fn host() -> Result<Power> {
    let had = had()?;
    set_keep_capabilities(true).context("cannot keep a capability")?;
    if geteuid().is_root() && had.contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
        become_another()?;
    }
    let capabilities = keep(KEPT, had)?;
    // The user's other processes, should there be any, have no business here.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot keep others from looking in")?;
    allow(ALLOWED)?;
    Ok(Power::now(capabilities, ALLOWED))
}

fn become_another() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
    let done = set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| set_thread_res_uid(uid, uid, uid));
    match done {
        // A user namespace that does not have it: its root is nobody outside.
        Err(Errno::INVAL) => log::warn!("there is no user {USER} in this user namespace, so the host stays root of it"),
        done => done.with_context(|| format!("cannot become user {USER}"))?,
    }
    Ok(())
}
