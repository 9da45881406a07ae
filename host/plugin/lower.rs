//! Lowers a run of events into a plugin's memory straight from the batch that all plugins share. It knows wasmtime's
//! lowering traits and nothing of what the events mean.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use wasmtime::Result;
use wasmtime::component::__internal::{CanonicalAbiInfo, InstanceType, InterfaceType, LowerContext};
use wasmtime::component::{ComponentType, Lower};

use crate::event::layout::{bytes_of, bytes_of_all, c};
use crate::event::{Pick, Record, Rows};
use crate::wit::files::{FileIo, FileOperation, FileType};
use crate::wit::syscall::{Abi, FlatComm, Syscall, SyscallReturn};
use crate::wit::{Canonical, Memory, put_all};

/// A `list<R>` for a plugin: rows of a shared batch, not a copy of them.
pub struct Run<R>(Rows, PhantomData<fn() -> R>);

impl<R: Record> Run<R> {
    /// Rows of the record's own kind.
    pub fn new(rows: Rows) -> Self {
        assert_eq!(rows.kind, R::KIND, "rows of one kind lowered as another");
        Run(rows, PhantomData)
    }
}

// SAFETY: everything is what `[R]`, whose lowering `Lower` below forwards to, says of itself.
unsafe impl<R: Record> ComponentType for Run<R> {
    type Lower = <[R] as ComponentType>::Lower;
    const ABI: CanonicalAbiInfo = <[R] as ComponentType>::ABI;

    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> Result<()> {
        <[R] as ComponentType>::typecheck(ty, types)
    }
}

// SAFETY: forwards to the lowering of `[R]` or `[Row<R>]`, which are the same type to a component.
unsafe impl<R: Record> Lower for Run<R> {
    fn linear_lower_to_flat<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        ty: InterfaceType,
        dst: &mut MaybeUninit<Self::Lower>,
    ) -> Result<()> {
        match &self.0.pick {
            Pick::Range(rows) if R::FLAT => self.column(rows).linear_lower_to_flat(cx, ty, dst),
            _ => self.rows().linear_lower_to_flat(cx, ty, dst),
        }
    }

    fn linear_lower_to_memory<T>(&self, cx: &mut LowerContext<'_, T>, ty: InterfaceType, offset: usize) -> Result<()> {
        match &self.0.pick {
            Pick::Range(rows) if R::FLAT => self.column(rows).linear_lower_to_memory(cx, ty, offset),
            _ => self.rows().linear_lower_to_memory(cx, ty, offset),
        }
    }
}

impl<R: Record> Run<R> {
    fn column(&self, rows: &Range<u32>) -> &[R] {
        &R::column(&self.0.batch.columns)[rows.start as usize..rows.end as usize]
    }

    fn rows(&self) -> Vec<Row<'_, R>> {
        match &self.0.pick {
            Pick::Range(rows) => self.column(rows).iter().map(Row).collect(),
            Pick::Each(rows) => {
                let column = R::column(&self.0.batch.columns);
                rows.iter().map(|row| Row(&column[*row as usize])).collect()
            }
        }
    }
}

/// One record of a run, lowered as `Canonical` has it.
struct Row<'a, R>(&'a R);

// SAFETY: everything is what the record says of itself.
unsafe impl<R: Record> ComponentType for Row<'_, R> {
    type Lower = R::Lower;
    const ABI: CanonicalAbiInfo = R::ABI;

    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> Result<()> {
        R::typecheck(ty, types)
    }
}

// SAFETY: writes the bytes of records, which are those of the canonical layout: sizes and alignments are the engine's own, and
// tests compare the bytes with those of its derived code.
unsafe impl<R: Record> Lower for Row<'_, R> {
    fn linear_lower_to_flat<T>(
        &self,
        _: &mut LowerContext<'_, T>,
        _: InterfaceType,
        _: &mut MaybeUninit<Self::Lower>,
    ) -> Result<()> {
        Err(wasmtime::Error::msg(IN_LISTS))
    }

    fn linear_lower_to_memory<T>(&self, cx: &mut LowerContext<'_, T>, ty: InterfaceType, offset: usize) -> Result<()> {
        Self::linear_store_list_to_memory(cx, ty, offset, std::slice::from_ref(self))
    }

    fn linear_store_list_to_memory<T>(
        cx: &mut LowerContext<'_, T>,
        _: InterfaceType,
        offset: usize,
        rows: &[Self],
    ) -> Result<()> {
        put_all(rows.iter().map(|row| row.0), offset, cx)
    }
}

const IN_LISTS: &str = "events are given in lists";

/// Where a field stands in the canonical layout, behind what ends at `offset`.
const fn place<T: ComponentType>(offset: usize) -> usize {
    offset.next_multiple_of(T::ALIGN32 as usize)
}

/// Marks layouts as those of records: each field, in the record's order, with its type there. The compiler compares them with the
/// canonical layout and, by name, with the record as it was generated from `wit/`.
macro_rules! flat {
    ($($layout:ident is $record:ident { $($field:ident = $name:ident: $ty:ty,)* })*) => { $(
        const _: () = {
            assert!(cfg!(target_endian = "little"), "the canonical layout is little-endian");
            let end = 0;
            $(
                let at = place::<$ty>(end);
                assert!(std::mem::offset_of!(c::$layout, $field) == at, stringify!($field));
                let end = at + <$ty as ComponentType>::SIZE32;
            )*
            assert!(end.next_multiple_of(<$record as ComponentType>::ALIGN32 as usize) == size_of::<c::$layout>());
            assert!(size_of::<c::$layout>() == <$record as ComponentType>::SIZE32);
            // Every field and no other, each of this type.
            const fn _names(record: $record) {
                let $record { $($name,)* } = record;
                $(let _: $ty = $name;)*
            }
        };

        // SAFETY: the type is the record's, and so is the layout: see above.
        unsafe impl ComponentType for c::$layout {
            type Lower = <$record as ComponentType>::Lower;
            const ABI: CanonicalAbiInfo = <$record as ComponentType>::ABI;

            fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> Result<()> {
                <$record as ComponentType>::typecheck(ty, types)
            }
        }

        impl Canonical for c::$layout {
            const FLAT: bool = true;

            fn put<T>(&self, bytes: &mut [u8], _: usize, _: &mut Memory<'_, T>) -> Result<()> {
                bytes.copy_from_slice(bytes_of(self));
                Ok(())
            }
        }

        // SAFETY: writes the bytes of records, which are those of the canonical layout, enums' numbers being known to be cases
        // and padding to be zero since they were decoded.
        unsafe impl Lower for c::$layout {
            fn linear_lower_to_flat<T>(
                &self,
                _: &mut LowerContext<'_, T>,
                _: InterfaceType,
                _: &mut MaybeUninit<Self::Lower>,
            ) -> Result<()> {
                Err(wasmtime::Error::msg(IN_LISTS))
            }

            fn linear_lower_to_memory<T>(
                &self,
                cx: &mut LowerContext<'_, T>,
                ty: InterfaceType,
                offset: usize,
            ) -> Result<()> {
                Self::linear_store_list_to_memory(cx, ty, offset, std::slice::from_ref(self))
            }

            fn linear_store_list_to_memory<T>(
                cx: &mut LowerContext<'_, T>,
                _: InterfaceType,
                offset: usize,
                records: &[Self],
            ) -> Result<()> {
                let bytes = bytes_of_all(records);
                cx.as_slice_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
                Ok(())
            }
        }
    )* };
}

flat! {
    syscall_flat is Syscall {
        time = time: u64, start_time = start_time: u64, cgroup = cgroup: u64, comm = comm: FlatComm,
        pid = pid: u32, tid = tid: u32, ppid = ppid: u32, uid = uid: u32, gid = gid: u32, number = number: u32,
        arg0 = arg0: u64, arg1 = arg1: u64, arg2 = arg2: u64, arg3 = arg3: u64, arg4 = arg4: u64, arg5 = arg5: u64,
        abi = abi: Abi,
    }
    syscall_return_flat is SyscallReturn {
        time = time: u64, start_time = start_time: u64, cgroup = cgroup: u64, comm = comm: FlatComm,
        pid = pid: u32, tid = tid: u32, ppid = ppid: u32, uid = uid: u32, gid = gid: u32, number = number: u32,
        value = value: i64, duration = duration: u64, abi = abi: Abi,
    }
    file_io_flat is FileIo {
        time = time: u64, start_time = start_time: u64, cgroup = cgroup: u64, comm = comm: FlatComm,
        pid = pid: u32, tid = tid: u32, ppid = ppid: u32, uid = uid: u32, gid = gid: u32, device = device: u32,
        inode = inode: u64, bytes = bytes: u64, error = error: u32, operation = operation: FileOperation,
        r#type = file_type: FileType,
    }
}

#[cfg(test)]
mod tests;
