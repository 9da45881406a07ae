//! From a plugin's bytes to machine code: compiled by a process that can do nothing else, and kept in a cache. It knows
//! processes and files, and nothing of how code is compiled or run.

mod cache;
mod child;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use sha2::{Digest, Sha256};

pub use cache::Cache;
pub use child::answer;

use crate::broker::{self, Answer, Broker, Errand};
pub use crate::confine::CompileLimits;

/// The largest plugin file. Python's and JavaScript's run times have 10 to 40 MiB.
pub const MAX_PLUGIN_BYTES: usize = 64 << 20;

/// The most machine code of one plugin; it is some five times as large as the plugin.
const MAX_CODE_BYTES: usize = 512 << 20;

/// What tells one plugin's machine code from another's: a digest of the plugin, and of what compiles it.
pub type Key = [u8; 32];

/// Machine code that a process of this very program has compiled, now or in an earlier run.
///
/// Only this room makes it, and running it is safe for that reason alone: there is no way from any other bytes to here.
pub struct MachineCode {
    bytes: Vec<u8>,
    key: Key,
}

impl MachineCode {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What tells it from any other.
    pub fn key(&self) -> Key {
        self.key
    }
}

/// Compiles plugins.
pub struct Compiler(Means);

enum Means {
    /// Starts the processes that compile, and keeps what they make.
    Own { program: PathBuf, cache: Option<Cache> },
    /// Has somebody do that who may.
    Broker(Broker),
}

impl Compiler {
    /// One that has plugins compiled by `program`, which is this host, called to do that.
    pub fn new(program: &Path, cache: Option<Cache>) -> Self {
        Compiler(Means::Own { program: program.to_owned(), cache })
    }

    /// One that asks the broker.
    pub fn by(broker: Broker) -> Self {
        Compiler(Means::Broker(broker))
    }

    /// One whose compiling process is the running program once more, whatever has become of its file.
    pub fn of_this_program(cache: Option<Cache>) -> Self {
        Self::new(Path::new("/proc/self/exe"), cache)
    }

    /// A plugin's machine code, from the cache or from a process of its own. `engine` tells what compiles from any other
    /// that could, by version and settings. Takes a processor's time: for a thread that may block.
    pub fn compile(&self, engine: &[u8], plugin: &[u8], limits: CompileLimits) -> Result<MachineCode> {
        let key: Key = Sha256::new()
            .chain_update((engine.len() as u64).to_le_bytes())
            .chain_update(engine)
            .chain_update(plugin)
            .finalize()
            .into();
        let bytes = match &self.0 {
            Means::Own { program, cache } => match cache.as_ref().and_then(|cache| cache.get(&key)) {
                Some(bytes) => bytes,
                None => {
                    let bytes = child::compile(program, plugin, limits)?;
                    cache.iter().for_each(|cache| cache.put(&key, &bytes));
                    bytes
                }
            },
            Means::Broker(broker) => {
                // Answered by an error or nothing, and machine code.
                let (outcome, code) = broker.open(Errand::Compile)?.ask::<Result<(), String>>(&limits, plugin)?;
                outcome.map_err(|why| anyhow!(why))?;
                code.bytes
            }
        };
        Ok(MachineCode { bytes, key })
    }

    /// Compiles for whoever asks the broker, by `engine`: whoever asks is not believed, for what is made is kept for others.
    pub fn serve(&self, engine: &[u8], stream: &UnixStream) {
        broker::serve(stream, |limits, plugin| {
            let compiled = self.compile(engine, &plugin, limits);
            let (outcome, bytes) = match compiled {
                Ok(code) => (Ok(()), code.bytes),
                Err(error) => (Err(format!("{error:#}")), Vec::new()),
            };
            Answer { bytes, ..Answer::of(outcome) }
        });
    }
}
