use super::*;
use crate::event::{Columns, Memory, decode, runs_for};
use crate::wit::process::{Exit, Fork};

fn forks(count: u64) -> Arc<Batch> {
    let fork = |time| Fork { time, task: decode::tests::task(), child_pid: 1 };
    let mut pending = Columns { fork: (0..count).map(fork).collect(), ..Default::default() };
    Arc::new(Batch::cut(&mut pending, u64::MAX))
}

fn sums(queue: &Queue) -> KindCounts {
    let counts = queue.counts().remove(&Kind::Fork).unwrap_or_default();
    let lost: u64 = counts.lost.values().sum();
    assert_eq!(counts.seen, counts.filtered + counts.delivered + counts.waiting + lost);
    counts
}

#[tokio::test]
async fn every_event_is_delivered_filtered_waiting_or_lost() {
    let queue = Queue::new([Kind::Fork].into_iter().collect(), 10, u64::MAX);
    let batch = forks(6);
    let mut keep = Keep::default();
    let rows = runs_for(&batch, &keep, KindSet::all()).remove(0);
    keep.drop_rows(&rows, &[true, true, false, true, true, true]);
    queue.push(Delivery { batch, keep: Arc::new(keep) });
    queue.push(Delivery { batch: forks(5), keep: Arc::default() });
    queue.push(Delivery { batch: forks(6), keep: Arc::default() });
    let counts = sums(&queue);
    assert_eq!((counts.seen, counts.filtered, counts.waiting), (17, 1, 10));
    assert_eq!(counts.lost[&Where::Queue], 6);

    assert!(matches!(queue.pop().await, Some(Item::Events(_))));
    queue.settle(Kind::Fork, 3, (0, 2), Fate::Delivered);
    queue.settle(Kind::Fork, 2, (3, 4), Fate::Lost(Where::Fault));
    assert!(!queue.is_idle());
    queue.abandon(Where::Shutdown);
    let counts = sums(&queue);
    assert_eq!((counts.delivered, counts.waiting), (3, 0));
    assert_eq!(counts.lost[&Where::Shutdown], 5);
    assert!(queue.is_idle());
    queue.close();
    assert!(queue.pop().await.is_none());
}

#[tokio::test]
async fn one_that_lags_keeps_in_memory_what_is_its_own() {
    let queue = Queue::new([Kind::Fork].into_iter().collect(), u64::MAX, u64::MAX);
    let exit =
        |time| Exit { time, task: decode::tests::task(), code: 0, signal: None, core_dumped: false, duration: 0 };
    let batch = || {
        let fork = Fork { time: 500, task: decode::tests::task(), child_pid: 1 };
        let mut pending = Columns { exit: (0..1_000).map(exit).collect(), fork: vec![fork], ..Default::default() };
        Arc::new(Batch::cut(&mut pending, u64::MAX))
    };
    let first = batch();
    queue.push(Delivery { batch: first.clone(), keep: Arc::default() });
    assert_eq!(Arc::strong_count(&first), 2, "it would have it at once");
    let (second, third) = (batch(), forks(10));
    queue.push(Delivery { batch: second.clone(), keep: Arc::default() });
    queue.push(Delivery { batch: third.clone(), keep: Arc::default() });
    assert_eq!((Arc::strong_count(&second), Arc::strong_count(&third)), (1, 2), "the second is mostly others'");
    let mut rows = 0;
    for _ in 0..3 {
        let Some(Item::Events(delivery)) = queue.pop().await else { panic!("three batches wait") };
        rows += runs_for(&delivery.batch, &delivery.keep, queue.wanted()).iter().map(Rows::len).sum::<usize>();
    }
    assert_eq!((rows, sums(&queue).waiting), (12, 12));
}

#[tokio::test]
async fn a_batch_larger_than_the_queue_is_delivered_when_nothing_waits_and_ticks_do_not_pile_up() {
    let queue = Queue::new([Kind::Fork].into_iter().collect(), 2, u64::MAX);
    queue.tick(1);
    queue.tick(2);
    queue.push(Delivery { batch: forks(5), keep: Arc::default() });
    assert!(matches!(queue.pop().await, Some(Item::Tick { now: 1 })));
    assert!(matches!(queue.pop().await, Some(Item::Events(_))));
    assert_eq!(sums(&queue).waiting, 5);
}

/// One that lags and one that does not, while there is memory for four batches.
#[tokio::test]
async fn where_all_memory_is_taken_the_one_that_lags_loses_events_and_no_other() {
    const BATCHES: u64 = 20;
    let memory = Memory::new(4 * forks(10).memory as u64);
    let queue = || Queue::new([Kind::Fork].into_iter().collect(), u64::MAX, u64::MAX);
    let (slow, quick) = (queue(), queue());
    let counted = || {
        let mut batch = Arc::into_inner(forks(10)).unwrap();
        batch.held = memory.hold(batch.memory, 2);
        Delivery { batch: Arc::new(batch), keep: Arc::default() }
    };
    for _ in 0..BATCHES {
        let delivery = counted();
        slow.push(delivery.clone());
        quick.push(delivery);
        assert!(matches!(quick.pop().await, Some(Item::Events(_))));
        quick.settle(Kind::Fork, 10, (0, 9), Fate::Delivered);
    }
    assert_eq!(sums(&quick).delivered, 10 * BATCHES);
    let lagging = sums(&slow);
    assert_eq!((lagging.waiting, lagging.lost[&Where::Queue]), (30, 10 * (BATCHES - 3)));
    for _ in 0..2 {
        assert!(slow.pop().await.is_some());
        slow.settle(Kind::Fork, 10, (0, 9), Fate::Delivered);
    }
    // Whatever others take, two are its share.
    let others = memory.hold(4 * forks(10).memory, 2);
    for _ in 0..2 {
        slow.push(counted());
    }
    assert_eq!(sums(&slow).waiting, 20);
    slow.abandon(Where::Shutdown);
    drop(others);
    assert_eq!(memory.taken(), 0, "nobody keeps any");
    let part = counted().batch.part(&Keep::default(), KindSet::all());
    assert_eq!(memory.taken(), part.memory as u64, "a copy is counted without what it is of");
}
