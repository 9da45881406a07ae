//! Narrowing in the host, for what is not narrowed in the kernel: events about cgroups, of which whoever finds out about
//! containers needs to see all, and those of cgroups so new that nobody knew whether they are of a container wanted.

use std::sync::Arc;

use super::Containers;
use crate::event::{Batch, Keep, Kind, KindSet, Pick, Record, Rows, Visitor};
use crate::wit::types::Task;

/// The kinds that tell of cgroups.
pub const CGROUP_KINDS: KindSet = KindSet::of(&[Kind::CgroupCreated, Kind::CgroupRemoved]);

/// What a run, or a plugin, is narrowed to. An empty list means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Only {
    /// Processes.
    pub pids: Vec<u32>,
    /// Threads' names.
    pub comms: Vec<String>,
    /// Real user ids.
    pub uids: Vec<u32>,
    /// Cgroups, with what is below them.
    pub cgroups: Vec<u64>,
    /// The containers that are watched, besides the cgroups.
    pub containers: bool,
}

/// What is asked first of an event's origin.
pub enum First<'a> {
    /// Its process.
    Pids(&'a [u32]),
    /// Its cgroup.
    Cgroups(&'a [u64]),
    /// Its thread's name.
    Comms(&'a [String]),
    /// Its user.
    Uids(&'a [u32]),
}

impl Only {
    /// Drops the events that nobody asked for.
    pub(super) fn narrow(&self, batch: &Arc<Batch>, keep: Arc<Keep>, containers: &Containers) -> Arc<Keep> {
        let present: KindSet = batch.runs.iter().map(|run| run.kind).collect();
        let about_cgroups = CGROUP_KINDS.and(present);
        if self.is_all() || (about_cgroups.is_empty() && !self.containers) {
            return keep;
        }
        let mut narrowed = (*keep).clone();
        let mut apply = |kind, answers: Vec<bool>| {
            let end = u32::try_from(answers.len()).unwrap_or(u32::MAX);
            narrowed.drop_rows(&Rows { batch: batch.clone(), kind, pick: Pick::Range(0..end) }, &answers);
        };
        let columns = &batch.columns;
        let is_kept = |task: &Task, id: u64| self.is_of(task) && self.is_in(&[id, task.cgroup], containers);
        let created = columns.cgroup_created.iter().map(|event| is_kept(&event.task, event.id));
        apply(Kind::CgroupCreated, created.collect());
        let removed = columns.cgroup_removed.iter().map(|event| is_kept(&event.task, event.id));
        apply(Kind::CgroupRemoved, removed.collect());
        if self.containers {
            // The kernel has narrowed these by everything else.
            for kind in present.iter().filter(|kind| !CGROUP_KINDS.has(*kind)) {
                apply(kind, kind.visit(InWanted { only: self, batch, containers }));
            }
        }
        Arc::new(narrowed)
    }

    /// Whether it leaves nothing out.
    pub fn is_all(&self) -> bool {
        self.pids.is_empty() && self.comms.is_empty() && self.uids.is_empty() && self.is_everywhere()
    }

    /// The first that it has any of: an event of nobody among these is not wanted. None where it leaves nothing out.
    pub fn first(&self) -> First<'_> {
        match self {
            _ if !self.pids.is_empty() => First::Pids(&self.pids),
            _ if !self.cgroups.is_empty() => First::Cgroups(&self.cgroups),
            _ if !self.comms.is_empty() => First::Comms(&self.comms),
            _ => First::Uids(&self.uids),
        }
    }

    fn is_everywhere(&self) -> bool {
        self.cgroups.is_empty() && !self.containers
    }

    fn is_of(&self, task: &Task) -> bool {
        (self.pids.is_empty() || self.pids.contains(&task.pid))
            && (self.comms.is_empty() || self.comms.contains(&task.comm))
            && (self.uids.is_empty() || self.uids.contains(&task.uid))
    }

    fn is_in(&self, places: &[u64], containers: &Containers) -> bool {
        self.is_everywhere()
            || places
                .iter()
                .any(|id| containers.is_below(*id, &self.cgroups) || (self.containers && containers.is_watched(*id)))
    }
}

/// Which events of a kind happened in a cgroup or container wanted.
struct InWanted<'a> {
    only: &'a Only,
    batch: &'a Batch,
    containers: &'a Containers,
}

impl Visitor for InWanted<'_> {
    type Output = Vec<bool>;

    fn visit<R: Record>(self) -> Vec<bool> {
        // Events of a cgroup come in rows.
        let mut last = (None, true);
        let is_in = |event: &R| {
            let cgroup = event.cgroup();
            if cgroup != last.0 {
                last = (cgroup, cgroup.is_none_or(|id| self.only.is_in(&[id], self.containers)));
            }
            last.1
        };
        R::column(&self.batch.columns).iter().map(is_in).collect()
    }
}
