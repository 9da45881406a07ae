//! eunomia-host: events of the Linux kernel, delivered to sandboxed Wasm plugins.
//!
//! The rooms and what each may know are drawn in `docs/ARCHITECTURE.md`; an event's way through them is *emit, poll,
//! decode, dispatch, handle, output*. `run` is the table of contents.

pub mod broker;
pub mod compile;
pub mod config;
pub mod confine;
pub mod directory;
pub mod dispatch;
pub mod event;
pub mod output;
pub mod plugin;
pub mod run;
pub mod source;
pub mod wit;
