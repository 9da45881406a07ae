//! Reads the rings of the sources up to a point in time, so that a pass over them ends however fast records come, and each ring
//! is looked at as often as any other. It knows nothing of what the records mean.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use crate::event::decode::boot_time;

/// What takes a record.
pub type Take = Rc<dyn Fn(&[u8])>;

/// The callback's answer that ends the reading of a ring, and the one that goes on.
const STOP: i32 = -1;
const GO_ON: i32 = 0;

/// A ring, and what becomes of its records.
struct Ring {
    buffer: RingBuffer<'static>,
    held: Held,
    take: Take,
}

/// A record that was read and is too young yet; empty where there is none. A ring is read no further before it was taken.
type Held = Rc<RefCell<Vec<u8>>>;

/// The rings of all sources.
pub struct Rings {
    rings: Vec<Ring>,
    /// All of them together, to sleep until one has a record.
    sleeper: RingBuffer<'static>,
    /// Records at or after this boot time are left in the rings.
    until: Rc<Cell<u64>>,
}

impl Rings {
    /// Opens rings, which are read in this order.
    pub fn open<'a>(sources: impl Iterator<Item = (&'a MapHandle, Take)>) -> libbpf_rs::Result<Rings> {
        let until = Rc::new(Cell::new(0));
        let sources: Vec<(&MapHandle, Held, Take)> = sources.map(|(map, take)| (map, Held::default(), take)).collect();
        let mut rings = Vec::new();
        let mut sleeper = RingBufferBuilder::new();
        for (map, held, take) in &sources {
            let mut ring = RingBufferBuilder::new();
            let (holds, takes, until) = (held.clone(), take.clone(), until.clone());
            ring.add(*map, move |record| {
                if boot_time(record).is_some_and(|time| time >= until.get()) {
                    hold(&holds, record);
                    return STOP;
                }
                takes(record);
                GO_ON
            })?;
            rings.push(Ring { buffer: ring.build()?, held: held.clone(), take: take.clone() });
            let holds = held.clone();
            sleeper.add(*map, move |record| {
                hold(&holds, record);
                STOP
            })?;
        }
        Ok(Rings { rings, sleeper: sleeper.build()?, until })
    }

    /// Takes the records before `until` (boot time) that are in the rings.
    pub fn read(&self, until: u64) {
        self.until.set(until);
        for ring in &self.rings {
            if first(&ring.held).is_none_or(|time| time < until) {
                ring.take_held();
                ring.buffer.consume_raw();
            }
        }
    }

    /// The boot time of the oldest record that is known to wait; none where no ring had one left.
    pub fn oldest(&self) -> Option<u64> {
        self.rings.iter().filter_map(|ring| first(&ring.held)).min()
    }

    /// Sleeps until some ring has a record and the kernel says so, or for a while. Whether there was one.
    pub fn sleep(&self, longest: Duration) -> bool {
        self.sleeper.poll_raw(longest) != 0
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        self.rings.iter().for_each(Ring::take_held);
    }
}

impl Ring {
    fn take_held(&self) {
        let mut held = self.held.borrow_mut();
        if !held.is_empty() {
            (self.take)(&held);
            held.clear();
        }
    }
}

fn hold(held: &Held, record: &[u8]) {
    let mut held = held.borrow_mut();
    held.clear();
    held.extend_from_slice(record);
}

fn first(held: &Held) -> Option<u64> {
    boot_time(&held.borrow())
}
