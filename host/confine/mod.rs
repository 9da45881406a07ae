//! Giving up power: what this process may no longer do. It knows the kernel's means for that, and nothing of what the
//! process is for.

mod compiler;
mod filter;
mod host;

pub use compiler::{COMPILE_CPU_SECONDS, COMPILE_MEMORY_BYTES, COMPILE_THREADS, CompileLimits, compiler};
pub use host::{Power, host};
