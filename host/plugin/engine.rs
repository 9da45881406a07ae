//! The one engine that compiles and runs all plugins, its clock of epochs, and the linker with the host's services.

use std::sync::Arc;

use tokio::sync::Notify;
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, Engine, Result, Strategy, WasmBacktraceDetails};

use super::epochs::Epochs;
use super::loaded::Loaded;
use super::machine_code;
use super::services::State;
use crate::compile::{CompileLimits, Compiler, MachineCode};
use crate::wit;

/// The engine's version, on which machine code depends.
pub(super) const ENGINE_VERSION: &str = "48.0.8";

/// A plugin's call stack. Ordinary components need some tens of KiB; recursion is stopped here with a trap.
const STACK_BYTES: usize = 512 << 10;

/// The stack that a plugin and the host functions that it calls share.
const FIBER_STACK_BYTES: usize = STACK_BYTES + (512 << 10);

/// What all plugins share.
#[derive(Clone)]
pub struct Runtime {
    pub(super) engine: Engine,
    pub(super) linker: Arc<Linker<State>>,
    compiler: Arc<Compiler>,
    /// What the engine's machine code depends on.
    identity: Arc<[u8]>,
    pub(super) loaded: Arc<Loaded>,
    pub(super) epochs: Arc<Epochs>,
    /// Wakes whoever has to know that a plugin went back to the version before.
    pub(super) rolled_back: Arc<Notify>,
}

impl Runtime {
    /// Starts the engine and the thread that counts its epochs, which ends with the last clone of the engine.
    pub fn new(compiler: Compiler) -> Result<Self> {
        let engine = engine()?;
        let epochs = Epochs::start(&engine)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        wit::Plugin::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
        let identity = machine_code::identity(&engine).into();
        let (linker, compiler) = (Arc::new(linker), Arc::new(compiler));
        let (loaded, rolled_back) = Default::default();
        Ok(Runtime { engine, linker, compiler, identity, loaded, epochs, rolled_back })
    }

    /// Wakes whoever waits for it when a plugin has gone back to the version before.
    pub fn rolled_back(&self) -> Arc<Notify> {
        self.rolled_back.clone()
    }

    /// Has a component compiled. Takes a processor's time: for a thread that may block.
    pub(super) fn compile(&self, component: &[u8], limits: CompileLimits) -> anyhow::Result<MachineCode> {
        self.compiler.compile(&self.identity, component, limits)
    }
}

/// An engine with this host's settings: the one that runs plugins, and those that compile them.
pub(super) fn engine() -> Result<Engine> {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .epoch_interruption(true)
        // A call costs 3 to 5 times as much with it, and no plugin needs it.
        .concurrency_support(false)
        .gc_support(false)
        .wasm_memory64(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .max_wasm_stack(STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES);
    Engine::new(&config)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_engines_version_is_the_one_that_is_built() {
        let pinned = format!("wasmtime = {{ version = \"={}\"", super::ENGINE_VERSION);
        assert!(include_str!("../../Cargo.toml").contains(&pinned), "Cargo.toml has another version than {pinned}");
    }
}
