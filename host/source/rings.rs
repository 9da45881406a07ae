//! The rings of a source, read up to a point in time, so that a pass over them ends however fast records come, and each ring
//! is looked at as often as any other. It knows nothing of what the records mean.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

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

    /// Sleeps until some ring has a record and the kernel says so, until `bell` can be read, or for so long at most. Whether
    /// there was a record.
    pub fn sleep<'a>(all: impl Iterator<Item = &'a Rings>, bell: impl AsFd, longest: Option<Duration>) -> bool {
        let rings = all.flat_map(|rings| &rings.rings).map(AsFd::as_fd);
        let files = rings.chain([bell.as_fd()]).map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
        let (mut files, longest) = (files.collect::<Vec<_>>(), longest.and_then(|longest| longest.try_into().ok()));
        let woken = poll(&mut files, longest.as_ref()).is_ok();
        files.pop();
        woken && files.iter().any(|ring| !ring.revents().is_empty())
    }
}
