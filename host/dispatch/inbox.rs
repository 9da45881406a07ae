//! Alerts on their way back into the line, to the plugins that handle alerts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::gaps::gap;
use crate::event::{Batch, Columns, Kind, alert_bytes};
use crate::wit::alerts::RaisedAlert;

/// Alerts that may wait for the dispatcher, which empties the inbox at once unless it is overwhelmed.
const MAX_ALERTS: usize = 4096;

/// Where alerts are lost for which there is no room, in summaries and gaps.
pub const INBOX: &str = "inbox";

/// Where plugins put their alerts.
#[derive(Clone)]
pub struct AlertInbox {
    sender: mpsc::Sender<RaisedAlert>,
    seen: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    gaps: Arc<AtomicU64>,
}

impl AlertInbox {
    /// Adds an alert, or counts it as lost when there is no room.
    pub fn put(&self, alert: RaisedAlert) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        if self.sender.try_send(alert).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Alerts put here with the gaps that came of it, and the alerts that were lost.
    pub fn counts(&self) -> (u64, u64) {
        let seen = self.seen.load(Ordering::Relaxed) + self.gaps.load(Ordering::Relaxed);
        (seen, self.lost.load(Ordering::Relaxed))
    }
}

pub(super) struct AlertReceiver {
    alerts: mpsc::Receiver<RaisedAlert>,
    lost: Arc<AtomicU64>,
    gaps: Arc<AtomicU64>,
    /// Lost alerts that were told of, and until when.
    told: (u64, u64),
}

impl AlertReceiver {
    /// The alerts that are there, waited for. They are in the order in which they were put.
    pub async fn receive(&mut self) -> Batch {
        let mut alerts = Vec::new();
        if self.alerts.recv_many(&mut alerts, MAX_ALERTS).await == 0 {
            std::future::pending::<()>().await; // Every sender is gone: no plugin is left to raise one.
        }
        self.batch(alerts)
    }

    pub fn try_receive(&mut self) -> Option<Batch> {
        let alerts: Vec<_> = std::iter::from_fn(|| self.alerts.try_recv().ok()).collect();
        (!alerts.is_empty()).then(|| self.batch(alerts))
    }

    /// The alerts, and the gap where others were lost in the meantime.
    fn batch(&mut self, alert: Vec<RaisedAlert>) -> Batch {
        let (lost, now) = (self.lost.load(Ordering::Relaxed), crate::event::now());
        let (told, since) = std::mem::replace(&mut self.told, (lost, now));
        let gap: Vec<_> =
            (lost > told).then(|| gap(Kind::Alert, INBOX, lost - told, (since, now))).into_iter().collect();
        self.gaps.fetch_add(gap.len() as u64, Ordering::Relaxed);
        let mut columns = Columns { alert, gap, ..Default::default() };
        columns.heap[Kind::Alert as usize] = columns.alert.iter().map(|raised| alert_bytes(&raised.alert)).sum();
        Batch::cut(&mut columns, u64::MAX)
    }
}

pub(super) fn alert_inbox() -> (AlertInbox, AlertReceiver) {
    let (sender, alerts) = mpsc::channel(MAX_ALERTS);
    let inbox = AlertInbox { sender, seen: Arc::default(), lost: Arc::default(), gaps: Arc::default() };
    let (lost, gaps) = (inbox.lost.clone(), inbox.gaps.clone());
    (inbox, AlertReceiver { alerts, lost, gaps, told: (0, crate::event::now()) })
}
