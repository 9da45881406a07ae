//! A narrowed plugin's share of a batch, and who was offered what.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Delivery, Queue};
use crate::event::{Batch, Columns, Keep, Kind, KindSet, Picked};

/// Puts a plugin's share of a batch into its queue: the batch that all have, where it is the plugin's as a whole, and copies
/// else, or a slow plugin with an event of each batch would keep all batches in memory.
pub(super) fn push(queue: &Queue, batch: &Arc<Batch>, keep: &Arc<Keep>, picked: &Picked) {
    let wanted = queue.wanted();
    if wanted.iter().all(|kind| picked.rows(kind).len() == batch.columns.count(kind)) {
        return queue.push(Delivery { batch: batch.clone(), keep: keep.clone() });
    }
    let mut own = Columns::default();
    let mut events = 0;
    for (kind, rows) in picked.iter(wanted) {
        let kept: Vec<u32> = rows.iter().copied().filter(|row| keep.keeps(kind, *row)).collect();
        if kept.len() < rows.len() {
            queue.pass_over(kind, (rows.len() - kept.len()) as u64);
        }
        events += kept.len();
        own.copy(&batch.columns, kind, &kept);
    }
    if events > 0 {
        let batch = Arc::new(Batch::cut(&mut own, u64::MAX));
        queue.push(Delivery { batch, keep: Arc::default() });
    }
}

/// Which of a batch's events some plugin was offered.
#[derive(Default)]
pub(super) struct Offered(BTreeMap<Kind, Offer>);

enum Offer {
    /// These, to plugins that are narrowed.
    Rows(Vec<bool>),
    /// So many, all that filters had kept among them: whoever comes later is offered no other.
    All(u64),
}

impl Offered {
    /// To a plugin that is not narrowed.
    pub fn whole(&mut self, batch: &Batch, keep: &Keep, kinds: KindSet) {
        for kind in kinds.iter() {
            let earlier = match self.0.get(&kind) {
                Some(Offer::All(_)) => continue,
                Some(Offer::Rows(rows)) => {
                    (0..).zip(rows).filter(|(row, offered)| **offered && !keep.keeps(kind, *row)).count()
                }
                None => 0,
            };
            self.0.insert(kind, Offer::All((earlier + keep.count(batch, kind)) as u64));
        }
    }

    /// To one that is.
    pub fn share(&mut self, batch: &Batch, keep: &Keep, kinds: KindSet, picked: &Picked) {
        for (kind, rows) in picked.iter(kinds) {
            let none = || Offer::Rows(vec![false; batch.columns.count(kind)]);
            if let Offer::Rows(offered) = self.0.entry(kind).or_insert_with(none) {
                rows.iter().for_each(|row| offered[*row as usize] |= keep.keeps(kind, *row));
            }
        }
    }

    /// How many of a kind.
    pub fn count(&self, kind: Kind) -> u64 {
        match self.0.get(&kind) {
            Some(Offer::All(count)) => *count,
            Some(Offer::Rows(rows)) => rows.iter().filter(|offered| **offered).count() as u64,
            None => 0,
        }
    }
}
