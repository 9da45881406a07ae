//! The kernel's records as the BPF programs lay them out: generated from the programs' own BTF, so that there is no second
//! description to keep in step. One of the two places with `unsafe`.
#![allow(unsafe_code)]

/// Layouts of `bpf/process.bpf.c`, and of `bpf/eunomia.h`.
#[allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code, unreachable_pub)]
#[allow(clippy::all)]
pub mod process {
    include!(concat!(env!("OUT_DIR"), "/process.types.rs"));
}

/// A type for which any bytes are a value.
///
/// # Safety
/// Made of integers and arrays of them only, without padding.
pub unsafe trait Plain: Copy {}

/// Marks layouts as plain, and holds them to be without padding.
macro_rules! plain {
    ($($layout:ty: $size:expr;)*) => { $(
        // SAFETY: integers and arrays of them; the sum of the fields' sizes, given here, is the size.
        unsafe impl Plain for $layout {}
        const _: () = assert!(size_of::<$layout>() == $size);
    )* };
}

const TASK: usize = 2 * 8 + 8 * 4 + 16;
const HEADER: usize = 8 + 2 * 4 + TASK;

plain! {
    process::record_counts: 3 * 8;
    process::narrowing: 4 * 4;
    process::running_record: TASK;
    process::exec_record: HEADER + 8 + 6 * 4 + 32 + 16;
    process::exit_record: HEADER + 8 + 2 * 4;
    process::fork_record: HEADER + 2 * 4;
    process::record_header: HEADER;
}

/// Reads a value from the beginning of `bytes`; none where they are too few.
pub fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: there are enough bytes, any of them make a `T`, and the read needs no alignment.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// A value's bytes.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: the value has no padding, so every byte of it is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}
