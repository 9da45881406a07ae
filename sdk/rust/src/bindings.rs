//! The WIT package as Rust, generated: the types and host services once, and for each exported interface a world of its
//! own, so that a plugin exports those that it names and no others.
#![allow(missing_docs, non_snake_case, unsafe_code)]

/// Types and host services.
#[cfg(feature = "json")]
mod services {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "services",
        generate_all,
        additional_derives: [PartialEq, eunomia_json::Json],
    });
}

/// Types and host services.
#[cfg(not(feature = "json"))]
mod services {
    wit_bindgen::generate!({ path: "../../wit", world: "services", generate_all, additional_derives: [PartialEq] });
}

pub use services::eunomia::plugin::{
    alerts, cgroup, container_registry, containers, files, gaps, ipc, process, processes, seccomp, syscall, syscalls,
    tcp, types,
};

macro_rules! exported {
    ($($interface:ident, $world:literal;)*) => { $(
        pub mod $interface {
            wit_bindgen::generate!({
                path: "../../wit",
                world: $world,
                with: {
                    "eunomia:plugin/types@0.1.0": crate::bindings::types,
                    "eunomia:plugin/process@0.1.0": crate::bindings::process,
                    "eunomia:plugin/processes@0.1.0": crate::bindings::processes,
                    "eunomia:plugin/syscall@0.1.0": crate::bindings::syscall,
                    "eunomia:plugin/syscalls@0.1.0": crate::bindings::syscalls,
                    "eunomia:plugin/files@0.1.0": crate::bindings::files,
                    "eunomia:plugin/tcp@0.1.0": crate::bindings::tcp,
                    "eunomia:plugin/ipc@0.1.0": crate::bindings::ipc,
                    "eunomia:plugin/seccomp@0.1.0": crate::bindings::seccomp,
                    "eunomia:plugin/cgroup@0.1.0": crate::bindings::cgroup,
                    "eunomia:plugin/containers@0.1.0": crate::bindings::containers,
                    "eunomia:plugin/container-registry@0.1.0": crate::bindings::container_registry,
                    "eunomia:plugin/alerts@0.1.0": crate::bindings::alerts,
                    "eunomia:plugin/gaps@0.1.0": crate::bindings::gaps,
                },
                pub_export_macro: true,
                export_macro_name: "export",
            });
        }
    )* };
}

// Named as the traits, for `export!` to find them.
exported! {
    OnExec, "handles-exec";
    OnExit, "handles-exit";
    OnFork, "handles-fork";
    SelectSyscalls, "selects-syscalls";
    OnSyscall, "handles-syscall";
    OnSyscallReturn, "handles-syscall-return";
    OnSyscallCount, "handles-syscall-count";
    OnFileActivity, "handles-file-activity";
    OnFileIo, "handles-file-io";
    OnFileOpen, "handles-file-open";
    OnFileChange, "handles-file-change";
    OnTcpConnect, "handles-tcp-connect";
    OnTcpAccept, "handles-tcp-accept";
    OnTcpClose, "handles-tcp-close";
    OnIpcAccess, "handles-ipc-access";
    OnSeccompAction, "handles-seccomp-action";
    OnCgroupCreated, "handles-cgroup-created";
    OnCgroupRemoved, "handles-cgroup-removed";
    OnAlert, "handles-alert";
    OnGap, "handles-gap";
    OnTick, "handles-tick";
    FilterExec, "filters-exec";
    FilterExit, "filters-exit";
    FilterFork, "filters-fork";
    FilterSyscall, "filters-syscall";
    FilterSyscallReturn, "filters-syscall-return";
    FilterSyscallCount, "filters-syscall-count";
    FilterFileActivity, "filters-file-activity";
    FilterFileIo, "filters-file-io";
    FilterFileOpen, "filters-file-open";
    FilterFileChange, "filters-file-change";
    FilterTcpConnect, "filters-tcp-connect";
    FilterTcpAccept, "filters-tcp-accept";
    FilterTcpClose, "filters-tcp-close";
    FilterIpcAccess, "filters-ipc-access";
    FilterSeccompAction, "filters-seccomp-action";
    FilterCgroupCreated, "filters-cgroup-created";
    FilterCgroupRemoved, "filters-cgroup-removed";
    Life, "lives";
    KeepsState, "keeps-state";
}
