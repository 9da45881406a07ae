//! Plugins on their way from a directory's files to compiled components, a few at a time: one that takes long does not keep
//! the others waiting.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use crate::config::Config;
use crate::directory::{Files, Found};
use crate::plugin::{Compiled, Runtime, Settings};

/// Plugins that are compiled at the same time. More would take processors from those who handle events.
const AT_ONCE: usize = 2;

/// A plugin that is compiled, with its settings.
pub struct Ready {
    pub compiled: Compiled,
    pub settings: Settings,
}

/// Compiles a plugin that was read from `file`. Takes a processor's time: for a thread that may block.
pub fn compile(runtime: &Runtime, config: &Config, name: &str, file: &Path, files: Result<Files>) -> Result<Ready> {
    let Files { plugin, settings } = files?;
    let settings = config.settings_of(name, (&file.with_extension("toml"), settings.as_deref()))?;
    Ok(Ready { compiled: Compiled::new(runtime, &plugin, &settings.limits)?, settings })
}

/// Those on their way.
pub struct Compiling {
    /// None for one whose thread failed.
    tasks: JoinSet<Option<(u64, Found, Result<Ready>)>>,
    /// The newest version of each name; older ones are dropped when they arrive.
    newest: BTreeMap<String, u64>,
    begun: u64,
    permits: Arc<Semaphore>,
}

impl Compiling {
    pub fn new() -> Self {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        Compiling { tasks: JoinSet::new(), newest: BTreeMap::new(), begun: 0, permits }
    }

    /// Begins with a version of a plugin, which takes the place of any that is on its way.
    pub fn begin(&mut self, runtime: &Runtime, config: &Arc<Config>, found: Found) {
        self.begun += 1;
        let (begun, permits) = (self.begun, self.permits.clone());
        let (runtime, config) = (runtime.clone(), config.clone());
        self.newest.insert(found.name.clone(), begun);
        self.tasks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let name = found.name.clone();
            let done = spawn_blocking(move || {
                let ready = compile(&runtime, &config, &found.name, &found.file, found.read());
                (begun, found, ready)
            });
            let failed =
                |error| log::error!("plugin {name}: its loading failed ({error}); this is a defect of the host");
            done.await.map_err(failed).ok()
        });
    }

    /// Forgets a plugin whose file has gone.
    pub fn forget(&mut self, name: &str) {
        self.newest.remove(name);
    }

    /// The next one that arrives; none while nothing is on its way.
    pub async fn next(&mut self) -> Option<(Found, Result<Ready>)> {
        loop {
            match self.tasks.join_next().await? {
                Ok(Some((begun, found, ready))) if self.newest.get(&found.name) == Some(&begun) => {
                    self.newest.remove(&found.name);
                    return Some((found, ready));
                }
                _ => {}
            }
        }
    }
}
