//! Bad plugins, bad files and bad luck: each is named once with its cause, and harms nobody else.

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod directory;
mod loading;
mod wasm;
