//! A plugin sees the same, whichever way events are lowered: by one copy, row by row, or as the engine's own derived code does.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use wasmtime::component::{Component, ComponentExportIndex, Instance, Lift, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::*;
use crate::event::clock::Clock;
use crate::event::{Batch, Columns, Kind, Visitor, decode};

#[derive(Default)]
struct State(WasiCtx, ResourceTable);

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.0, table: &mut self.1 }
    }
}

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0.rotate_right(29)
    }

    fn below(&mut self, end: u64) -> u8 {
        (self.next() % end) as u8
    }

    fn comm(&mut self) -> [i8; 16] {
        std::array::from_fn(|_| self.next() as i8)
    }
}

struct Raw {
    store: Store<State>,
    instance: Instance,
}

impl Raw {
    fn new() -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures/raw.wasm");
        let engine = Engine::default();
        let component = Component::from_file(&engine, file).expect("run `make fixtures`");
        let mut linker: Linker<State> = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_sync(&mut linker).unwrap();
        let mut store = Store::new(&engine, State::default());
        let instance = linker.instantiate(&mut store, &component).unwrap();
        Raw { store, instance }
    }

    /// The bytes that a list of events is in the plugin's memory.
    fn bytes<L: Lower + ComponentType>(&mut self, kind: &str, events: L) -> Vec<u8>
    where
        (L,): wasmtime::component::ComponentNamedList + Lower,
        (Vec<bool>,): Lift,
    {
        let interface = format!("eunomia:plugin/filter-{kind}@0.1.0");
        let export: ComponentExportIndex = self.instance.get_export_index(&mut self.store, None, &interface).unwrap();
        let keep = self.instance.get_export_index(&mut self.store, Some(&export), "keep").unwrap();
        let keep = self.instance.get_typed_func::<(L,), (Vec<bool>,)>(&mut self.store, keep).unwrap();
        let bits = keep.call(&mut self.store, (events,)).unwrap().0;
        bits.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
    }

    /// `padding` is how many bytes of a record are no field's: at its end.
    fn check<F, R>(&mut self, columns: Columns, padding: usize)
    where
        F: Record + crate::event::layout::Plain,
        R: Lower + ComponentType + for<'a> From<&'a F> + Debug,
    {
        let batch = Arc::new(Batch { columns, ..Default::default() });
        let rows = F::column(&batch.columns);
        let name = F::KIND.name();
        let derived: Vec<R> = rows.iter().map(R::from).collect();
        let mut expected = self.bytes(name, derived);
        // Derived code leaves there what the plugin's memory held before. One copy does not, and must copy nothing either.
        expected.chunks_mut(size_of::<F>()).for_each(|record| record[size_of::<F>() - padding..].fill(0));
        assert_eq!(expected, bytes_of_all(rows), "{name}: as derived code lowers them");
        let end = u32::try_from(rows.len()).unwrap();
        let run = |pick| Run::<F>::new(Rows { batch: batch.clone(), kind: F::KIND, pick });
        assert_eq!(self.bytes(name, run(Pick::Range(0..end))), expected, "{name}: by one copy");
        let every_second: Vec<u32> = (0..end).step_by(2).collect();
        let some: Vec<u8> =
            every_second.iter().flat_map(|row| bytes_of_all(&rows[*row as usize..][..1])).copied().collect();
        assert_eq!(self.bytes(name, run(Pick::Each(every_second))), some, "{name}: row by row");
    }
}

/// Whether a plugin says the same of events, however they are lowered.
struct Says<'a>(&'a mut Raw, &'a Arc<Batch>);

impl Visitor for Says<'_> {
    type Output = ();

    fn visit<R: Record>(self) {
        let (raw, batch, name) = (self.0, self.1, R::KIND.name());
        let derived = R::column(&batch.columns);
        let rows = |pick| Run::<R>::new(Rows { batch: batch.clone(), kind: R::KIND, pick });
        let expected = raw.bytes(name, derived.clone());
        let text = String::from_utf8(expected.clone()).unwrap();
        assert!(text.starts_with('[') && text.matches("time: ").count() >= derived.len(), "{text}");
        assert!(raw.bytes(name, rows(Pick::Range(0..derived.len() as u32))) == expected, "{name}: {text}");
        let (every_second, some): (Vec<u32>, Vec<R>) = (0..).zip(derived.iter().cloned()).step_by(2).unzip();
        assert!(raw.bytes(name, rows(Pick::Each(every_second))) == raw.bytes(name, some), "{name}: row by row");
    }
}

/// A record's bytes: small numbers, which are lengths, flags and cases too, and now and then a large one; behind them letters.
fn record(number: u32, numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = vec![0; 1_024];
    for word in bytes[..512].chunks_exact_mut(4) {
        let value = if numbers.below(16) == 0 { numbers.next() as u32 } else { u32::from(numbers.below(4)) };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes[512..].fill_with(|| numbers.below(128));
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes
}

#[test]
fn a_plugin_is_told_the_same_as_by_derived_lowering() {
    const EVENTS: usize = 200;
    let (mut raw, mut numbers) = (Raw::new(), Numbers(3));
    for kind in
        Kind::ALL.iter().copied().filter(|kind| ![Kind::Syscall, Kind::SyscallReturn, Kind::FileIo].contains(kind))
    {
        let Some(number) = kind.record_number() else { continue };
        let (mut columns, mut tries) = (Columns::default(), 0);
        while columns.count(kind) < EVENTS {
            _ = decode(&record(number, &mut numbers), &Clock::new(0, 0), &mut columns);
            tries += 1;
            assert!(tries < EVENTS * 1_000, "{kind}: hardly any record makes sense");
        }
        let batch = Arc::new(Batch { columns, ..Default::default() });
        kind.visit(Says(&mut raw, &batch));
    }
}

#[test]
#[rustfmt::skip]
fn a_plugin_gets_the_same_bytes_as_from_derived_lowering() {
    let (mut raw, mut numbers) = (Raw::new(), Numbers(1));
    let mut random = numbers.next();
    for count in [1, 2, 3, 64, 255] {
        let mut n = || { random = numbers.next(); random };
        let mut head = || ([n(), n(), n()], [n() as u32, n() as u32, n() as u32, n() as u32, n() as u32, n() as u32], [n(), n(), n(), n(), n(), n()]);
        let heads: Vec<_> = (0..count).map(|_| head()).collect();
        let mut cases = Numbers(random);
        let syscall = heads.iter().map(|([time, start_time, cgroup], [pid, tid, ppid, uid, gid, number], args)| c::syscall_flat {
            time: *time, start_time: *start_time, cgroup: *cgroup, comm: cases.comm(), pid: *pid, tid: *tid, ppid: *ppid,
            uid: *uid, gid: *gid, number: *number, arg0: args[0], arg1: args[1], arg2: args[2], arg3: args[3], arg4: args[4],
            arg5: args[5], abi: cases.below(3), padding: [0; 7],
        }).collect();
        raw.check::<c::syscall_flat, Syscall>(Columns { syscall, ..Default::default() }, 7);
        let syscall_return = heads.iter().map(|([time, start_time, cgroup], [pid, tid, ppid, uid, gid, number], args)| c::syscall_return_flat {
            time: *time, start_time: *start_time, cgroup: *cgroup, comm: cases.comm(), pid: *pid, tid: *tid, ppid: *ppid,
            uid: *uid, gid: *gid, number: *number, value: args[0] as i64, duration: args[1], abi: cases.below(3), padding: [0; 7],
        }).collect();
        raw.check::<c::syscall_return_flat, SyscallReturn>(Columns { syscall_return, ..Default::default() }, 7);
        let file_io = heads.iter().map(|([time, start_time, cgroup], [pid, tid, ppid, uid, gid, device], args)| c::file_io_flat {
            time: *time, start_time: *start_time, cgroup: *cgroup, comm: cases.comm(), pid: *pid, tid: *tid, ppid: *ppid,
            uid: *uid, gid: *gid, device: *device, inode: args[0], bytes: args[1], error: args[2] as u32,
            operation: cases.below(2), r#type: cases.below(3), padding: [0; 2],
        }).collect();
        raw.check::<c::file_io_flat, FileIo>(Columns { file_io, ..Default::default() }, 2);
    }
}
