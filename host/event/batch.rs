//! Batches of events in time order, runs of one kind within them, and what filters keep.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::layout::c::{syscall_flat, syscall_return_flat};
use super::{CallSet, Columns, Held, Kind, KindSet, Record, flat};
use crate::wit::syscall::SyscallCount;

/// Consecutive events of one kind: rows `start..end` of the kind's column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The kind.
    pub kind: Kind,
    /// The first row.
    pub start: u32,
    /// The row behind the last.
    pub end: u32,
}

/// Events in time order. Shared by all plugins, never changed.
#[derive(Debug, Default)]
pub struct Batch {
    /// The events by kind.
    pub columns: Columns,
    /// Their order across kinds: maximal runs of one kind, by time.
    pub runs: Vec<Run>,
    /// The memory that all of it takes, in bytes.
    pub memory: usize,
    /// That memory, where it is counted.
    pub held: Held,
}

impl Batch {
    /// Takes the events before `until` (nanoseconds since the epoch) out of `pending`, in time order. What is later
    /// stays there.
    pub fn cut(pending: &mut Columns, until: u64) -> Batch {
        pending.sort();
        let rest = pending.split_off(until);
        Batch::of(std::mem::replace(pending, rest))
    }

    /// One of sorted columns.
    fn of(columns: Columns) -> Batch {
        let runs = merge(&columns);
        let events: usize = Kind::ALL.iter().map(|kind| columns.bytes(*kind)).sum();
        let memory = events + size_of::<Batch>() + size_of_val(runs.as_slice());
        Batch { columns, runs, memory, held: Held::default() }
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|run| (run.end - run.start) as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The memory that some of a kind's events take, in bytes.
    pub fn memory_of(&self, kind: Kind, events: usize) -> usize {
        self.columns.bytes(kind) * events / self.columns.count(kind).max(1)
    }

    /// A copy of some of its events: those kept of these kinds.
    pub fn part(&self, keep: &Keep, kinds: KindSet) -> Batch {
        let mut columns = Columns::default();
        for kind in kinds.iter() {
            let rows: Vec<u32> = (0..self.columns.count(kind) as u32).filter(|row| keep.keeps(kind, *row)).collect();
            columns.copy(&self.columns, kind, &rows);
        }
        let part = Batch::of(columns);
        Batch { held: self.held.of_part(part.memory), ..part }
    }

    /// When the last event happened.
    pub fn last_time(&self) -> Option<u64> {
        let last = self.runs.last()?;
        self.columns.time(last.kind, last.end as usize - 1)
    }
}

/// Some of a batch's events: rows, ascending, by kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picked(Vec<(Kind, Vec<u32>)>);

impl Picked {
    /// Adds rows. Those of one kind come one after the other, ascending.
    pub fn add(&mut self, kind: Kind, rows: Range<u32>) {
        match self.0.last_mut() {
            Some((last, all)) if *last == kind => all.extend(rows),
            _ => self.0.push((kind, rows.collect())),
        }
    }

    /// The rows of a kind.
    pub fn rows(&self, kind: Kind) -> &[u32] {
        self.0.iter().find(|(other, _)| *other == kind).map_or(&[], |(_, rows)| rows)
    }

    /// All of these kinds.
    pub fn iter(&self, kinds: KindSet) -> impl Iterator<Item = (Kind, &[u32])> {
        self.0.iter().filter(move |(kind, _)| kinds.has(*kind)).map(|(kind, rows)| (*kind, rows.as_slice()))
    }
}

/// Which events of a batch the filters so far have kept. A kind without an entry is kept whole.
#[derive(Clone, Debug, Default)]
pub struct Keep(BTreeMap<Kind, Vec<bool>>);

impl Keep {
    /// Drops, of the rows given, those whose answer is false.
    pub fn drop_rows(&mut self, rows: &Rows, answers: &[bool]) {
        let count = rows.batch.columns.count(rows.kind);
        let keep = self.0.entry(rows.kind).or_insert_with(|| vec![true; count]);
        for (row, kept) in rows.iter().zip(answers) {
            keep[row as usize] &= kept;
        }
    }

    /// Drops all events of a kind.
    pub fn drop_kind(&mut self, batch: &Batch, kind: Kind) {
        self.0.insert(kind, vec![false; batch.columns.count(kind)]);
    }

    /// Drops the events of one kind for which the test does not hold.
    fn retain<R: Record>(&mut self, batch: &Batch, test: impl Fn(&R) -> bool) {
        let column = R::column(&batch.columns);
        if column.iter().all(&test) {
            return;
        }
        let keep = self.0.entry(R::KIND).or_insert_with(|| vec![true; column.len()]);
        keep.iter_mut().zip(column).for_each(|(kept, row)| *kept &= test(row));
    }

    /// Drops the events that are about other system calls than these.
    pub fn select_calls(&mut self, batch: &Batch, calls: &CallSet) {
        self.retain(batch, |call: &syscall_flat| calls.has(flat::abi(call.abi), call.number));
        self.retain(batch, |call: &syscall_return_flat| calls.has(flat::abi(call.abi), call.number));
        self.retain(batch, |call: &SyscallCount| calls.has(call.abi, call.number));
    }

    /// Whether an event is kept.
    pub fn keeps(&self, kind: Kind, row: u32) -> bool {
        self.0.get(&kind).is_none_or(|keep| keep[row as usize])
    }

    /// The same with no other events of these kinds than those picked.
    #[must_use]
    pub fn within(&self, batch: &Batch, kinds: KindSet, picked: &Picked) -> Keep {
        let mut within = self.clone();
        for kind in kinds.iter() {
            within.drop_kind(batch, kind);
            let Some(keep) = within.0.get_mut(&kind) else { continue };
            picked.rows(kind).iter().for_each(|row| keep[*row as usize] = self.keeps(kind, *row));
        }
        within
    }

    /// Drops, of the events picked, those that `other` does not keep.
    pub fn drop_picked(&mut self, batch: &Arc<Batch>, kinds: KindSet, picked: &Picked, other: &Keep) {
        for (kind, rows) in picked.iter(kinds) {
            let answers: Vec<bool> = rows.iter().map(|row| other.keeps(kind, *row)).collect();
            self.drop_rows(&Rows { batch: batch.clone(), kind, pick: Pick::Each(rows.to_vec()) }, &answers);
        }
    }

    /// How many of a kind's events in a batch are kept.
    pub fn count(&self, batch: &Batch, kind: Kind) -> usize {
        match self.0.get(&kind) {
            None => batch.columns.count(kind),
            Some(keep) => keep.iter().filter(|kept| **kept).count(),
        }
    }

    fn pick(&self, kind: Kind, range: Range<u32>) -> Pick {
        match self.0.get(&kind) {
            Some(keep) if keep[range.start as usize..range.end as usize].contains(&false) => {
                Pick::Each(range.filter(|row| keep[*row as usize]).collect())
            }
            _ => Pick::Range(range),
        }
    }
}

/// Rows of a kind's column.
#[derive(Clone, Debug, PartialEq)]
pub enum Pick {
    /// Consecutive ones.
    Range(Range<u32>),
    /// Single ones, ascending.
    Each(Vec<u32>),
}

impl Pick {
    fn len(&self) -> usize {
        match self {
            Pick::Range(range) => range.len(),
            Pick::Each(rows) => rows.len(),
        }
    }
}

/// Consecutive events of one kind that a plugin gets in one call.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The batch that holds them.
    pub batch: Arc<Batch>,
    /// Their kind.
    pub kind: Kind,
    /// Which of the kind's events.
    pub pick: Pick,
}

impl Rows {
    /// How many events.
    pub fn len(&self) -> usize {
        self.pick.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows' numbers, ascending.
    pub fn iter(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match &self.pick {
            Pick::Range(range) => Box::new(range.clone()),
            Pick::Each(rows) => Box::new(rows.iter().copied()),
        }
    }

    /// The same rows in pieces of at most `most`. A batch that all plugins share is counted by all of their threads: nothing is
    /// cloned where one piece is enough.
    pub fn pieces(self, most: u32) -> impl Iterator<Item = Rows> {
        let (length, most) = (self.len(), most as usize);
        let (mut whole, mut from) = (Some(self), 0);
        std::iter::from_fn(move || {
            let to = length.min(from + most);
            if (from, to) == (0, length) {
                return whole.take();
            }
            let Rows { batch, kind, pick } = whole.as_ref()?;
            let pick = match pick {
                Pick::Range(range) => Pick::Range(range.start + from as u32..range.start + to as u32),
                Pick::Each(rows) => Pick::Each(rows[from..to].to_vec()),
            };
            from = to;
            (pick.len() > 0).then(|| Rows { batch: batch.clone(), kind: *kind, pick })
        })
    }
}

/// What one plugin gets of a batch: the kept events of the kinds it wants, as maximal runs of one kind in time order.
pub fn runs_for(batch: &Arc<Batch>, keep: &Keep, wanted: KindSet) -> Vec<Rows> {
    let mut runs: Vec<Run> = Vec::new();
    for run in batch.runs.iter().filter(|run| wanted.has(run.kind)) {
        match runs.last_mut() {
            Some(last) if last.kind == run.kind => last.end = run.end,
            _ => runs.push(*run),
        }
    }
    let rows = runs.into_iter().map(|run| Rows {
        batch: batch.clone(),
        kind: run.kind,
        pick: keep.pick(run.kind, run.start..run.end),
    });
    let mut kept: Vec<Rows> = Vec::new();
    for rows in rows.filter(|rows| !rows.is_empty()) {
        match kept.last_mut() {
            Some(last) if last.kind == rows.kind => {
                let joined = last.iter().chain(rows.iter()).collect();
                last.pick = Pick::Each(joined);
            }
            _ => kept.push(rows),
        }
    }
    kept
}

/// Merges sorted columns by time. Of events with the same time the kind that stands first in the table comes first.
fn merge(columns: &Columns) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut heads: Vec<(u64, Kind, u32)> =
        Kind::ALL.iter().filter_map(|kind| Some((columns.time(*kind, 0)?, *kind, 0))).collect();
    while let Some(&(_, kind, start)) = heads.iter().min() {
        let next_other = heads.iter().filter(|head| head.1 != kind).min().map(|head| (head.0, head.1));
        let end = match next_other {
            None => columns.count(kind),
            Some(other) => columns.row_of(kind, start as usize, other),
        };
        runs.push(Run { kind, start, end: end as u32 });
        heads.retain(|head| head.1 != kind);
        heads.extend(columns.time(kind, end).map(|at| (at, kind, end as u32)));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::decode;
    use crate::wit;

    fn fork(time: u64) -> wit::process::Fork {
        wit::process::Fork { time, task: decode::tests::task(), child_pid: time as u32 }
    }

    fn alert(time: u64) -> wit::alerts::RaisedAlert {
        let severity = wit::alerts::Severity::Low;
        let (rule, message) = (String::new(), String::new());
        let alert = wit::alerts::Alert { time, severity, rule, message, task: None, fields: vec![] };
        wit::alerts::RaisedAlert { time, plugin: "p".into(), alert }
    }

    #[test]
    fn a_batch_is_in_time_order_across_kinds_and_leaves_what_is_later() {
        let mut pending = Columns {
            fork: [5, 1, 2, 9, 3].map(fork).to_vec(),
            alert: [4, 8, 2].map(alert).to_vec(),
            ..Default::default()
        };
        let batch = Batch::cut(&mut pending, 8);
        let runs: Vec<_> = batch.runs.iter().map(|run| (run.kind, run.start, run.end)).collect();
        // fork 1 2 | alert 2 | fork 3 | alert 4 | fork 5: of equal times fork, first in the table, comes first.
        use Kind::{Alert, Fork};
        assert_eq!(runs, [(Fork, 0, 2), (Alert, 0, 1), (Fork, 2, 3), (Alert, 1, 2), (Fork, 3, 4)]);
        assert_eq!(batch.len(), 6);
        assert_eq!((pending.fork.len(), pending.alert.len()), (1, 1));
        let rest = Batch::cut(&mut pending, u64::MAX);
        assert_eq!((rest.columns.alert[0].time, rest.columns.fork[0].time), (8, 9));
    }

    #[test]
    fn a_plugin_gets_maximal_runs_of_what_it_wants_and_filters_kept() {
        let mut pending = Columns {
            fork: [1, 2, 4, 6].map(fork).to_vec(),
            alert: [3, 5, 7].map(alert).to_vec(),
            ..Default::default()
        };
        let batch = Arc::new(Batch::cut(&mut pending, u64::MAX));
        let only_forks = runs_for(&batch, &Keep::default(), [Kind::Fork].into_iter().collect());
        assert_eq!(only_forks.iter().map(|rows| rows.pick.clone()).collect::<Vec<_>>(), [Pick::Range(0..4)]);

        let mut keep = Keep::default();
        keep.drop_rows(&Rows { batch: batch.clone(), kind: Kind::Fork, pick: Pick::Range(1..3) }, &[true, false]);
        let all = runs_for(&batch, &keep, KindSet::all());
        let times: Vec<Vec<u32>> = all.iter().map(|rows| rows.iter().collect()).collect();
        // fork 1 2 | alert 3, fork 4 dropped, alert 5 | fork 6 | alert 7: the two alerts have become one run.
        assert_eq!(times, [vec![0, 1], vec![0, 1], vec![3], vec![2]]);
        assert_eq!(keep.count(&batch, Kind::Fork), 3);
        assert_eq!(only_forks[0].clone().pieces(3).map(|rows| rows.len()).collect::<Vec<_>>(), [3, 1]);
    }
}
