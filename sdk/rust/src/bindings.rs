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
        additional_derives: [PartialEq, eunomia_derive::Json],
    });
}

/// Types and host services.
#[cfg(not(feature = "json"))]
mod services {
    wit_bindgen::generate!({ path: "../../wit", world: "services", generate_all, additional_derives: [PartialEq] });
}

pub use services::eunomia::plugin::{
    alerts, cgroup, container_registry, containers, files, gaps, ipc, metrics, process, processes, seccomp, syscall,
    syscalls, tcp, types,
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
                    "eunomia:plugin/metrics@0.1.0": crate::bindings::metrics,
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
    OnSyscallCount, "handles-syscall-count";
    OnFileActivity, "handles-file-activity";
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

/// Handlers of flat records as they are generated: each record is lifted by its fields.
mod generated {
    exported! {
        OnSyscall, "handles-syscall";
        OnSyscallReturn, "handles-syscall-return";
        OnFileIo, "handles-file-io";
    }
}

/// A handler of flat records takes the host's list as it stands in memory: it is a vector of the records already. That is what the
/// generated code does too for records of numbers, but not where one of these is an enum's case.
macro_rules! in_place {
    ($($interface:ident, $module:ident, $cabi:ident, $record:ty, $bytes:literal;)*) => { $(
        pub mod $interface {
            pub use super::generated::$interface::export;

            pub mod exports {
                pub mod eunomia {
                    pub mod plugin {
                        pub mod $module {
                            pub use crate::bindings::generated::$interface::exports::eunomia::plugin::$module::{
                                $cabi, Guest,
                            };

                            /// What the component exports.
                            ///
                            /// # Safety
                            /// `list` is `length` records that the host has written into memory of this component's
                            /// allocator.
                            pub unsafe fn _export_handle_cabi<T: Guest>(list: *mut u8, length: usize) {
                                const { assert!(size_of::<$record>() == $bytes && align_of::<$record>() == 8) };
                                // SAFETY: the record is `repr(C)`, of numbers and of enums that are bytes, so its layout is the
                                // canonical one; the host writes no number that is no case; and the allocation is a vector's of
                                // that length.
                                T::handle(unsafe { Vec::from_raw_parts(list.cast::<$record>(), length, length) });
                            }
                        }
                    }
                }
            }
        }
    )* };
}

in_place! {
    OnSyscall, on_syscall, __export_eunomia_plugin_on_syscall_0_1_0_cabi, crate::syscall::Syscall, 120;
    OnSyscallReturn, on_syscall_return, __export_eunomia_plugin_on_syscall_return_0_1_0_cabi,
        crate::syscall::SyscallReturn, 88;
    OnFileIo, on_file_io, __export_eunomia_plugin_on_file_io_0_1_0_cabi, crate::files::FileIo, 88;
}

/// Every field stands where the canonical layout has it, and enums' cases are bytes.
const _: () = {
    use crate::files::FileIo;
    use crate::syscall::{Abi, Syscall, SyscallReturn};
    use std::mem::offset_of;
    assert!(offset_of!(Syscall, time) == 0 && offset_of!(Syscall, comm) == 24 && offset_of!(Syscall, pid) == 40);
    assert!(offset_of!(Syscall, number) == 60 && offset_of!(Syscall, arg0) == 64 && offset_of!(Syscall, abi) == 112);
    assert!(offset_of!(SyscallReturn, value) == 64 && offset_of!(SyscallReturn, duration) == 72);
    assert!(offset_of!(SyscallReturn, number) == 60 && offset_of!(SyscallReturn, abi) == 80 && size_of::<Abi>() == 1);
    assert!(offset_of!(FileIo, device) == 60 && offset_of!(FileIo, inode) == 64 && offset_of!(FileIo, error) == 80);
    assert!(offset_of!(FileIo, operation) == 84 && offset_of!(FileIo, file_type) == 85);
};
