//! `seen = filtered + delivered + lost + waiting`, held against a simple model under whatever may come: floods, filters that
//! drop, refuse or go away, faults, abandoned queues, plugins that join, are exchanged and leave. Needs no privilege.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use eunomia_host::dispatch::{
    Containers, Delivery, Dispatcher, Fate, Filter, FilterRequest, Item, KindCounts, Member, Message, Only, Place,
    Processes, Queue, Tree, Where, times,
};
use eunomia_host::event::layout::c::{syscall_flat, syscall_return_flat};
use eunomia_host::event::{Batch, Columns, Keep, Kind, KindSet, Rows, runs_for};
use eunomia_host::wit::alerts::{Alert, RaisedAlert, Severity};
use eunomia_host::wit::gaps::Gap;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Random numbers (xorshift64*), the same in every run with the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// The processes that make calls in turn.
const PROCESSES: u64 = 5;

fn syscall(time: u64) -> syscall_flat {
    syscall_flat { time, number: 39, pid: (time % PROCESSES) as u32 + 1, ..Default::default() }
}

fn alert(time: u64) -> RaisedAlert {
    let (rule, message) = Default::default();
    let alert = Alert { time, severity: Severity::Low, rule, message, task: None, fields: vec![] };
    RaisedAlert { time, plugin: "p".into(), alert }
}

fn gap(time: u64, missing: Kind) -> Gap {
    let (source, missing) = (missing.source().to_owned(), Some(missing.name().to_owned()));
    Gap { time, source, missing, where_: "kernel_ring".into(), count: 1, from: time, to: time }
}

/// Up to `most` events, each at a time of its own.
fn columns(random: &mut Random, most: u64, now: &mut u64) -> Columns {
    let mut columns = Columns::default();
    columns.heap[Kind::Alert as usize] = 2_000;
    for _ in 0..random.below(most) + 1 {
        *now += 1;
        match random.below(12) {
            0..=1 => columns.alert.push(alert(*now)),
            2 => columns.gap.push(gap(*now, Kind::Syscall)),
            3 => columns.gap.push(gap(*now, Kind::Exec)),
            _ => columns.syscall.push(syscall(*now)),
        }
    }
    columns
}

fn waiting(queue: &Queue) -> u64 {
    queue.counts().values().map(|counts| counts.waiting).sum()
}

fn check(queue: &Queue) -> BTreeMap<Kind, KindCounts> {
    let all = queue.counts();
    for (kind, counts) in &all {
        let lost: u64 = counts.lost.values().sum();
        assert_eq!(counts.seen, counts.filtered + counts.delivered + counts.waiting + lost, "{kind}: {counts:?}");
    }
    all
}

/// What a simple bookkeeper knows of a queue: every event by itself, named by its time.
#[derive(Default)]
struct Model {
    seen: BTreeMap<Kind, u64>,
    filtered: BTreeMap<Kind, u64>,
    /// Pushed, kept by filters, and not seen again so far.
    missing: BTreeMap<u64, Kind>,
    delivered: BTreeMap<Kind, u64>,
    /// Lost in calls, by time.
    failed: BTreeMap<u64, Kind>,
    /// Gaps from the kernel about events that are wanted, and gaps that came out.
    kernel_gaps: u64,
    told: Vec<Gap>,
    /// When the last event that came out happened.
    until: u64,
}

impl Model {
    fn push(&mut self, batch: &Batch, keep: &Keep, kept: &[Rows]) {
        for kind in [Kind::Syscall, Kind::Alert] {
            let (all, kept) = (batch.columns.count(kind) as u64, keep.count(batch, kind) as u64);
            *self.seen.entry(kind).or_default() += all;
            *self.filtered.entry(kind).or_default() += all - kept;
        }
        for rows in kept.iter().filter(|rows| rows.kind != Kind::Gap) {
            let time = |row| batch.columns.time(rows.kind, row as usize).unwrap();
            self.missing.extend(rows.iter().map(|row| (time(row), rows.kind)));
        }
        self.kernel_gaps +=
            batch.columns.gap.iter().filter(|gap| gap.missing.as_deref() == Some("syscall")).count() as u64;
    }

    /// Takes what came out of the queue, in calls that fail at random.
    fn take(&mut self, random: &mut Random, queue: &Queue, delivery: &Delivery) {
        for rows in runs_for(&delivery.batch, &delivery.keep, queue.wanted()) {
            for rows in rows.pieces(random.below(5) as u32 + 1) {
                let fails = rows.kind != Kind::Gap && random.one_in(6);
                for row in rows.iter().map(|row| row as usize) {
                    let time = rows.batch.columns.time(rows.kind, row).unwrap();
                    assert!(time >= self.until, "{} at {time} came after an event at {}", rows.kind, self.until);
                    self.until = time;
                    match rows.kind {
                        Kind::Gap => self.told.push(rows.batch.columns.gap[row].clone()),
                        kind => assert_eq!(self.missing.remove(&time), Some(kind), "each comes out once"),
                    }
                    if fails {
                        self.failed.insert(time, rows.kind);
                    } else {
                        *self.delivered.entry(rows.kind).or_default() += 1;
                    }
                }
                let fate = if fails { Fate::Lost(Where::Fault) } else { Fate::Delivered };
                queue.settle(rows.kind, rows.len(), times(&rows), fate);
                if let Some(gaps) = queue.gaps() {
                    self.take(random, queue, &gaps);
                }
            }
        }
    }

    /// When nothing waits any more, every event has one fate, and every loss is told.
    fn compare(&self, queue: &Queue) {
        let counts = check(queue);
        for kind in [Kind::Syscall, Kind::Alert] {
            let Some(counts) = counts.get(&kind) else { continue };
            let of = |table: &BTreeMap<Kind, u64>| table.get(&kind).copied().unwrap_or(0);
            let count = |events: &BTreeMap<u64, Kind>| events.values().filter(|other| **other == kind).count() as u64;
            let lost = |place| counts.lost.get(&place).copied().unwrap_or(0);
            assert_eq!((counts.seen, counts.filtered), (of(&self.seen), of(&self.filtered)), "{kind}");
            assert_eq!((counts.delivered, counts.waiting), (of(&self.delivered), 0), "{kind}");
            assert_eq!((lost(Where::Queue), lost(Where::Fault)), (count(&self.missing), count(&self.failed)), "{kind}");
            for (events, place) in [(&self.missing, "queue"), (&self.failed, "fault")] {
                let told = |gap: &&Gap| gap.missing.as_deref() == Some(kind.name()) && gap.where_ == place;
                let gaps: Vec<&Gap> = self.told.iter().filter(told).collect();
                assert_eq!(gaps.iter().map(|gap| gap.count).sum::<u64>(), count(events), "{kind} in {place}");
                for (time, _) in events.iter().filter(|(_, other)| **other == kind) {
                    assert!(gaps.iter().any(|gap| gap.from <= *time && *time <= gap.to), "{kind} at {time} in {place}");
                }
            }
        }
        let told = self.told.iter().filter(|gap| gap.where_ == "kernel_ring").map(|gap| gap.count).sum::<u64>();
        assert_eq!(told, self.kernel_gaps);
        assert!(self.told.iter().all(|gap| gap.missing.as_deref() != Some("exec")), "exec is not wanted");
        if let Some(counts) = counts.get(&Kind::Gap) {
            assert_eq!((counts.delivered, counts.lost.values().sum()), (self.told.len() as u64, 0u64));
        }
    }
}

#[tokio::test]
async fn a_queue_counts_as_a_model_does_and_tells_of_every_loss_in_time_order() {
    let (mut lost, mut copied) = (0, 0);
    for seed in 1..=500 {
        let mut random = Random(seed * 0x9e37_79b9_7f4a_7c15);
        let wanted: KindSet = [Kind::Syscall, Kind::Alert, Kind::Gap].into_iter().collect();
        let (max_events, max_bytes) = (random.below(60) + 1, if random.one_in(3) { 15_000 } else { u64::MAX });
        let queue = Queue::new(wanted, max_events, max_bytes);
        let (mut model, mut now) = (Model::default(), 0);
        for _ in 0..random.below(400) {
            if random.one_in(2) {
                let mut columns = columns(&mut random, 12, &mut now);
                if random.one_in(2) {
                    columns.syscall_return = vec![syscall_return_flat::default(); 200]; // Others'.
                }
                let batch = Arc::new(Batch::cut(&mut columns, u64::MAX));
                let mut keep = Keep::default();
                if random.one_in(3) {
                    for rows in runs_for(&batch, &Keep::default(), [Kind::Syscall].into_iter().collect()) {
                        let answers: Vec<bool> = rows.iter().map(|_| random.one_in(2)).collect();
                        keep.drop_rows(&rows, &answers);
                    }
                }
                model.push(&batch, &keep, &runs_for(&batch, &keep, wanted));
                let before = waiting(&queue);
                queue.push(Delivery { batch: batch.clone(), keep: Arc::new(keep) });
                copied += usize::from(waiting(&queue) > before && Arc::strong_count(&batch) == 1);
            } else if !queue.is_idle() {
                let Some(Item::Events(delivery)) = queue.pop().await else { panic!("there are events alone") };
                model.take(&mut random, &queue, &delivery);
            }
            check(&queue);
        }
        while !queue.is_idle() {
            let Some(Item::Events(delivery)) = queue.pop().await else { panic!("there are events alone") };
            model.take(&mut random, &queue, &delivery);
        }
        model.compare(&queue);
        lost += model.missing.len() + model.failed.len();
    }
    assert!(lost > 10_000, "{lost}: the bounds were hardly reached, so this shows nothing");
    assert!(copied > 1_000, "{copied}: hardly any part was copied for one that lags");
}

/// A plugin that is none: it takes from its queue at its own pace, fails, is abandoned, and answers as a filter, or does not.
struct Fake {
    queue: Arc<Queue>,
    task: JoinHandle<u64>,
}

impl Fake {
    fn start(random: &mut Random, name: &str) -> (Fake, Member) {
        let wanted: KindSet =
            [Kind::Syscall, Kind::Alert, Kind::Gap].into_iter().filter(|_| !random.one_in(4)).collect();
        let mut pids: Vec<u32> = (1..=PROCESSES as u32).filter(|_| random.one_in(2)).collect();
        if random.one_in(2) {
            pids.clear();
        }
        let queue = Queue::new(wanted, random.below(100) + 1, u64::MAX);
        let queue = Arc::new(queue.narrowed_to(Only { pids, ..Default::default() }));
        let (asks, requests) = mpsc::channel(1);
        let filters = random.one_in(3);
        let member = Member {
            name: name.into(),
            place: Place { order: random.below(3) as i64, argument: 0, name: name.into() },
            queue: queue.clone(),
            filter: filters
                .then(|| Filter::new([Kind::Syscall].into_iter().collect(), asks, random.one_in(2), Arc::default())),
            tick: random.one_in(3).then_some(Duration::from_millis(10)),
            registers: false,
        };
        let task = tokio::spawn(live(queue.clone(), requests, Random(random.below(u64::from(u32::MAX)) + 1)));
        (Fake { queue, task }, member)
    }
}

/// Serves a queue to its end; how many events it has handled.
async fn live(queue: Arc<Queue>, mut requests: mpsc::Receiver<FilterRequest>, mut random: Random) -> u64 {
    let mut handled = 0;
    loop {
        let item = tokio::select! {
            biased;
            Some(request) = requests.recv() => {
                answer(request, &mut random);
                continue;
            }
            item = queue.pop() => item,
        };
        match item {
            Some(Item::Events(delivery)) => {
                if random.one_in(4) {
                    tokio::time::sleep(Duration::from_micros(random.below(300))).await;
                }
                for rows in runs_for(&delivery.batch, &delivery.keep, queue.wanted()) {
                    let fate = match random.below(8) {
                        0 => Fate::Lost(Where::Fault),
                        1 => Fate::Filtered,
                        _ => Fate::Delivered,
                    };
                    handled += if fate == Fate::Delivered { rows.len() as u64 } else { 0 };
                    queue.settle(rows.kind, rows.len(), times(&rows), fate);
                }
            }
            Some(Item::Tick { .. }) => {}
            None => return handled,
        }
        if random.one_in(200) {
            queue.abandon(Where::Quarantine);
        }
    }
}

fn answer(request: FilterRequest, random: &mut Random) {
    if random.one_in(5) {
        return; // Dropped: it has no answer.
    }
    let mut keep = (*request.delivery.keep).clone();
    for rows in runs_for(&request.delivery.batch, &request.delivery.keep, request.kinds) {
        let answers: Vec<bool> = rows.iter().map(|_| random.one_in(2)).collect();
        keep.drop_rows(&rows, &answers);
    }
    _ = request.reply.send((!random.one_in(5)).then_some(keep));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_accounts_for_every_event_while_plugins_come_fail_are_exchanged_and_go() {
    for seed in 1..=40 {
        let mut random = Random(seed * 0x9e37_79b9_7f4a_7c15);
        let tree = Tree { walk: Box::new(Vec::new), cgroup_of: Box::new(|_| None) };
        let (processes, containers) = (Processes::new(Box::new(|_| None)), Containers::new(tree, None));
        let (dispatcher, messages, inbox) = Dispatcher::new(Arc::new(processes), Arc::new(containers), Only::default());
        let dispatched = tokio::spawn(dispatcher.run());
        let (mut fakes, mut now) = (Vec::<Fake>::new(), 0);
        // Who stands in the line, and how many system calls each must have seen.
        let (mut line, mut expected) = (BTreeMap::<String, usize>::new(), Vec::<u64>::new());
        let (mut sent, mut raised) = (BTreeMap::<Kind, u64>::new(), 0);
        for _ in 0..300 {
            let message = match random.below(12) {
                0 => {
                    // Also with the name of one that is there, which it then takes the place of.
                    let name = format!("p{}", random.below(5));
                    let (fake, member) = Fake::start(&mut random, &name);
                    line.insert(name, fakes.len());
                    fakes.push(fake);
                    expected.push(0);
                    Message::Join(Box::new(member))
                }
                1 => {
                    let name = format!("p{}", random.below(5));
                    line.remove(&name);
                    Message::Leave(name.as_str().into())
                }
                2 => {
                    inbox.put(alert(now));
                    raised += 1;
                    continue;
                }
                _ => {
                    let batch = Batch::cut(&mut columns(&mut random, 60, &mut now), u64::MAX);
                    for kind in Kind::ALL.iter().filter(|kind| batch.columns.count(**kind) > 0) {
                        *sent.entry(*kind).or_default() += batch.columns.count(*kind) as u64;
                    }
                    for number in line.values() {
                        let queue = &fakes[*number].queue;
                        let pids = &queue.only().pids;
                        let calls = batch.columns.syscall.iter().filter(|_| queue.wanted().has(Kind::Syscall));
                        expected[*number] +=
                            calls.filter(|call| pids.is_empty() || pids.contains(&call.pid)).count() as u64;
                    }
                    Message::Batch(Box::new(batch))
                }
            };
            messages.send(message).await.ok().unwrap();
            fakes.iter().for_each(|fake| _ = check(&fake.queue));
        }
        messages.send(Message::Stop).await.ok().unwrap();
        let dispatched = dispatched.await.unwrap();
        *sent.entry(Kind::Alert).or_default() += raised;
        assert_eq!(inbox.counts(), (raised, 0));
        for (kind, counts) in &dispatched {
            assert_eq!(counts.filtered + counts.delivered, sent[kind], "{kind}: {counts:?}");
            assert!(counts.delivered <= sent[kind], "{kind}: {counts:?}");
        }
        assert_eq!(dispatched.keys().collect::<Vec<_>>(), sent.keys().collect::<Vec<_>>());
        for (Fake { queue, task }, expected) in fakes.into_iter().zip(expected) {
            queue.close();
            let handled = task.await.unwrap();
            let counts = check(&queue);
            assert_eq!(counts.get(&Kind::Syscall).map_or(0, |counts| counts.seen), expected, "{:?}", queue.only());
            assert!(counts.values().all(|counts| counts.waiting == 0), "{counts:?}");
            let delivered: u64 = counts.values().map(|counts| counts.delivered).sum();
            assert!(delivered <= handled, "{delivered} of {handled}: only what was abandoned meanwhile is less");
        }
    }
}
