//! The one engine that compiles and runs all plugins, its clock of epochs, and the linker with the host's services.

use std::sync::Arc;

use tokio::sync::Notify;
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, Engine, PoolingAllocationConfig, Result, Strategy, WasmBacktraceDetails};

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

/// Plugins that may run at once, those that are just exchanged for others counted twice. Each has one stack.
const POOL_STACKS: u32 = 2_048;

/// Memories that all plugins may have together. Each takes 4 GiB of addresses, so that the processor checks its bounds: a quarter
/// of what a process has. A plugin has one, and at most `Limits::parts`.
const POOL_MEMORIES: u32 = 8_192;

/// Tables that all plugins may have together, and elements of each: as many as any valid module has. What a plugin may use of them
/// is bounded by its own limits.
const POOL_TABLES: u32 = 32_768;
const POOL_TABLE_ELEMENTS: usize = 10_000_000;

/// Core instances that all plugins may have together: a component has some five.
const POOL_INSTANCES: u32 = 65_536;

/// What the engine may keep of an instance, some bytes for each function, global and import: more than any valid module needs.
/// Nothing is reserved for it.
const INSTANCE_BYTES: usize = 1 << 30;

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
        let engine = pooling_engine()?;
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

/// An engine that compiles plugins.
pub(super) fn engine() -> Result<Engine> {
    Engine::new(&config())
}

/// An engine that runs plugins, with memories and stacks that are mapped once and used again: an instance starts in two thirds of
/// the time, and no other thread is stopped for it to be told of what was unmapped. Where so many addresses cannot be had, each
/// instance maps its own.
fn pooling_engine() -> Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_stacks(POOL_STACKS)
        .total_component_instances(POOL_STACKS)
        .max_component_instance_size(INSTANCE_BYTES)
        .total_memories(POOL_MEMORIES)
        .max_memories_per_module(POOL_MEMORIES)
        .total_tables(POOL_TABLES)
        .max_tables_per_module(POOL_TABLES)
        .table_elements(POOL_TABLE_ELEMENTS)
        .total_core_instances(POOL_INSTANCES)
        .max_core_instance_size(INSTANCE_BYTES);
    Engine::new(config().allocation_strategy(pool)).or_else(|error| {
        log::info!(
            "plugins' memories are mapped one by one, which costs each start some microseconds: {error:#}. A limit on this process's \
             addresses (ulimit -v) may be the cause; all else is as usual"
        );
        engine()
    })
}

/// This host's settings of the engine, on all of which machine code depends.
fn config() -> Config {
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
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_run_plugins_take_what_those_that_compile_have_made() {
        let identity = |engine: Engine| machine_code::identity(&engine);
        assert_eq!(identity(engine().unwrap()), identity(pooling_engine().unwrap()));
    }

    #[test]
    fn the_engines_version_is_the_one_that_is_built() {
        let pinned = format!("wasmtime = {{ version = \"={}\"", ENGINE_VERSION);
        assert!(include_str!("../../Cargo.toml").contains(&pinned), "Cargo.toml has another version than {pinned}");
    }
}
