//! What is done with BPF objects: loaded, attached, controlled, counted and read, by whoever may. The thread that reads the
//! rings asks for it, and may be of a process that has no power at all.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::{fs, io};

use libbpf_rs::{MapCore, MapFlags};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, setpriority_process};
use serde::{Deserialize, Serialize};

use super::load::{self, Loaded, load_all};
use super::losses::kernel_counts;
use super::maps::{control, map, narrow_to_plugins, select_calls};
use super::{Narrowing, SOURCES, Source, SourceState, State, Wanted, clock};
use crate::broker::{self, Answer};
use crate::event::layout::c;
use crate::event::{Kind, KindSet};

/// The priority of the thread that reads the rings, as of nice(1): before ordinary programs, which may keep all CPUs busy.
const NICE: i32 = -10;

/// How many entries of sums are read by one system call.
const SUM_BATCH: u32 = 1024;

/// What can be asked for. Sources are named by their public names.
#[derive(Serialize, Deserialize)]
pub(super) enum Question {
    /// Have this thread of the process that asks go before others.
    Prefer(i32),
    /// Attach the sources of these events, and have those that are attached give these and no others. Answered by `Attached`.
    Want(Wanted),
    /// Tell all programs whether the reader sleeps, and is to be woken by a record.
    Asleep(bool),
    /// What has been counted of a source since it was attached. Answered by `KernelCounts`.
    Count(String),
    /// Have the sources' programs sum into the other of their two maps.
    ExchangeSums,
    /// Take what was summed into those that are at rest. Answered by the number of records of each source, and their bytes.
    TakeSums,
    /// Take all that a source has summed, once it is detached. Answered alike.
    LastSums(String),
    /// Detach a source's programs. What they sent and counted stays.
    Detach(String),
    /// Forget a source that is detached.
    Forget(String),
}

/// What came of attaching. The new sources' rings are files that go with it, in this order.
#[derive(Serialize, Deserialize)]
pub(super) struct Attached {
    /// How those sources stand of which events are wanted.
    pub states: Vec<SourceState>,
    /// Of each new one: how many rings, and how many bytes each has.
    pub rings: Vec<(String, usize, u32)>,
}

/// Answers questions until nobody is left who asks; then everything is detached.
pub fn serve(narrowing: Narrowing, stream: &UnixStream) {
    load::quiet_libbpf();
    let asker = socket_peercred(stream).ok().map(|asker| asker.pid);
    let (attached, states, kinds) = Default::default();
    let mut kernel = Kernel { narrowing, asker, attached, states, kinds, sums: 0 };
    broker::serve(stream, |question, _| kernel.answer(question));
}

struct Kernel {
    narrowing: Narrowing,
    /// The process that asks.
    asker: Option<Pid>,
    attached: BTreeMap<&'static str, Loaded>,
    states: BTreeMap<&'static str, State>,
    /// The kinds that are wanted.
    kinds: KindSet,
    /// Which of their two maps the programs sum into.
    sums: usize,
}

impl Kernel {
    fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Prefer(thread) => {
                if let Err(error) = self.prefer(thread) {
                    log::debug!("the thread that reads the rings has no priority: {error}");
                }
            }
            Question::Want(wanted) => return self.want(&wanted),
            Question::Asleep(asleep) => {
                for loaded in self.attached.values() {
                    control(&loaded.object, c::control_key::CONTROL_READER_ASLEEP, u64::from(asleep));
                }
            }
            Question::Count(name) => {
                let counted = self.source(&name).map(|(source, loaded)| kernel_counts(source, loaded));
                return Answer::of(counted.unwrap_or_default());
            }
            Question::ExchangeSums => {
                self.sums = 1 - self.sums;
                for (_, loaded) in self.summing() {
                    control(&loaded.object, c::control_key::CONTROL_SUMS, self.sums as u64);
                }
            }
            Question::TakeSums => return take_sums(self.summing(), &[1 - self.sums]),
            Question::LastSums(name) => {
                return take_sums(self.source(&name).into_iter(), &[1 - self.sums, self.sums]);
            }
            Question::Detach(name) => {
                if let Some(containers) = &self.narrowing.containers {
                    containers.leave(&name);
                }
                if let Some(loaded) = self.attached.get_mut(&*name) {
                    loaded.detach();
                }
            }
            Question::Forget(name) => {
                self.attached.remove(&*name);
                self.states.remove(&*name);
            }
        }
        Answer::of(())
    }

    /// Has a thread of the process that asks go before others, and none but its own.
    fn prefer(&self, thread: i32) -> io::Result<()> {
        let process = self.asker.ok_or(io::ErrorKind::NotFound)?;
        fs::metadata(format!("/proc/{process}/task/{thread}"))?;
        Ok(setpriority_process(Pid::from_raw(thread), NICE)?)
    }

    /// The sources that are attached and sum something that is wanted.
    fn summing(&self) -> impl Iterator<Item = (&'static Source, &Loaded)> {
        let attached = self.attached.keys().filter_map(|name| self.source(name));
        attached.filter(|(source, _)| source.sums.as_ref().is_some_and(|sums| self.kinds.has(sums.kind)))
    }

    fn source(&self, name: &str) -> Option<(&'static Source, &Loaded)> {
        let source = SOURCES.iter().find(|source| source.name == name)?;
        Some((source, self.attached.get(name)?))
    }

    fn want(&mut self, wanted: &Wanted) -> Answer {
        let kinds = wanted.kinds;
        self.kinds = kinds;
        let sources: Vec<_> = SOURCES.iter().filter(|source| !source.kinds().and(kinds).is_empty()).collect();
        self.states.retain(|name, _| sources.iter().any(|source| source.name == *name));
        let new = sources.iter().filter(|source| !self.attached.contains_key(source.name));
        let (mut rings, mut files) = (Vec::new(), Vec::new());
        for (source, (loaded, state)) in load_all(new.copied().copied(), kinds, &self.narrowing) {
            if let Some((loaded, own)) = self.attached(source, loaded, state) {
                rings.push((source.name.to_owned(), own.len(), loaded.rings.first().map_or(0, MapCore::max_entries)));
                files.extend(own);
                self.attached.insert(source.name, loaded);
            }
        }
        for source in sources {
            let Some(loaded) = self.attached.get_mut(source.name) else { continue };
            let bits = kinds.iter().filter_map(Kind::record_number).fold(0, |bits, number| bits | 1 << number);
            select_calls(&loaded.object, source, wanted);
            if source.is_narrowed() {
                narrow_to_plugins(&loaded.object, source, wanted.whom.get(source.name));
            }
            control(&loaded.object, c::control_key::CONTROL_SUMS, self.sums as u64);
            control(&loaded.object, c::control_key::CONTROL_WANTED, bits);
            if let Err(error) = loaded.attach(source, kinds) {
                log::error!("source {}: not all of its programs could be attached again: {error}", source.name);
            }
        }
        let states = self.states.iter().map(|(source, state)| SourceState { source, state: state.clone() }).collect();
        Answer { files, ..Answer::of(Attached { states, rings }) }
    }

    /// What came of loading a source: with its rings, for whoever reads them, if it can be used.
    fn attached(
        &mut self,
        source: &'static Source,
        loaded: Option<Loaded>,
        state: State,
    ) -> Option<(Loaded, Vec<OwnedFd>)> {
        let rings = loaded.iter().flat_map(|loaded| &loaded.rings).map(|ring| ring.as_fd().try_clone_to_owned());
        let (rings, state) = match (rings.collect::<io::Result<_>>(), state) {
            (Err(error), State::Attached { hook, .. }) => {
                (None, State::Failed { why: vec![load::unreadable(hook, &error)] })
            }
            (rings, state) => (rings.ok(), state),
        };
        self.states.insert(source.name, state);
        let (loaded, rings) = (loaded?, rings?);
        if source.is_narrowed()
            && let Some(containers) = &self.narrowing.containers
        {
            containers.join(source.name, &loaded.object);
        }
        Some((loaded, rings))
    }
}

/// Makes records of what sources have summed into these of their maps, and empties these. How many records each makes, and the records,
/// one behind the other, each behind its length.
fn take_sums<'a>(sources: impl Iterator<Item = (&'static Source, &'a Loaded)>, which: &[usize]) -> Answer {
    let (mut counts, mut bytes) = (Vec::new(), Vec::new());
    for (source, loaded) in sources {
        let Some(sums) = &source.sums else { continue };
        let maps = which.iter().filter_map(|which| map(&loaded.object, sums.maps[*which]));
        // To look for one key costs less than to read an empty map.
        let maps = maps.filter(|map| map.keys().next().is_some());
        let mut count = 0;
        for map in maps {
            let time = clock::boot_ns();
            match map.lookup_and_delete_batch(SUM_BATCH, MapFlags::ANY, MapFlags::ANY) {
                Ok(entries) => {
                    for record in entries.filter_map(|(key, value)| (sums.record)(&key, &value, time)) {
                        bytes.extend((record.len() as u64).to_ne_bytes());
                        bytes.extend(record);
                        count += 1;
                    }
                }
                Err(error) => log::error!("source {}: its sums cannot be read: {error}", source.name),
            }
        }
        counts.push((source.name, count));
    }
    Answer { bytes, ..Answer::of(counts) }
}

/// The records of what `TakeSums` and `LastSums` are answered by.
pub(super) fn summed(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk()?;
        let (record, rest) = rest.split_at_checked(usize::try_from(u64::from_ne_bytes(*length)).ok()?)?;
        bytes = rest;
        Some(record)
    })
}
