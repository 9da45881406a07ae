//! Making machine code of a plugin, and taking such code into the engine. The second of these trusts its bytes.
#![allow(unsafe_code)]

use std::hash::{Hash, Hasher};

use anyhow::Result;
use wasmtime::component::Component;

use super::engine::{self, ENGINE_VERSION};
use crate::compile::MachineCode;

/// Compiles a component. For the process that does nothing else.
pub fn compile(component: &[u8]) -> Result<Vec<u8>> {
    Ok(engine::engine()?.precompile_component(component)?)
}

/// What of the engine that runs plugins its machine code depends on.
pub fn engine_identity() -> Result<Vec<u8>> {
    Ok(identity(&engine::engine()?))
}

/// What of an engine its machine code depends on: its version, its settings, and what the processor can.
pub(super) fn identity(engine: &wasmtime::Engine) -> Vec<u8> {
    /// Keeps what is hashed instead of hashing it: the cache takes a digest that nobody can have collide.
    #[derive(Default)]
    struct Bytes(Vec<u8>);
    impl Hasher for Bytes {
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut bytes = Bytes(format!("{ENGINE_VERSION} {} ", env!("CARGO_PKG_VERSION")).into_bytes());
    engine.precompile_compatibility_hash().hash(&mut bytes);
    bytes.0
}

/// Takes machine code into the engine.
pub(super) fn load(engine: &wasmtime::Engine, code: &MachineCode) -> Result<Component> {
    // SAFETY: the engine runs these bytes as they are, so they must be what `compile` above made and nobody has changed. A
    // `MachineCode` is made by the room `compile` alone: of what a process of this very program wrote to a pipe that only it
    // had, or of a file that holds the digest of such bytes, in a folder that only this user can write.
    let component = unsafe { Component::deserialize(engine, code.bytes()) };
    Ok(component?)
}
