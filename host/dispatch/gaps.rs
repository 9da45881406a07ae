//! Gaps on their way to plugins: what was lost, and between which two times.

use std::sync::Arc;

use super::queue::Delivery;
use crate::event::{Batch, Columns, Keep, Kind, KindSet, Pick, Rows};
use crate::wit::gaps::Gap;

/// When the first and the last of some events happened.
pub type Times = (u64, u64);

/// A gap of one kind, found out now.
pub(super) fn gap(kind: Kind, place: &str, count: u64, (from, to): Times) -> Gap {
    let (source, missing) = (kind.source().to_owned(), Some(kind.name().to_owned()));
    Gap { time: to, source, missing, where_: place.to_owned(), count, from, to }
}

/// Gaps that nobody has been told of yet. Losses of the same kind at the same place become one gap, so that there are no more
/// than there are kinds and places.
#[derive(Default)]
pub(super) struct Ledger(Vec<Gap>);

impl Ledger {
    pub fn add(&mut self, gap: Gap) {
        let same = |other: &&mut Gap| {
            (&other.source, &other.missing, &other.where_) == (&gap.source, &gap.missing, &gap.where_)
        };
        match self.0.iter_mut().find(same) {
            Some(other) => {
                other.time = other.time.max(gap.time);
                other.count += gap.count;
                other.from = other.from.min(gap.from);
                other.to = other.to.max(gap.to);
            }
            None => self.0.push(gap),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// All of them, in time order, for a plugin to handle.
    pub fn take(&mut self) -> Option<Delivery> {
        if self.0.is_empty() {
            return None;
        }
        let mut pending = Columns { gap: std::mem::take(&mut self.0), ..Default::default() };
        Some(Delivery { batch: Arc::new(Batch::cut(&mut pending, u64::MAX)), keep: Arc::default() })
    }
}

/// Drops the gaps in events that a plugin does not get: what it does not want, it does not miss.
pub(super) fn drop_unwanted(delivery: &mut Delivery, wanted: KindSet) {
    let gaps = &delivery.batch.columns.gap;
    if gaps.is_empty() {
        return;
    }
    let is_missed = |gap: &Gap| {
        wanted.iter().any(|kind| match &gap.missing {
            Some(name) => kind.name() == name,
            None => kind.source() == gap.source,
        })
    };
    let answers: Vec<bool> = gaps.iter().map(is_missed).collect();
    if answers.contains(&false) {
        let end = u32::try_from(answers.len()).unwrap_or(u32::MAX);
        let rows = Rows { batch: delivery.batch.clone(), kind: Kind::Gap, pick: Pick::Range(0..end) };
        Arc::<Keep>::make_mut(&mut delivery.keep).drop_rows(&rows, &answers);
    }
}
