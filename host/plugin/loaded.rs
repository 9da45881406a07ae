//! Components that are in the engine: plugins with the same bytes share one, with its machine code.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use anyhow::{Context, Result, anyhow};
use wasmtime::component::{Component, InstancePre};

use super::engine::Runtime;
use super::machine_code;
use super::services::State;
use crate::compile::{Key, MachineCode};

/// A component in the engine, and how it is linked with the host's services.
pub struct Shared {
    pub(super) component: Component,
    /// Once somebody has linked it, or found that it cannot be.
    linked: Mutex<Option<InstancePre<State>>>,
    /// Its functions have the types that their names say.
    checked: AtomicBool,
}

/// The components that some plugin has.
#[derive(Default)]
pub struct Loaded(Mutex<BTreeMap<Key, Weak<Shared>>>);

const LOCK: &str = "no thread panics while it holds this";

impl Loaded {
    /// Takes machine code into the engine, unless it is there.
    pub fn get(&self, engine: &wasmtime::Engine, code: &MachineCode) -> Result<Arc<Shared>> {
        let mut all = self.0.lock().expect(LOCK);
        if let Some(shared) = all.get(&code.key()).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        let component = machine_code::load(engine, code)
            .context("the engine does not take the code that was compiled for it; this is a defect of the host")?;
        let shared = Arc::new(Shared { component, linked: Mutex::default(), checked: AtomicBool::default() });
        all.retain(|_, shared| shared.strong_count() > 0);
        all.insert(code.key(), Arc::downgrade(&shared));
        Ok(shared)
    }
}

impl Shared {
    /// Has its functions checked, unless they were with an earlier instance.
    pub fn check(&self, check: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.checked.load(Ordering::Relaxed) {
            check()?;
            self.checked.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Links it with the host's services.
    pub fn link(&self, runtime: &Runtime) -> Result<InstancePre<State>> {
        let mut linked = self.linked.lock().expect(LOCK);
        if let Some(linked) = &*linked {
            return Ok(linked.clone());
        }
        let pre = runtime.linker.instantiate_pre(&self.component).map_err(|error| {
            anyhow!("its imports do not have the types that this host offers: {error:#}; build it against this version's wit folder")
        })?;
        Ok(linked.insert(pre).clone())
    }
}
