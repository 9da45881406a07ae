//! Bad plugins, bad files and bad luck: each is named once with its cause, and harms nobody else.

#[path = "../support/mod.rs"]
mod support;

mod beside;
mod cache;
mod computing;
mod directory;
mod host_calls;
mod loading;
mod wasm;
