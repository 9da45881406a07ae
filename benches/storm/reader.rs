//! The least that any program can do with the same records: no plugin, no order, no losses counted, nobody else served. libbpf reads
//! the rings, and a loop counts the calls of a number.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};

use eunomia_host::event::layout::c::{syscall_flat, syscall_record};
use eunomia_host::source::{LATENCY, SOURCES, Source};
use libbpf_rs::libbpf_sys::bpf_map_create_opts;
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, MapType, Object, ObjectBuilder, RingBufferBuilder};

use super::measure::{cpu, finish};

/// Runs until standard input ends; then prints how many calls of this number it has counted.
pub fn read(number: u32) {
    let source = SOURCES.iter().find(|source| source.name == "syscall").expect("there is such a source");
    let attached = source.rungs.iter().find_map(|rung| attach(source, rung.programs[0]).ok());
    let (_object, _link, rings) = attached.expect("the host's programs can be attached; is this root?");
    let seen = Cell::new(0_u64);
    let count = |record: &[u8]| {
        let at = offset_of!(syscall_record, flat) + offset_of!(syscall_flat, number);
        let of = record.get(at..at + size_of::<u32>()).map(|bytes| u32::from_ne_bytes(bytes.try_into().expect("four")));
        seen.set(seen.get() + u64::from(of == Some(number)));
        0
    };
    let mut builder = RingBufferBuilder::new();
    for ring in &rings {
        builder.add(ring, count).expect("it is a ring");
    }
    let buffers = builder.build().expect("there are rings");
    let ended: &AtomicBool = Box::leak(Box::default());
    spawn(|| {
        _ = std::io::stdin().read_to_end(&mut Vec::new());
        ended.store(true, Ordering::Relaxed);
    });
    println!("ready");
    while !ended.load(Ordering::Relaxed) {
        buffers.consume().expect("the rings can be read");
        sleep(LATENCY);
    }
    buffers.consume().expect("the rings can be read");
    println!("{}", seen.get());
}

/// Loads and attaches one program of a source, with a ring for each CPU, for all calls.
fn attach(source: &Source, name: &str) -> libbpf_rs::Result<(Object, Link, Vec<MapHandle>)> {
    let count = u32::try_from(libbpf_rs::num_possible_cpus()?).expect("so many CPUs").next_power_of_two();
    let mut open = ObjectBuilder::default().open_memory(source.object)?;
    for mut program in open.progs_mut() {
        let wanted = program.name() == name;
        program.set_autoload(wanted);
    }
    for mut map in open.maps_mut() {
        if map.name() == "rings" {
            map.set_max_entries(count)?;
        } else if map.name() == ".rodata.rings" {
            map.initial_value_mut().expect("it has a value")[..4].copy_from_slice(&(count - 1).to_ne_bytes());
        }
    }
    let object = open.load()?;
    let map = |name: &str| object.maps().find(|map| map.name() == name).expect("the source has it");
    let options = bpf_map_create_opts { sz: size_of::<bpf_map_create_opts>() as _, ..Default::default() };
    let mut rings = Vec::new();
    for number in 0..count {
        let ring = MapHandle::create(MapType::RingBuf, Some("ring"), 0, 0, source.ring_bytes / count, &options)?;
        map("rings").update(&number.to_ne_bytes(), &ring.as_fd().as_raw_fd().to_ne_bytes(), MapFlags::ANY)?;
        rings.push(ring);
    }
    let selected = map("selected");
    for key in 0..selected.max_entries() {
        let all = vec![u8::MAX; selected.value_size() as usize];
        selected.update(&key.to_ne_bytes(), &all, MapFlags::ANY)?;
    }
    let program = object.progs_mut().find(|program| program.name() == name).expect("it was loaded");
    let link = program.attach()?;
    Ok((object, link, rings))
}

/// The reader as a child process, ready.
pub struct Reader {
    child: Child,
    printed: BufReader<std::process::ChildStdout>,
    start: f64,
}

impl Reader {
    pub fn start(number: u32) -> Reader {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.args(["reader", &number.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program runs");
        let mut printed = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        printed.read_line(&mut line).expect("it prints text");
        assert_eq!(line, "ready\n", "the reader is not ready");
        let start = cpu(child.id()).all();
        Reader { child, printed, start }
    }

    /// Ends it. What it has counted, and its CPU time since it was ready.
    pub fn stop(mut self) -> (u64, f64) {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.printed.read_line(&mut line).expect("it prints text");
        let seen = line.trim().parse().expect("it prints a number");
        (seen, finish(&mut self.child).all() - self.start)
    }
}
