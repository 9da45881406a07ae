//! Loads a source by the best rung that the kernel grants, and says why not by a better one. What a kernel grants is found
//! out by doing it, never by its version.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::thread;

use libbpf_rs::libbpf_sys::bpf_map_create_opts;
use libbpf_rs::{
    ErrorKind, Link, MapCore, MapFlags, MapHandle, MapType, Object, ObjectBuilder, OpenObject, PrintLevel, Program,
    ProgramAttachType, set_print,
};

use super::{Narrowing, Refusal, Rung, Source, State, probe};
use crate::broker::MORE_FILES;
use crate::event::KindSet;
use crate::event::layout::{bytes_of, c as layout};

/// How many of libbpf's last messages are kept to explain a failure: the verifier's verdict is in the last few.
const MESSAGES: usize = 12;

/// How many of the last lines of these are kept to be shown: what the verifier was at when it refused.
const LOG_LINES: usize = 20;

/// What libbpf says besides, and its advice on ulimit, which misleads.
const NOISE: &[&str] = &["ulimit", "processed ", "libbpf:", "PROG LOAD LOG"];

/// What errors say of a process that has no descriptor left.
const NO_DESCRIPTORS: &str = "Too many open files";

/// Where kernels that have kprobes say so.
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";
/// Cgroups of which a source's programs know whether they are of a container wanted. Events of those beyond leave the kernel
/// and are dropped by the host.
const MAX_JUDGED_CGROUPS: u32 = 16_384;

/// The most rings of a source. Where there are more CPUs, some share one.
const MAX_RINGS: u32 = 64;

/// The smallest ring: some milliseconds of one busy CPU.
const MIN_RING_BYTES: u32 = 256 << 10;

/// CAP_SYS_ADMIN, CAP_PERFMON and CAP_BPF in linux/capability.h.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

thread_local! {
    // Of this thread: sources are probed side by side.
    static LAST_MESSAGES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A source's programs in the kernel.
pub struct Loaded {
    pub object: Object,
    /// Where its programs put their records.
    pub rings: Vec<MapHandle>,
    /// Of each program of the rung, by name, what keeps it attached; none while it is not needed.
    links: BTreeMap<&'static str, Option<Link>>,
}

impl Loaded {
    /// Attaches what is needed for these kinds, and detaches the rest but for what could not be attached once more.
    pub fn attach(&mut self, source: &Source, kinds: KindSet) -> libbpf_rs::Result<()> {
        for program in self.object.progs_mut() {
            let Some(link) = program.name().to_str().and_then(|name| self.links.get_mut(name)) else { continue };
            let needed = program.name().to_str().is_some_and(|name| source.needs(name, kinds));
            if needed && link.is_none() {
                *link = Some(program.attach()?);
            } else if !needed && !is_attached_once(program.attach_type()) {
                *link = None;
            }
        }
        Ok(())
    }

    /// Detaches everything.
    pub fn detach(&mut self) {
        self.links.values_mut().for_each(|link| *link = None);
    }

    /// The programs that are in the kernel, attached or not.
    pub fn programs(&self) -> impl Iterator<Item = Program<'_>> {
        self.object.progs().filter(|program| program.name().to_str().is_some_and(|name| self.links.contains_key(name)))
    }
}

/// Kernels before 5.13 do not take such a program again once it was detached.
fn is_attached_once(how: ProgramAttachType) -> bool {
    matches!(how, ProgramAttachType::TraceFentry | ProgramAttachType::TraceFexit)
}

/// Keeps libbpf's messages for explanations instead of printing them.
pub fn quiet_libbpf() {
    fn keep(_: PrintLevel, message: String) {
        LAST_MESSAGES.with_borrow_mut(|last| {
            last.push(message.trim_end().to_owned());
            let excess = last.len().saturating_sub(MESSAGES);
            last.drain(..excess);
        });
    }
    set_print(Some((PrintLevel::Warn, keep)));
}

/// Loads sources, and attaches what is needed for these kinds: side by side, for nearly all of the time goes into finding the
/// kernel's types.
pub fn load_all(
    sources: impl Iterator<Item = &'static Source>,
    kinds: KindSet,
    narrowing: &Narrowing,
) -> Vec<(&'static Source, (Option<Loaded>, State))> {
    thread::scope(|scope| {
        let begun: Vec<_> =
            sources.map(|source| (source, scope.spawn(move || load(source, kinds, narrowing)))).collect();
        let loaded = begun.into_iter().map(|(source, loading)| (source, loading.join()));
        loaded.map(|(source, loaded)| (source, loaded.expect("loading does not panic"))).collect()
    })
}

/// Loads a source by its best rung, and attaches what is needed for these kinds.
fn load(source: &Source, kinds: KindSet, narrowing: &Narrowing) -> (Option<Loaded>, State) {
    let Narrowing { hooks, exclude_pids, ring_bytes, .. } = narrowing.clone();
    let wide = Narrowing { hooks, exclude_pids, ring_bytes, ..Default::default() };
    let narrowing = if source.is_narrowed() { narrowing } else { &wide };
    let allowed = |rung: &Rung| narrowing.hooks.is_empty() || narrowing.hooks.iter().any(|hook| hook == rung.hook);
    let attempt = |rung: &Rung| probe::granted(rung.hook).and_then(|()| load_rung(source, rung, kinds, narrowing));
    let (mut why, mut interrupted) = (Vec::new(), Vec::new());
    for rung in source.rungs {
        let refusal = if !allowed(rung) {
            Refusal::of(rung, "left out by --hooks")
        } else if probe::granted(rung.hook).is_ok()
            && source.rungs.iter().any(|other| allowed(other) && is_calmer(other, rung))
        {
            interrupted.push(rung);
            Refusal::of(rung, "this kernel interrupts such programs, and leaves out their runs meanwhile")
        } else {
            match attempt(rung) {
                Ok(loaded) => return (Some(loaded), attached(rung, why)),
                Err(refusal) => refusal,
            }
        };
        why.push(refusal);
    }
    for rung in interrupted {
        why.retain(|refusal| refusal.hook != rung.hook);
        match attempt(rung) {
            Ok(loaded) => return (Some(loaded), attached(rung, why)),
            Err(refusal) => why.push(refusal),
        }
    }
    (None, State::Failed { why })
}

fn attached(rung: &Rung, why_not_better: Vec<Refusal>) -> State {
    State::Attached { hook: rung.hook, misses: rung.misses, why_not_better }
}

/// Whether a rung sees as much as another, and is not interrupted as that one is.
fn is_calmer(rung: &Rung, other: &Rung) -> bool {
    rung.misses == other.misses && probe::is_interrupted(other.hook) && rung.hook == probe::NEVER_INTERRUPTED
}

pub(super) fn load_rung(
    source: &Source,
    rung: &Rung,
    kinds: KindSet,
    narrowing: &Narrowing,
) -> Result<Loaded, Refusal> {
    LAST_MESSAGES.with_borrow_mut(Vec::clear);
    let refused = |step: &str, error: &libbpf_rs::Error| {
        let reason = explain(rung.hook, step, error);
        Refusal { hook: rung.hook, reason, log: last_lines() }
    };
    let object = open_and_load(source, rung.programs, Some(narrowing)).map_err(|error| refused("load", &error))?;
    let rings = make_rings(&object, source, narrowing).map_err(|error| refused("load", &error))?;
    let mut loaded = Loaded { object, rings, links: rung.programs.iter().map(|name| (*name, None)).collect() };
    loaded.attach(source, kinds).map_err(|error| refused("attach", &error))?;
    Ok(loaded)
}

/// Loads an object with these programs and no others, attached to nothing yet.
pub fn open_and_load(source: &Source, programs: &[&str], narrowing: Option<&Narrowing>) -> libbpf_rs::Result<Object> {
    let mut open = ObjectBuilder::default().name(source.name)?.open_memory(source.object)?;
    for mut program in open.progs_mut() {
        let wanted = programs.iter().any(|name| program.name() == *name);
        program.set_autoload(wanted);
    }
    prepare(&mut open, source, narrowing)?;
    let object = open.load()?;
    if let Some(narrowing) = narrowing {
        let comm = |name: &String| {
            let mut key = [0; 16];
            key[..name.len()].copy_from_slice(name.as_bytes());
            key.to_vec()
        };
        fill(&object, "only_pids", narrowing.pids.iter().map(|pid| pid.to_ne_bytes().to_vec()))?;
        fill(&object, "only_uids", narrowing.uids.iter().map(|uid| uid.to_ne_bytes().to_vec()))?;
        fill(&object, "only_cgroups", narrowing.cgroups.iter().map(|id| id.to_ne_bytes().to_vec()))?;
        fill(&object, "only_comms", narrowing.comms.iter().map(comm))?;
    }
    Ok(object)
}

fn prepare(open: &mut OpenObject, source: &Source, narrowing: Option<&Narrowing>) -> libbpf_rs::Result<()> {
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if name == "rings" {
            map.set_max_entries(ring_count(source))?;
        } else if name == ".rodata.rings"
            && let Some(bytes) = map.initial_value_mut()
        {
            let mask = (ring_count(source) - 1).to_ne_bytes();
            bytes[..mask.len()].copy_from_slice(&mask);
        } else if name == "only_cgroups" && narrowing.is_some_and(|narrowing| narrowing.containers.is_some()) {
            map.set_max_entries(MAX_JUDGED_CGROUPS)?;
        } else if name == ".rodata.narrowing"
            && let Some(narrowing) = narrowing
            && let Some(bytes) = map.initial_value_mut()
        {
            let Narrowing { hooks: _, pids, comms, uids, cgroups, containers, exclude_pids, ring_bytes: _ } = narrowing;
            let count = |list: usize| u32::try_from(list).unwrap_or(u32::MAX);
            let value = layout::narrowing {
                pids: count(pids.len()),
                comms: count(comms.len()),
                uids: count(uids.len()),
                // Not 0 while no container is known yet: none means none.
                cgroups: count(cgroups.len() + usize::from(containers.is_some())),
                exclude_pids: *exclude_pids,
                judges: u32::from(containers.is_some()),
            };
            let value = bytes_of(&value);
            bytes[..value.len()].copy_from_slice(value);
        }
    }
    Ok(())
}

/// How many rings a source has: a power of two, so that a mask of a CPU's number says which is its own.
fn ring_count(source: &Source) -> u32 {
    let cpus = libbpf_rs::num_possible_cpus().map_or(1, |cpus| u32::try_from(cpus).unwrap_or(MAX_RINGS));
    if source.floods { cpus.min(MAX_RINGS).next_power_of_two() } else { 1 }
}

fn make_rings(object: &Object, source: &Source, narrowing: &Narrowing) -> libbpf_rs::Result<Vec<MapHandle>> {
    let Some(map) = object.maps().find(|map| map.name() == "rings") else { return Ok(Vec::new()) };
    let count = ring_count(source);
    let bytes = narrowing.ring_bytes.get(source.name).copied().unwrap_or(source.ring_bytes);
    let each = (bytes / count).max(MIN_RING_BYTES);
    let options = bpf_map_create_opts { sz: size_of::<bpf_map_create_opts>() as _, ..Default::default() };
    let make = |number: u32| {
        let ring = MapHandle::create(MapType::RingBuf, Some("ring"), 0, 0, each, &options)?;
        map.update(&number.to_ne_bytes(), &ring.as_fd().as_raw_fd().to_ne_bytes(), MapFlags::ANY)?;
        Ok(ring)
    };
    (0..count).map(make).collect()
}

fn fill(object: &Object, map: &str, keys: impl Iterator<Item = Vec<u8>>) -> libbpf_rs::Result<()> {
    let Some(map) = object.maps().find(|other| other.name() == map) else { return Ok(()) };
    keys.into_iter().try_for_each(|key| map.update(&key, &[1], MapFlags::ANY))
}

/// Why a source's rings cannot be handed to whoever reads them.
pub fn unreadable(hook: &'static str, error: &std::io::Error) -> Refusal {
    let remedy = if error.to_string().contains(NO_DESCRIPTORS) { format!("; {MORE_FILES}") } else { String::new() };
    Refusal { hook, reason: format!("its rings cannot be read: {error}{remedy}"), log: Vec::new() }
}

/// What happened, the likely cause and the remedy, in a line.
fn explain(hook: &str, step: &str, error: &libbpf_rs::Error) -> String {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return "the kernel says nothing of its types (no /sys/kernel/btf/vmlinux, or sysfs is not mounted): use one \
                built with CONFIG_DEBUG_INFO_BTF, as the distributions' are"
            .into();
    }
    let may = may_load();
    match error.kind() {
        ErrorKind::PermissionDenied if !may => {
            "not permitted: run it as root, or with CAP_BPF and CAP_PERFMON (kernels before 5.8: CAP_SYS_ADMIN)".into()
        }
        ErrorKind::PermissionDenied if step == "load" && last_line().is_none() => {
            "this kernel refuses such programs (no BPF trampolines, or locked down)".into()
        }
        ErrorKind::NotFound if hook == "kprobe" && !Path::new(KPROBES).exists() => {
            "this kernel was built without kprobes".into()
        }
        ErrorKind::NotFound if step == "attach" && !tracefs_is_mounted() => {
            "tracefs is not mounted: mount -t tracefs nodev /sys/kernel/tracing".into()
        }
        ErrorKind::NotFound => format!("this kernel does not have it ({step}: {error:#})"),
        _ => match (format!("{error:#}"), last_line()) {
            // Whatever it was that needed one more.
            (text, _) if text.contains(NO_DESCRIPTORS) => format!("{step} failed: {text}; {MORE_FILES}"),
            (text, Some(line)) => format!("{step} failed: {text}; {line}"),
            (text, None) => format!("{step} failed: {text}"),
        },
    }
}

/// The end of what libbpf and the verifier had to say.
fn last_lines() -> Vec<String> {
    let useful = |line: &&str| !line.trim().is_empty() && !NOISE.iter().any(|words| line.contains(words));
    LAST_MESSAGES.with_borrow(|messages| {
        messages.iter().for_each(|message| log::debug!("{message}"));
        let lines = messages.iter().flat_map(|message| message.lines()).filter(useful);
        let mut lines: Vec<String> = lines.map(|line| line.trim_end().to_owned()).collect();
        lines.split_off(lines.len().saturating_sub(LOG_LINES))
    })
}

fn last_line() -> Option<String> {
    last_lines().pop().map(|line| line.trim().to_owned())
}

fn may_load() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    let has = |cap: u32| u64::from_str_radix(line.trim(), 16).is_ok_and(|caps| caps & (1 << cap) != 0);
    has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_PERFMON))
}

fn tracefs_is_mounted() -> bool {
    ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"].iter().any(|path| Path::new(path).exists())
}
