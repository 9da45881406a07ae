//! What the kernel and the reader have counted of a source, and what of it is lost: told as gaps while it happens.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapFlags};
use serde::{Deserialize, Serialize};

use super::load::Loaded;
use super::maps::map;
use super::{ProgramRuns, Source, SourceCounts};
use crate::event::Kind;
use crate::event::clock::Clock;
use crate::event::layout::{self, c};
use crate::wit::gaps::Gap;

/// How often the kernel's counters are looked at, and so how long a gap is at least: some system calls for each source.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Losses by kind, where that is known, and place.
type Lost = BTreeMap<(Option<Kind>, &'static str), u64>;

/// What the reader counts of a source's records.
#[derive(Default)]
pub struct Tally {
    /// Records made of sums, besides those that the kernel's counters know.
    pub summed: Cell<u64>,
    pub decoded: Cell<u64>,
    pub undecodable: Cell<u64>,
    pub late: Cell<u64>,
}

impl Tally {
    /// Records that came out of the rings.
    pub fn read(&self) -> u64 {
        self.decoded.get() + self.undecodable.get()
    }
}

/// Adds one.
pub fn bump(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// What was told of a source's losses.
pub struct Losses {
    told: Lost,
    /// Boot time until which they were told.
    since: u64,
    next: Instant,
    /// Records read when it was looked at last.
    read: u64,
}

impl Losses {
    /// For a source that is attached at this boot time.
    pub fn new(since: u64) -> Self {
        Losses { told: Lost::new(), since, next: Instant::now() + LOOK_EVERY, read: 0 }
    }

    /// Whether it is time to look again: not while nothing has come of the source, of which so many records have been read, for an
    /// idle host is to cost next to nothing.
    pub fn is_due(&mut self, read: u64) -> bool {
        let is_due = read != self.read && Instant::now() >= self.next;
        if is_due {
            self.read = read;
        }
        is_due
    }

    /// When there will be something to look at, once nothing more comes of the source.
    pub fn due(&self, read: u64) -> Option<Instant> {
        (read != self.read).then_some(self.next)
    }

    /// The gaps since the last look; `now` is boot time.
    pub fn tell(&mut self, source: &Source, counts: &SourceCounts, clock: &Clock, now: u64) -> Vec<Gap> {
        let (from, to) = (clock.time(self.since), clock.time(now));
        self.since = now;
        self.next = Instant::now() + LOOK_EVERY;
        let lost = lost(counts);
        let told = std::mem::replace(&mut self.told, lost.clone());
        let more = lost.into_iter().map(|(key, count)| (key, count - told.get(&key).copied().unwrap_or(0).min(count)));
        more.filter(|(_, count)| *count > 0)
            .map(|((kind, place), count)| Gap {
                time: to,
                source: source.name.to_owned(),
                missing: kind.map(|kind| kind.name().to_owned()),
                where_: place.to_owned(),
                count,
                from,
                to,
            })
            .collect()
    }
}

/// Where a source's events were lost. Only the kernel's counters know of which kind they were.
fn lost(counts: &SourceCounts) -> Lost {
    let mut lost: Lost = counts.lost().map(|(place, count)| ((None, place), count)).collect();
    for (kind, place, count) in &counts.lost_by_kind {
        *lost.entry((None, place)).or_default() -= count;
        lost.insert((Some(*kind), place), *count);
    }
    lost
}

/// What the kernel has counted of a source since it was attached.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct KernelCounts {
    /// Records in the ring.
    pub sent: u64,
    /// Of each kind, how many were dropped for want of room, and how many not made within another.
    pub lost: Vec<(Kind, u64, u64)>,
    /// Runs of its programs that the kernel left out.
    pub skipped: u64,
    /// How its programs ran, as far as the kernel measures that.
    pub programs: Vec<ProgramRuns>,
}

/// What the kernel's counters say of a source.
pub fn kernel_counts(source: &'static Source, loaded: &Loaded) -> KernelCounts {
    let (skipped, programs) = runs(loaded);
    let mut counted = KernelCounts { skipped, programs, ..Default::default() };
    let Some(counters) = map(&loaded.object, "counters") else { return counted };
    for kind in source.kinds().iter() {
        let Some(row) = kind.record_number() else { continue };
        let per_cpu = counters.lookup_percpu(&row.to_ne_bytes(), MapFlags::ANY).ok().flatten().unwrap_or_default();
        let (mut kinds_dropped, mut kinds_nested) = (0, 0);
        for bytes in per_cpu {
            let Some(c::record_counts { sent, dropped, nested }) = layout::read(&bytes) else { continue };
            counted.sent += sent;
            kinds_dropped += dropped;
            kinds_nested += nested;
        }
        counted.lost.push((kind, kinds_dropped, kinds_nested));
    }
    counted
}

/// What the kernel and the reader have counted of a source since it was attached.
pub fn counts(source: &'static Source, counted: KernelCounts, tally: &Tally) -> SourceCounts {
    let KernelCounts { sent, lost, skipped, programs } = counted;
    let by_kind = |(kind, dropped, nested)| [(kind, super::KERNEL_RING, dropped), (kind, super::NESTED, nested)];
    SourceCounts {
        source: source.name,
        sent: sent + tally.summed.get(),
        dropped: lost.iter().map(|(_, dropped, _)| dropped).sum(),
        nested: lost.iter().map(|(_, _, nested)| nested).sum(),
        skipped,
        undecodable: tally.undecodable.get(),
        unread: 0,
        lost_by_kind: lost.into_iter().flat_map(by_kind).collect(),
        late: tally.late.get(),
        programs,
    }
}

/// How often the kernel did not run a source's programs. One that was interrupted while it ran is not run again on that CPU
/// until it goes on, and kernels with full preemption do interrupt them: under load, for milliseconds, in which nobody's
/// calls are seen there. That a program may forbid it (bpf_preempt_disable) does not help: it is interrupted as it allows it
/// again.
///
/// And how its programs ran that are attached, as far as the kernel measures that.
///
/// The kernel says so, without any privilege, in what it tells of the programs' descriptors; from 5.12 on, for before it let nobody
/// interrupt them. To go through all programs of the machine would need CAP_SYS_ADMIN.
fn runs(loaded: &Loaded) -> (u64, Vec<ProgramRuns>) {
    let (mut skipped, mut programs) = (0, Vec::new());
    for program in loaded.programs() {
        let Ok(text) = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd())) else {
            continue;
        };
        let figure = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        skipped += figure("recursion_misses");
        programs.push(ProgramRuns {
            name: program.name().to_string_lossy().into_owned(),
            runs: figure("run_cnt"),
            time: Duration::from_nanos(figure("run_time_ns")),
        });
    }
    (skipped, programs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{KERNEL_RING, SOURCES};

    #[test]
    fn a_loss_is_told_once_with_its_kind_and_the_time_since_the_last_look() {
        let clock = Clock::new(0, 1_000);
        let mut losses = Losses::new(5);
        let mut counts = SourceCounts {
            dropped: 7,
            skipped: 2,
            lost_by_kind: vec![(Kind::Exec, KERNEL_RING, 3), (Kind::Exit, KERNEL_RING, 4)],
            ..Default::default()
        };
        let mut tell = |counts: &SourceCounts, now| {
            let gaps = losses.tell(SOURCES[0], counts, &clock, now);
            gaps.into_iter().map(|gap| (gap.missing, gap.where_, gap.count, gap.from, gap.to)).collect::<Vec<_>>()
        };
        let some = |kind: &str| Some(kind.to_owned());
        let ring = KERNEL_RING.to_owned();
        assert_eq!(
            tell(&counts, 9),
            [
                (None, "skipped".to_owned(), 2, 1_005, 1_009),
                (some("exec"), ring.clone(), 3, 1_005, 1_009),
                (some("exit"), ring.clone(), 4, 1_005, 1_009),
            ]
        );
        assert_eq!(tell(&counts, 11), []);
        counts.dropped += 1;
        counts.lost_by_kind[1].2 += 1;
        assert_eq!(tell(&counts, 20), [(some("exit"), ring, 1, 1_011, 1_020)]);
    }
}
