//! Lowers a run of events into a plugin's memory straight from the batch that all plugins share. It knows wasmtime's
//! lowering traits and nothing of what the events mean.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use wasmtime::Result;
use wasmtime::component::__internal::{CanonicalAbiInfo, InstanceType, InterfaceType, LowerContext};
use wasmtime::component::{ComponentType, Lower};

use crate::event::{Pick, Record, Rows};

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

// SAFETY: forwards to the lowering of `[R]` or `[&R]`, which are the same type to a component.
unsafe impl<R: Record> Lower for Run<R> {
    fn linear_lower_to_flat<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        ty: InterfaceType,
        dst: &mut MaybeUninit<Self::Lower>,
    ) -> Result<()> {
        let column = R::column(&self.0.batch.columns);
        match &self.0.pick {
            Pick::Range(rows) => column[rows.start as usize..rows.end as usize].linear_lower_to_flat(cx, ty, dst),
            Pick::Each(rows) => self.gather(rows, column).linear_lower_to_flat(cx, ty, dst),
        }
    }

    fn linear_lower_to_memory<T>(&self, cx: &mut LowerContext<'_, T>, ty: InterfaceType, offset: usize) -> Result<()> {
        let column = R::column(&self.0.batch.columns);
        match &self.0.pick {
            Pick::Range(rows) => column[rows.start as usize..rows.end as usize].linear_lower_to_memory(cx, ty, offset),
            Pick::Each(rows) => self.gather(rows, column).linear_lower_to_memory(cx, ty, offset),
        }
    }
}

impl<R: Record> Run<R> {
    fn gather<'a>(&self, rows: &[u32], column: &'a [R]) -> Vec<&'a R> {
        rows.iter().map(|row| &column[*row as usize]).collect()
    }
}
