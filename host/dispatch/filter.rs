//! A plugin's filter, as the line of plugins asks it: one that does not answer in time holds up nobody for longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::queue::Delivery;
use crate::event::{Keep, KindSet};

/// How long the line waits for an answer. A filter that runs is ended after its deadline, 50 ms unless its settings say otherwise; this is
/// for one that waits, such as for standard output, which is no fault of its own.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// A question to a plugin that filters: which of these events pass?
pub struct FilterRequest {
    /// The events, and what the filters before kept.
    pub delivery: Delivery,
    /// The kinds that are asked about.
    pub kinds: KindSet,
    /// Where the answer goes; none where the plugin has no answer, because it is down.
    pub reply: oneshot::Sender<Option<Keep>>,
}

/// A filter.
pub struct Filter {
    kinds: KindSet,
    requests: mpsc::Sender<FilterRequest>,
    closed_when_down: bool,
    unanswered: Arc<AtomicU64>,
    /// Where the answer will come for which nobody waits any more.
    late: Option<oneshot::Receiver<Option<Keep>>>,
    warned: bool,
}

impl Filter {
    /// A filter of these kinds. While it has no answer everything passes, or nothing where it is closed when down; events that it was
    /// not asked about for that reason are added to `unanswered`, those of other requests the plugin counts itself.
    pub fn new(
        kinds: KindSet,
        requests: mpsc::Sender<FilterRequest>,
        closed_when_down: bool,
        unanswered: Arc<AtomicU64>,
    ) -> Self {
        Filter { kinds, requests, closed_when_down, unanswered, late: None, warned: false }
    }

    /// The kinds that it filters.
    pub fn kinds(&self) -> KindSet {
        self.kinds
    }

    /// What of a delivery passes, when it is asked about these kinds.
    pub async fn ask(&mut self, plugin: &str, delivery: Delivery, kinds: KindSet) -> Arc<Keep> {
        let before = delivery.clone();
        match self.answer(plugin, delivery, kinds).await {
            Some(keep) => Arc::new(keep),
            None if self.closed_when_down => {
                let mut keep = (*before.keep).clone();
                kinds.iter().for_each(|kind| keep.drop_kind(&before.batch, kind));
                Arc::new(keep)
            }
            None => before.keep,
        }
    }

    async fn answer(&mut self, plugin: &str, delivery: Delivery, kinds: KindSet) -> Option<Keep> {
        let (reply, mut answer) = oneshot::channel();
        let events: usize = kinds.iter().map(|kind| delivery.keep.count(&delivery.batch, kind)).sum();
        let asked = !self.is_late() && self.requests.try_send(FilterRequest { delivery, kinds, reply }).is_ok();
        if !asked {
            self.unanswered.fetch_add(events as u64, Ordering::Relaxed);
            return None;
        }
        if let Ok(answer) = timeout(ANSWER_TIME, &mut answer).await {
            return answer.ok().flatten();
        }
        self.late = Some(answer);
        if !std::mem::replace(&mut self.warned, true) {
            log::warn!(
                "plugin {plugin}: as a filter it did not answer within {} ms, so {} until it does; if it waits for standard output, have that read or sent to a file",
                ANSWER_TIME.as_millis(),
                if self.closed_when_down { "nothing passes" } else { "everything passes" }
            );
        }
        None
    }

    /// Whether it has not yet answered a question of before.
    fn is_late(&mut self) -> bool {
        let waits = self.late.as_mut().is_some_and(|late| matches!(late.try_recv(), Err(TryRecvError::Empty)));
        if !waits {
            self.late = None;
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Batch, Columns, Kind, decode};
    use crate::wit::process::Fork;

    fn delivery() -> Delivery {
        let fork = Fork { time: 1, task: decode::tests::task(), child_pid: 1 };
        let mut columns = Columns { fork: vec![fork; 3], ..Default::default() };
        Delivery { batch: Arc::new(Batch::cut(&mut columns, u64::MAX)), keep: Arc::default() }
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_not_asked_again_before_it_has() {
        let kinds = KindSet::of(&[Kind::Fork]);
        for closed in [false, true] {
            let (requests, mut asked) = mpsc::channel(1);
            let unanswered = Arc::new(AtomicU64::new(0));
            let mut filter = Filter::new(kinds, requests, closed, unanswered.clone());
            let passed = |keep: &Keep| keep.count(&delivery().batch, Kind::Fork);
            let down = if closed { 0 } else { 3 };
            assert_eq!(passed(&*filter.ask("slow", delivery(), kinds).await), down);
            assert_eq!(passed(&*filter.ask("slow", delivery(), kinds).await), down);
            assert_eq!(unanswered.load(Ordering::Relaxed), 3, "the first is the plugin's to count, once it is asked");
            let request = asked.try_recv().unwrap();
            assert!(asked.try_recv().is_err(), "asked once");
            assert!(request.reply.send(Some(Keep::default())).is_ok());
            let answers = tokio::spawn(async move {
                let request = asked.recv().await.unwrap();
                let mut keep = Keep::default();
                keep.drop_kind(&request.delivery.batch, Kind::Fork);
                _ = request.reply.send(Some(keep));
            });
            assert_eq!(passed(&*filter.ask("slow", delivery(), kinds).await), 0, "it has caught up");
            answers.await.unwrap();
            assert_eq!(unanswered.load(Ordering::Relaxed), 3);
        }
    }
}
