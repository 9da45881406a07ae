//! The kernel's records as the BPF programs lay them out: generated from the programs' own BTF, so that there is no second
//! description to keep in step. One of the two places with `unsafe`.
#![allow(unsafe_code)]

/// The layouts of `bpf/*.h`.
#[allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code, unreachable_pub)]
#[allow(clippy::all)]
pub mod c {
    include!(concat!(env!("OUT_DIR"), "/layouts.rs"));
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
const START: usize = 2 * 4 + 8;
const HEADER: usize = START + TASK;
const FLAT_TASK: usize = 3 * 8 + 16 + 6 * 4;

plain! {
    c::record_counts: 3 * 8;
    c::narrowing: 7 * 4;
    c::whose_key: 3 * 8;
    c::running_record: TASK;
    c::exec_record: HEADER + 8 + 6 * 4 + 32 + 16;
    c::exit_record: HEADER + 8 + 2 * 4;
    c::fork_record: HEADER + 2 * 4;
    c::record_start: START;
    c::record_header: HEADER;
    c::syscall_flat: FLAT_TASK + 6 * 8 + 8;
    c::syscall_record: 8 + size_of::<c::syscall_flat>();
    c::syscall_return_flat: FLAT_TASK + 2 * 8 + 8;
    c::syscall_return_record: 8 + size_of::<c::syscall_return_flat>();
    c::count_key: 3 * 4 + 4;
    c::count_value: 3 * 8 + TASK;
    c::syscall_count_record: HEADER + 3 * 8 + 2 * 4;
    c::file_io_flat: FLAT_TASK + 2 * 8 + 8;
    c::file_io_record: 8 + size_of::<c::file_io_flat>();
    c::activity_key: 2 * 8 + 2 * 4;
    c::activity_value: 4 * 8 + TASK + 4 * 4 + 256;
    c::file_activity_record: HEADER + 5 * 8 + 6 * 4;
    c::given_path: 4 * 4;
    c::file_open_record: HEADER + 8 + 6 * 4 + 4 * 4;
    c::file_change_record: HEADER + 8 + 6 * 4 + 2 * 4 * 4;
    c::tcp_record: HEADER + 3 * 8 + 2 * 16 + 6 * 4;
    c::ipc_record: HEADER + 10 * 4;
    c::seccomp_record: HEADER + 4 * 4;
    c::cgroup_record: HEADER + 8 + 4 * 4;
}

/// Reads a value from the beginning of `bytes`; none where they are too few.
pub fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: there are enough bytes, any of them make a `T`, and the read needs no alignment.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// A value's bytes.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    bytes_of_all(std::slice::from_ref(value))
}

/// Values' bytes, one behind the other.
pub fn bytes_of_all<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: the values have no padding, so every byte of them is initialised.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) }
}
