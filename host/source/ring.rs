//! One ring buffer of the kernel's, read where it lies: in memory that the kernel shares with whoever has its descriptor,
//! whatever else that process may do. One of the few places with `unsafe`.
//!
//! Its layout is the kernel's interface (kernel/bpf/ringbuf.c): a page that holds how far the reader has come, which the
//! reader writes; a page that holds how far the writers have come; and the records, which are mapped twice, one behind the
//! other, so that each is in one piece. A record has 8 bytes of its own before it: its length, and whether it is still being
//! written or was given up.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::param::page_size;

use crate::event::decode::boot_time;

/// Of a record's length: it is not complete yet, and nobody is to have it.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;

/// What stands before each record, and what each begins at a multiple of.
const HEAD_BYTES: u64 = 8;

/// How many bytes of records are read before their room is given back to the writers, who look at it for each record.
const GIVEN_BACK_BYTES: u64 = 4 << 10;

/// A ring.
pub struct Ring {
    file: OwnedFd,
    /// The reader's page.
    read: NonNull<c_void>,
    /// The writers' page, and the records behind it.
    written: NonNull<c_void>,
    /// The records.
    records: NonNull<c_void>,
    /// How many bytes of records it holds, a power of two.
    bytes: usize,
}

impl Ring {
    /// Maps the ring of a descriptor, which holds so many bytes of records.
    pub fn map(file: OwnedFd, bytes: u32) -> io::Result<Self> {
        let (page, bytes) = (page_size(), bytes as usize);
        // SAFETY: a new mapping at an address of the kernel's choice, which nothing else refers to.
        let map = |bytes, access, offset| unsafe { mmap(null_mut(), bytes, access, MapFlags::SHARED, &file, offset) };
        let read = map(page, ProtFlags::READ | ProtFlags::WRITE, 0)?;
        let written = map(page + 2 * bytes, ProtFlags::READ, page as u64);
        match (NonNull::new(read), written.map(NonNull::new)) {
            (Some(read), Ok(Some(written))) => {
                // SAFETY: within the mapping.
                let records = unsafe { written.byte_add(page) };
                Ok(Ring { file, read, written, records, bytes })
            }
            (_, error) => {
                // SAFETY: it was mapped above, and nothing refers to it.
                _ = unsafe { munmap(read, page) };
                Err(error.err().unwrap_or(rustix::io::Errno::INVAL).into())
            }
        }
    }

    /// Takes the records before `until` (boot time). The time of the one that is left then, if it is complete.
    pub fn take(&self, until: u64, take: &mut impl FnMut(&[u8])) -> Option<u64> {
        // SAFETY: both pages begin with such a number, are mapped as long as this ring lives, and are written by atomic
        // operations alone, here and in the kernel.
        let (read, written) =
            unsafe { (self.read.cast::<AtomicU64>().as_ref(), self.written.cast::<AtomicU64>().as_ref()) };
        let mut at = read.load(Ordering::Relaxed);
        let (mut given_back, mut left) = (at, None);
        while at < written.load(Ordering::Acquire) {
            let head = self.at(at).cast::<AtomicU32>();
            // SAFETY: it is before what is written, and so within the mapping, a multiple of 8, and written atomically.
            let length = unsafe { head.as_ref() }.load(Ordering::Acquire);
            if length & BUSY != 0 {
                break;
            }
            let (length, discarded) = (length & !DISCARDED, length & DISCARDED != 0);
            if !discarded {
                let record = self.at(at + HEAD_BYTES).cast().as_ptr();
                // SAFETY: the kernel writes no more to a record that is complete before its room is given back below, and it
                // lies in one piece behind its head.
                let record = unsafe { std::slice::from_raw_parts(record, length as usize) };
                left = boot_time(record).filter(|time| *time >= until);
                if left.is_some() {
                    break;
                }
                take(record);
            }
            at += (u64::from(length) + HEAD_BYTES).next_multiple_of(HEAD_BYTES);
            if at - given_back >= GIVEN_BACK_BYTES {
                read.store(at, Ordering::Release);
                given_back = at;
            }
        }
        if at != given_back {
            read.store(at, Ordering::Release);
        }
        left
    }

    /// The memory of a place in the ring.
    fn at(&self, place: u64) -> NonNull<c_void> {
        // SAFETY: within the records' first mapping.
        unsafe { self.records.byte_add(place as usize & (self.bytes - 1)) }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: as they were mapped, and nothing refers to them any more.
        unsafe {
            _ = munmap(self.read.as_ptr(), page_size());
            _ = munmap(self.written.as_ptr(), page_size() + 2 * self.bytes);
        }
    }
}
