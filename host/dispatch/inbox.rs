//! Alerts on their way back into the line, to the plugins that handle alerts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::event::{Batch, Columns};
use crate::wit::alerts::RaisedAlert;

/// Alerts that may wait for the dispatcher, which empties the inbox at once unless it is overwhelmed.
const MAX_ALERTS: usize = 4096;

/// Where plugins put their alerts.
#[derive(Clone)]
pub struct AlertInbox {
    sender: mpsc::Sender<RaisedAlert>,
    seen: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
}

impl AlertInbox {
    /// Adds an alert, or counts it as lost when there is no room.
    pub fn put(&self, alert: RaisedAlert) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        if self.sender.try_send(alert).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Alerts put here, and those of them that were lost.
    pub fn counts(&self) -> (u64, u64) {
        (self.seen.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }
}

pub(super) struct AlertReceiver(mpsc::Receiver<RaisedAlert>);

impl AlertReceiver {
    /// The alerts that are there, waited for. They are in the order in which they were put.
    pub async fn receive(&mut self) -> Batch {
        let mut alerts = Vec::new();
        if self.0.recv_many(&mut alerts, MAX_ALERTS).await == 0 {
            std::future::pending::<()>().await; // Every sender is gone: no plugin is left to raise one.
        }
        batch(alerts)
    }

    pub fn try_receive(&mut self) -> Option<Batch> {
        let alerts: Vec<_> = std::iter::from_fn(|| self.0.try_recv().ok()).collect();
        (!alerts.is_empty()).then(|| batch(alerts))
    }
}

pub(super) fn alert_inbox() -> (AlertInbox, AlertReceiver) {
    let (sender, receiver) = mpsc::channel(MAX_ALERTS);
    (AlertInbox { sender, seen: Arc::default(), lost: Arc::default() }, AlertReceiver(receiver))
}

fn batch(alerts: Vec<RaisedAlert>) -> Batch {
    let mut pending = Columns { alert: alerts, ..Default::default() };
    Batch::cut(&mut pending, u64::MAX)
}
