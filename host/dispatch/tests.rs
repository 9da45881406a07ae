use super::*;
use crate::event::Columns;
use crate::event::layout::c::syscall_flat;

/// A plugin that takes events of all kinds which it is narrowed to, of which a hundred may wait.
pub(super) fn member(number: usize, only: Only) -> Member {
    let queue = Queue::new(KindSet::all(), 100, u64::MAX).narrowed_to(only);
    let name: Arc<str> = number.to_string().into();
    let place = Place { order: 0, argument: number, name: name.to_string() };
    let (filter, tick, registers) = Default::default();
    Member { name, place, queue: Arc::new(queue), filter, tick, registers }
}

#[tokio::test]
async fn what_waits_takes_no_more_memory_than_all_may_have_together() {
    const EVENTS: usize = 10;
    let batch = || Batch::cut(&mut Columns { syscall: vec![syscall_flat::default(); EVENTS], ..Default::default() }, 1);
    let tree = Tree { walk: Box::new(Vec::new), cgroup_of: Box::new(|_| None) };
    let (processes, containers) = (Processes::new(Box::new(|_| None)), Containers::new(tree, None));
    let (mut dispatcher, _messages, _alerts) =
        Dispatcher::new(Arc::new(processes), Arc::new(containers), Only::default());
    dispatcher.memory = Memory::new(4 * batch().memory as u64);
    let lagging = member(1, Only::default());
    let queue = lagging.queue.clone();
    dispatcher.join(lagging);
    for _ in 0..8 {
        dispatcher.dispatch(batch()).await;
    }
    let counts = &queue.counts()[&Kind::Syscall];
    assert_eq!((counts.seen, counts.waiting, counts.lost[&Where::Queue]), (80, 40, 40));
    assert_eq!(dispatcher.memory.taken(), 4 * batch().memory as u64);
    queue.abandon(Where::Shutdown);
    assert_eq!(dispatcher.memory.taken(), 0);
}
