//! The rings of a source, read up to a point in time, so that a pass over them ends however fast records come, and each ring
//! is looked at as often as any other. It knows nothing of what the records mean.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ring::Ring;

/// The rings of a source.
pub struct Rings {
    rings: Vec<Ring>,
    /// Boot time of the oldest record that was left.
    left: Cell<Option<u64>>,
}

impl Rings {
    /// Maps rings of so many bytes each.
    pub fn map(files: impl IntoIterator<Item = OwnedFd>, bytes: u32) -> io::Result<Rings> {
        let rings = files.into_iter().map(|file| Ring::map(file, bytes)).collect::<io::Result<_>>()?;
        Ok(Rings { rings, left: Cell::new(None) })
    }

    /// Takes the records before `until` (boot time) that are in the rings.
    pub fn take(&self, until: u64, mut take: impl FnMut(&[u8])) {
        self.left.set(self.rings.iter().filter_map(|ring| ring.take(until, &mut take)).min());
    }

    /// The boot time of the oldest record that is known to wait; none where no ring had one left.
    pub fn oldest(&self) -> Option<u64> {
        self.left.get()
    }

    /// Sleeps until some ring has a record and the kernel says so, or for a while. Whether there was one.
    pub fn sleep<'a>(all: impl Iterator<Item = &'a Rings>, longest: Duration) -> bool {
        let rings = all.flat_map(|rings| &rings.rings);
        let mut files: Vec<PollFd<'_>> =
            rings.map(|ring| PollFd::from_borrowed_fd(ring.as_fd(), PollFlags::IN)).collect();
        let longest = Timespec::try_from(longest).ok();
        matches!(poll(&mut files, longest.as_ref()), Ok(1..))
    }
}
