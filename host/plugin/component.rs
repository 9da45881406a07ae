//! A plugin's file: compiled, and described by what it exports and imports. It knows nothing of running it.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

use super::engine::Runtime;
use super::grants::Grants;
use super::limits::Limits;
use super::loaded::Shared;
use super::services::State;
use crate::compile::MAX_PLUGIN_BYTES;
use crate::event::{Kind, KindSet};

/// The package of the plugin interface.
pub const PACKAGE: &str = "eunomia:plugin";

/// The version of the plugin interface that this host speaks.
pub const INTERFACE_VERSION: &str = "0.1.0";

/// The interface for telling of containers.
const REGISTRY: &str = "/container-registry";

/// The interfaces for calling servers.
const HTTP: [&str; 2] = ["wasi:http/types", "wasi:http/outgoing-handler"];

/// What a component would do here.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// The kinds that it handles.
    pub handles: KindSet,
    /// The kinds that it filters.
    pub filters: KindSet,
    /// It wants some system calls alone.
    pub selects_calls: bool,
    /// It wants ticks.
    pub ticks: bool,
    /// It wants its settings, and to be told of its end.
    pub lives: bool,
    /// It carries over what it knows to its next version.
    pub keeps_state: bool,
    /// Host services that it imports.
    pub services: Vec<String>,
    /// WASI interfaces that it imports. They are there, and lead to nothing that is not granted.
    pub wasi: Vec<String>,
    /// Interfaces for which its settings have to grant something.
    pub needs: Vec<String>,
    /// Imports that this host does not have; with any of them the plugin is refused.
    pub refused: Vec<String>,
    /// Exports that this host does not know and ignores.
    pub ignored: Vec<String>,
    /// Interfaces of another version of the plugin interface.
    pub other_versions: Vec<String>,
}

impl Description {
    /// Whether it tells the host of containers.
    pub fn registers(&self) -> bool {
        self.needs.iter().any(|need| need.starts_with(PACKAGE))
    }
}

/// A plugin's component, compiled.
pub struct Compiled {
    pub(super) shared: Arc<Shared>,
    /// What it would do here.
    pub description: Description,
}

impl Compiled {
    /// Has a component compiled, elsewhere. Takes a processor's time: for a thread that may block.
    pub fn new(runtime: &Runtime, bytes: &[u8], limits: &Limits) -> Result<Self> {
        recognise(bytes)?;
        ensure!(
            bytes.len() as u64 <= limits.component_bytes,
            "the file has {} bytes, and its settings allow {} (limits.component_bytes)",
            bytes.len(),
            limits.component_bytes
        );
        let code = runtime.compile(bytes, limits.compile)?;
        let shared = runtime.loaded.get(&runtime.engine, &code)?;
        let description = describe(runtime, &shared.component);
        Ok(Compiled { shared, description })
    }

    /// Whether it has the same machine code in memory as another, whose bytes are the same.
    pub fn shares(&self, other: &Compiled) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Why it cannot run here with these grants, if it cannot.
    pub fn check(&self, grants: &Grants) -> Result<()> {
        let description = &self.description;
        if let Some(other) = description.other_versions.first() {
            bail!(
                "it was built for {other}, and this host speaks {PACKAGE}@{INTERFACE_VERSION}; \
                 build it against this version's wit folder, or use the host that it was built for"
            );
        }
        ensure!(
            description.refused.is_empty(),
            "it needs {}, which this host does not offer; a plugin may import {PACKAGE}'s services and WASI 0.2's \
             command-line interfaces",
            description.refused.join(", ")
        );
        for need in &description.needs {
            let registers = need.starts_with(PACKAGE);
            ensure!(
                !registers || grants.container_registry,
                "it imports {need}, which is for telling the host of containers, and its settings do not grant that; put \
                 container-registry = true below [grants] in its settings file, NAME.toml beside NAME.wasm, if it is to \
                 be trusted with that"
            );
            ensure!(
                registers || !grants.http.is_empty(),
                "it imports {need}, which is for calling servers by HTTP, and its settings grant it none; name those that \
                 it may call below [grants.http] in its settings file, NAME.toml beside NAME.wasm"
            );
        }
        ensure!(
            !(description.handles.is_empty() && description.filters.is_empty() && !description.ticks),
            "it exports nothing that this host calls; export at least one of {}",
            handler_names().join(", ")
        );
        Ok(())
    }

    /// Links it with the host's services.
    pub(super) fn link(&self, runtime: &Runtime, grants: &Grants) -> Result<InstancePre<State>> {
        self.check(grants)?;
        self.shared.link(runtime)
    }
}

/// Says what bytes are that are no component.
fn recognise(bytes: &[u8]) -> Result<()> {
    const BUILD: &str = "a plugin is a WebAssembly component, as `cargo build --target wasm32-wasip2` makes";
    ensure!(!bytes.is_empty(), "the file is empty; copy the plugin again");
    ensure!(
        bytes.len() <= MAX_PLUGIN_BYTES,
        "the file has {} MiB, and the largest plugin that is loaded has {}",
        bytes.len() >> 20,
        MAX_PLUGIN_BYTES >> 20
    );
    ensure!(
        bytes.len() >= 8 || !b"\0asm".starts_with(&bytes[..bytes.len().min(4)]),
        "the file is cut off; copy it again"
    );
    match bytes {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => bail!(
            "it is a core WebAssembly module, not a component; build it with `--target wasm32-wasip2`, or turn it into \
             one with `wasm-tools component new`"
        ),
        [0, b'a', b's', b'm', ..] => bail!("it is WebAssembly of an unknown version; {BUILD}"),
        [0x7f, b'E', b'L', b'F', ..] => bail!("it is a native program or precompiled code (ELF); {BUILD}"),
        _ if bytes.trim_ascii_start().starts_with(b"(") => {
            bail!("it is WebAssembly text; turn it into a component with `wasm-tools parse`")
        }
        _ => bail!("it is not WebAssembly; {BUILD}"),
    }
}

/// An interface's full name.
pub fn interface(name: &str) -> String {
    format!("{PACKAGE}/{name}@{INTERFACE_VERSION}")
}

fn handler_names() -> Vec<String> {
    let handlers = Kind::ALL.iter().map(|kind| format!("on-{kind}"));
    let filters = Kind::ALL.iter().filter(|kind| kind.source() != "host").map(|kind| format!("filter-{kind}"));
    handlers.chain(["on-tick".to_owned()]).chain(filters).collect()
}

fn describe(runtime: &Runtime, component: &Component) -> Description {
    let mut description = Description::default();
    let types = component.component_type();
    for (name, item) in types.exports(&runtime.engine) {
        let own =
            name.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix('/')).and_then(|rest| rest.split_once('@'));
        match own {
            Some((_, version)) if version != INTERFACE_VERSION => description.other_versions.push(name.to_owned()),
            Some((name, _)) => describe_export(&mut description, name),
            None if matches!(item.ty, ComponentItem::Type(_)) => {}
            None => description.ignored.push(name.to_owned()),
        }
    }
    for (name, item) in types.imports(&runtime.engine) {
        let package = name.split(['/', '@']).next().unwrap_or(name);
        let version = name.rsplit_once('@').map_or("", |(_, version)| version);
        match package {
            PACKAGE if version != INTERFACE_VERSION => description.other_versions.push(name.to_owned()),
            PACKAGE => match name.strip_prefix(PACKAGE).and_then(|rest| rest.split('@').next()) {
                Some("/alerts" | "/processes" | "/syscalls" | "/containers" | "/metrics")
                    if has_functions(runtime, &item.ty) =>
                {
                    description.services.push(name.to_owned());
                }
                Some(REGISTRY) if has_functions(runtime, &item.ty) => description.needs.push(name.to_owned()),
                // For its types alone: the linker knows whether there is such an interface.
                Some(_) if !has_functions(runtime, &item.ty) => {}
                _ => description.refused.push(name.to_owned()),
            },
            "wasi:cli" | "wasi:io" | "wasi:clocks" | "wasi:random" | "wasi:filesystem" | "wasi:sockets"
                if version.starts_with("0.2.") =>
            {
                description.wasi.push(name.to_owned());
            }
            _ if version.starts_with("0.2.")
                && HTTP.iter().any(|http| name.strip_prefix(http).is_some_and(|rest| rest.starts_with('@'))) =>
            {
                description.needs.push(name.to_owned());
            }
            _ => description.refused.push(name.to_owned()),
        }
    }
    description
}

/// Whether an interface is imported for more than its types.
fn has_functions(runtime: &Runtime, item: &ComponentItem) -> bool {
    let ComponentItem::ComponentInstance(instance) = item else { return false };
    instance.exports(&runtime.engine).any(|(_, export)| matches!(export.ty, ComponentItem::ComponentFunc(_)))
}

fn describe_export(description: &mut Description, name: &str) {
    let kind = |prefix: &str| name.strip_prefix(prefix).and_then(|kind| kind.parse::<Kind>().ok());
    match name {
        "life" => description.lives = true,
        "state" => description.keeps_state = true,
        "on-tick" => description.ticks = true,
        "select-syscalls" => description.selects_calls = true,
        _ => match (kind("on-"), kind("filter-")) {
            (Some(kind), _) => description.handles.insert(kind),
            (_, Some(kind)) if kind.source() != "host" => description.filters.insert(kind),
            _ => description.ignored.push(interface(name)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_named() {
        let text = |bytes: &[u8]| recognise(bytes).unwrap_err().to_string();
        assert!(text(b"").contains("empty"));
        assert!(text(b"\0as").contains("cut off"));
        assert!(text(b"\0asm\x01\0\0\0").contains("core WebAssembly module"));
        assert!(text(b"\x7fELF\x02\x01\x01\0").contains("ELF"));
        assert!(text(b" (component)").contains("text"));
        assert!(text(b"hello").contains("not WebAssembly"));
        assert!(recognise(b"\0asm\x0d\0\x01\0").is_ok());
    }
}
