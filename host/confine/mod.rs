//! Giving up power: what this process may no longer do. It knows the kernel's means for that, and nothing of what the
//! process is for.

mod broker;
mod calls;
mod compiler;
mod filter;
mod host;
mod power;

pub use broker::broker;
pub use compiler::{COMPILE_CPU_SECONDS, COMPILE_MEMORY_BYTES, COMPILE_THREADS, CompileLimits, compiler};
pub use host::host;
pub use power::Power;
