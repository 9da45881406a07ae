//! Which plugins get which events, where their settings narrow them: tables lead from a process, cgroup, name or user to the
//! plugins that want it. An event costs the same whether one plugin or a thousand want another's.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::{Containers, Filter, First, Member, Only};
use crate::event::{Batch, Comm, Kind, KindSet, Picked, Record, Visitor, Who, comm};

/// The plugins of a line that are narrowed, and where the others stand.
#[derive(Default)]
pub(super) struct Router {
    narrowed: Vec<Narrowed>,
    whole: Vec<usize>,
    wanted: KindSet,
    /// Of each plugin, the values of the first of these that it has any of.
    pids: HashMap<u32, Vec<usize>>,
    cgroups: HashMap<u64, Vec<usize>>,
    comms: HashMap<Comm, Vec<usize>>,
    uids: HashMap<u32, Vec<usize>>,
    /// Some plugin is narrowed to cgroups, so that an event's place matters.
    by_place: bool,
}

/// A plugin that is narrowed.
struct Narrowed {
    /// Its place in the line.
    at: usize,
    wanted: KindSet,
    only: Only,
    comms: Vec<Comm>,
}

impl Narrowed {
    fn takes(&self, kind: Kind, who: &Who, places: &[u64]) -> bool {
        let Only { pids, comms: _, uids, cgroups, containers: _ } = &self.only;
        self.wanted.has(kind)
            && (pids.is_empty() || pids.contains(&who.pid))
            && (uids.is_empty() || uids.contains(&who.uid))
            && (self.comms.is_empty() || self.comms.contains(&who.comm))
            && (cgroups.is_empty() || places.iter().any(|id| cgroups.contains(id)))
    }
}

fn enter<K: Hash + Eq>(table: &mut HashMap<K, Vec<usize>>, keys: impl Iterator<Item = K>, number: usize) {
    keys.for_each(|key| table.entry(key).or_default().push(number));
}

impl Router {
    /// The tables of a line. One who tells of containers gets all events, for others need what it makes of them.
    pub fn new(line: &[Member]) -> Self {
        let mut router = Router::default();
        for (at, member) in line.iter().enumerate() {
            let only = member.queue.only();
            if member.registers || only.is_all() {
                router.whole.push(at);
                continue;
            }
            let filters = member.filter.as_ref().map_or_else(KindSet::default, Filter::kinds);
            let wanted = member.queue.wanted().or(filters);
            let comms: Vec<Comm> = only.comms.iter().map(|name| comm(name)).collect();
            let number = router.narrowed.len();
            match only.first() {
                First::Pids(pids) => enter(&mut router.pids, pids.iter().copied(), number),
                First::Cgroups(ids) => enter(&mut router.cgroups, ids.iter().copied(), number),
                First::Comms(_) => enter(&mut router.comms, comms.iter().copied(), number),
                First::Uids(uids) => enter(&mut router.uids, uids.iter().copied(), number),
            }
            router.by_place |= !only.cgroups.is_empty();
            router.wanted = router.wanted.or(wanted);
            router.narrowed.push(Narrowed { at, wanted, only: only.clone(), comms });
        }
        router
    }

    /// The places in the line of those that are not narrowed.
    pub fn whole(&self) -> &[usize] {
        &self.whole
    }

    /// What each plugin that is narrowed gets of a batch, by its place in the line. Those that get nothing are not in it.
    pub fn route(&self, batch: &Batch, containers: &Containers) -> BTreeMap<usize, Picked> {
        let mut shares = HashMap::new();
        let present: KindSet = batch.runs.iter().map(|run| run.kind).collect();
        for kind in self.wanted.and(present).iter() {
            kind.visit(Share { router: self, batch, containers, shares: &mut shares });
        }
        shares.into_iter().map(|(number, picked)| (self.narrowed[number].at, picked)).collect()
    }

    /// The plugins that get an event.
    fn takers(&self, kind: Kind, who: Option<&Who>, containers: &Containers) -> Vec<usize> {
        let Some(who) = who else {
            // What is missing may be anybody's. An alert about no process is nobody's.
            let wants = |narrowed: &Narrowed| kind == Kind::Gap && narrowed.wanted.has(kind);
            return (0..self.narrowed.len()).filter(|number| wants(&self.narrowed[*number])).collect();
        };
        let mut places = Vec::new();
        if self.by_place {
            places = containers.upwards(who.cgroup);
            places.extend(who.about.map(|id| containers.upwards(id)).into_iter().flatten());
        }
        let found = [self.pids.get(&who.pid), self.comms.get(&who.comm), self.uids.get(&who.uid)].into_iter().flatten();
        let mut takers: Vec<usize> = found.flatten().copied().collect();
        takers.extend(places.iter().filter_map(|id| self.cgroups.get(id)).flatten());
        takers.sort_unstable();
        takers.dedup();
        takers.retain(|number| self.narrowed[*number].takes(kind, who, &places));
        takers
    }
}

/// Gives the events of one kind to the plugins that want them.
struct Share<'a> {
    router: &'a Router,
    batch: &'a Batch,
    containers: &'a Containers,
    shares: &'a mut HashMap<usize, Picked>,
}

impl Visitor for Share<'_> {
    type Output = ();

    fn visit<R: Record>(self) {
        let column = R::column(&self.batch.columns);
        let mut start = 0;
        // Events of one process come in rows.
        while let Some(who) = column.get(start).map(R::who) {
            let end = start + column[start..].iter().take_while(|event| event.who() == who).count();
            for number in self.router.takers(R::KIND, who.as_ref(), self.containers) {
                self.shares.entry(number).or_default().add(R::KIND, start as u32..end as u32);
            }
            start = end;
        }
    }
}

#[cfg(test)]
mod tests;
