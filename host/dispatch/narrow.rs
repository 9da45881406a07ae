//! Narrowing in the host, for events that are not narrowed in the kernel: those about cgroups, which whoever finds out
//! about containers needs to see all of.

use std::sync::Arc;

use super::Containers;
use crate::event::{Batch, Keep, Kind, KindSet, Pick, Rows};
use crate::wit::types::Task;

/// The kinds that tell of cgroups.
pub const CGROUP_KINDS: KindSet = KindSet::of(&[Kind::CgroupCreated, Kind::CgroupRemoved]);

/// What a run is narrowed to. An empty list means all.
#[derive(Clone, Debug, Default)]
pub struct Only {
    /// Processes.
    pub pids: Vec<u32>,
    /// Threads' names.
    pub comms: Vec<String>,
    /// Real user ids.
    pub uids: Vec<u32>,
    /// Cgroups, with what is below them.
    pub cgroups: Vec<u64>,
    /// The containers that are watched.
    pub containers: bool,
}

impl Only {
    /// Drops the events about cgroups that nobody asked for.
    pub(super) fn narrow(&self, batch: &Arc<Batch>, keep: Arc<Keep>, containers: &Containers) -> Arc<Keep> {
        let Only { pids, comms, uids, cgroups, containers: watches } = self;
        let columns = &batch.columns;
        let is_all = pids.is_empty() && comms.is_empty() && uids.is_empty() && cgroups.is_empty() && !watches;
        if is_all || (columns.cgroup_created.is_empty() && columns.cgroup_removed.is_empty()) {
            return keep;
        }
        let is_kept = |task: &Task, id: u64| {
            let places = [id, task.cgroup];
            (pids.is_empty() || pids.contains(&task.pid))
                && (comms.is_empty() || comms.contains(&task.comm))
                && (uids.is_empty() || uids.contains(&task.uid))
                && ((cgroups.is_empty() && !watches)
                    || places.iter().any(|id| containers.is_below(*id, cgroups))
                    || (*watches && places.iter().any(|id| containers.is_watched(*id))))
        };
        let mut narrowed = (*keep).clone();
        let mut apply = |kind, answers: Vec<bool>| {
            let end = u32::try_from(answers.len()).unwrap_or(u32::MAX);
            narrowed.drop_rows(&Rows { batch: batch.clone(), kind, pick: Pick::Range(0..end) }, &answers);
        };
        let created = columns.cgroup_created.iter().map(|event| is_kept(&event.task, event.id));
        apply(Kind::CgroupCreated, created.collect());
        let removed = columns.cgroup_removed.iter().map(|event| is_kept(&event.task, event.id));
        apply(Kind::CgroupRemoved, removed.collect());
        Arc::new(narrowed)
    }
}
