//! The plugin interface as Rust types, generated from `wit/`. It knows nothing of the kernel or of a plugin's life.

mod canonical;

wasmtime::component::bindgen!({
    path: "wit",
    world: "plugin",
    imports: { "eunomia:plugin/alerts.raise": async },
    additional_derives: [PartialEq, eunomia_derive::Json, eunomia_derive::Canonical],
});

pub use canonical::{Canonical, Memory, put_all};
pub use eunomia::plugin::{
    alerts, cgroup, container_registry, containers, files, gaps, ipc, metrics, process, processes, seccomp, syscall,
    syscalls, tcp, types,
};
