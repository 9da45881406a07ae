//! Write eunomia-host plugins in Rust.
//!
//! A plugin is a type with a trait for each kind of event that it wants, named in [`export!`]:
//!
//! ```no_run
//! use eunomia_plugin::prelude::*;
//!
//! #[derive(Default)]
//! struct RootShells;
//!
//! impl Plugin for RootShells {}
//!
//! impl OnExec for RootShells {
//!     fn on_exec(&mut self, events: Vec<Exec>) {
//!         for event in events.iter().filter(|event| event.task.uid == 0 && event.exe.ends_with("sh")) {
//!             let message = format!("root runs {}", event.args.join(" "));
//!             Alert::new(Severity::Low, "root-shell", message).about(event).raise();
//!         }
//!     }
//! }
//!
//! export!(RootShells: OnExec);
//! ```
//!
//! Build it with `cargo build --release --target wasm32-wasip2` as a `cdylib`. What is printed to standard output is the
//! host's output, what is printed to standard error its log.
#![warn(missing_docs)]

#[doc(hidden)]
pub mod bindings;
mod container_cache;
pub mod metrics;
mod raise;
pub mod report;
mod settings;

use std::marker::PhantomData;

pub use bindings::{
    alerts, cgroup, container_registry, containers, files, gaps, ipc, process, processes, seccomp, syscall, syscalls,
    tcp, types,
};
pub use container_cache::{ContainerCache, ContainersOfRun, InCgroup};
pub use raise::About;
pub use settings::from_config;

/// Everything that a plugin usually needs.
pub mod prelude {
    pub use crate::alerts::{Alert, RaisedAlert, Severity};
    pub use crate::cgroup::{CgroupCreated, CgroupRemoved};
    pub use crate::containers::Container;
    pub use crate::files::{Change, FileActivity, FileChange, FileIo, FileOpen, FileOperation, FileType};
    pub use crate::gaps::Gap;
    pub use crate::ipc::IpcAccess;
    pub use crate::process::{Exec, Exit, Fork};
    pub use crate::seccomp::SeccompAction;
    pub use crate::syscall::{Syscall, SyscallCount, SyscallReturn};
    pub use crate::tcp::{TcpAccept, TcpClose, TcpConnect};
    pub use crate::types::Task;
    pub use crate::{
        About, ContainerCache, InCgroup, KeepsState, Plugin, container_registry, containers, export, from_config,
        metrics, processes,
    };
    pub use crate::{
        FilterCgroupCreated, FilterCgroupRemoved, FilterExec, FilterExit, FilterFileActivity, FilterFileChange,
        FilterFileIo, FilterFileOpen, FilterFork, FilterIpcAccess, FilterSeccompAction, FilterSyscall,
        FilterSyscallCount, FilterSyscallReturn, FilterTcpAccept, FilterTcpClose, FilterTcpConnect,
    };
    pub use crate::{
        OnAlert, OnCgroupCreated, OnCgroupRemoved, OnExec, OnExit, OnFileActivity, OnFileChange, OnFileIo, OnFileOpen,
        OnFork, OnGap, OnIpcAccess, OnSeccompAction, OnSyscall, OnSyscallCount, OnSyscallReturn, OnTcpAccept,
        OnTcpClose, OnTcpConnect, OnTick, SelectSyscalls,
    };
}

/// A plugin. What it remembers from event to event are the fields of its type.
pub trait Plugin: Default + 'static {
    /// Called before any event. `config` is the `[config]` table of its settings as JSON, `{}` without one;
    /// [`from_config`] reads it. The text of an error is shown to the operator, and the plugin is not loaded.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    fn start(&mut self, config: &str) -> Result<(), String> {
        _ = config;
        Ok(())
    }

    /// Called after the last event.
    fn stop(&mut self) {}
}

/// Where `export!` keeps the plugin.
#[doc(hidden)]
pub trait Stored: Plugin {
    fn with<T>(call: impl FnOnce(&mut Self) -> T) -> T;
}

/// What the component exports on behalf of the plugin.
#[doc(hidden)]
pub struct Exports<P>(PhantomData<P>);

/// A trait, a method and the interface's own function for each exported interface.
macro_rules! interfaces {
    ($($(#[$doc:meta])* $interface:ident :: $method:ident ($($name:ident : $ty:ty),*) $(-> $output:ty)?,
       $module:ident . $function:ident;)*) => { $(
        $(#[$doc])*
        pub trait $interface: Plugin {
            $(#[$doc])*
            fn $method(&mut self, $($name: $ty),*) $(-> $output)?;
        }

        impl<P: $interface + Stored> bindings::$interface::exports::eunomia::plugin::$module::Guest for Exports<P> {
            fn $function($($name: $ty),*) $(-> $output)? {
                P::with(|plugin| plugin.$method($($name),*))
            }
        }
    )* };
}

interfaces! {
    /// Handles programs that were executed: a run of them in time order.
    OnExec::on_exec(events: Vec<process::Exec>), on_exec.handle;
    /// Handles processes that ended: a run of them in time order.
    OnExit::on_exit(events: Vec<process::Exit>), on_exit.handle;
    /// Handles processes that forked: a run of them in time order.
    OnFork::on_fork(events: Vec<process::Fork>), on_fork.handle;
    /// Names the system calls that it wants, such as `openat`; asked once, after the start. Without this trait it gets all.
    SelectSyscalls::names() -> Vec<String>, select_syscalls.names;
    /// Handles system calls that began: a run of events in time order.
    OnSyscall::on_syscall(events: Vec<syscall::Syscall>), on_syscall.handle;
    /// Handles system calls that returned: a run of events in time order.
    OnSyscallReturn::on_syscall_return(events: Vec<syscall::SyscallReturn>), on_syscall_return.handle;
    /// Handles sums of system calls: a run of events in time order.
    OnSyscallCount::on_syscall_count(events: Vec<syscall::SyscallCount>), on_syscall_count.handle;
    /// Handles sums of reads and writes: a run of events in time order.
    OnFileActivity::on_file_activity(events: Vec<files::FileActivity>), on_file_activity.handle;
    /// Handles single reads and writes: a run of events in time order.
    OnFileIo::on_file_io(events: Vec<files::FileIo>), on_file_io.handle;
    /// Handles files that were opened: a run of events in time order.
    OnFileOpen::on_file_open(events: Vec<files::FileOpen>), on_file_open.handle;
    /// Handles files that were changed: a run of events in time order.
    OnFileChange::on_file_change(events: Vec<files::FileChange>), on_file_change.handle;
    /// Handles connections that were made or failed: a run of events in time order.
    OnTcpConnect::on_tcp_connect(events: Vec<tcp::TcpConnect>), on_tcp_connect.handle;
    /// Handles connections that were accepted: a run of events in time order.
    OnTcpAccept::on_tcp_accept(events: Vec<tcp::TcpAccept>), on_tcp_accept.handle;
    /// Handles connections that ended: a run of events in time order.
    OnTcpClose::on_tcp_close(events: Vec<tcp::TcpClose>), on_tcp_close.handle;
    /// Handles access to System V objects: a run of events in time order.
    OnIpcAccess::on_ipc_access(events: Vec<ipc::IpcAccess>), on_ipc_access.handle;
    /// Handles system calls that seccomp filters stopped: a run of events in time order.
    OnSeccompAction::on_seccomp_action(events: Vec<seccomp::SeccompAction>), on_seccomp_action.handle;
    /// Handles cgroups that were made: a run of events in time order.
    OnCgroupCreated::on_cgroup_created(events: Vec<cgroup::CgroupCreated>), on_cgroup_created.handle;
    /// Handles cgroups that were removed: a run of events in time order.
    OnCgroupRemoved::on_cgroup_removed(events: Vec<cgroup::CgroupRemoved>), on_cgroup_removed.handle;
    /// Handles alerts of other plugins: a run of them in time order.
    OnAlert::on_alert(events: Vec<alerts::RaisedAlert>), on_alert.handle;
    /// Is told of events that are missing: a run of gaps in time order.
    OnGap::on_gap(events: Vec<gaps::Gap>), on_gap.handle;
    /// Acts at regular times: `now` is nanoseconds since the Unix epoch, `interval` nanoseconds.
    OnTick::on_tick(now: types::Timestamp, interval: types::Nanoseconds), on_tick.handle;
    /// Decides which `exec` events pass: one answer per event, in the same order.
    FilterExec::keep_exec(events: Vec<process::Exec>) -> Vec<bool>, filter_exec.keep;
    /// Decides which `exit` events pass: one answer per event, in the same order.
    FilterExit::keep_exit(events: Vec<process::Exit>) -> Vec<bool>, filter_exit.keep;
    /// Decides which `fork` events pass: one answer per event, in the same order.
    FilterFork::keep_fork(events: Vec<process::Fork>) -> Vec<bool>, filter_fork.keep;
    /// Decides which `syscall` events pass: one answer per event, in the same order.
    FilterSyscall::keep_syscall(events: Vec<syscall::Syscall>) -> Vec<bool>, filter_syscall.keep;
    /// Decides which `syscall-return` events pass: one answer per event, in the same order.
    FilterSyscallReturn::keep_syscall_return(events: Vec<syscall::SyscallReturn>) -> Vec<bool>, filter_syscall_return.keep;
    /// Decides which `syscall-count` events pass: one answer per event, in the same order.
    FilterSyscallCount::keep_syscall_count(events: Vec<syscall::SyscallCount>) -> Vec<bool>, filter_syscall_count.keep;
    /// Decides which `file-activity` events pass: one answer per event, in the same order.
    FilterFileActivity::keep_file_activity(events: Vec<files::FileActivity>) -> Vec<bool>, filter_file_activity.keep;
    /// Decides which `file-io` events pass: one answer per event, in the same order.
    FilterFileIo::keep_file_io(events: Vec<files::FileIo>) -> Vec<bool>, filter_file_io.keep;
    /// Decides which `file-open` events pass: one answer per event, in the same order.
    FilterFileOpen::keep_file_open(events: Vec<files::FileOpen>) -> Vec<bool>, filter_file_open.keep;
    /// Decides which `file-change` events pass: one answer per event, in the same order.
    FilterFileChange::keep_file_change(events: Vec<files::FileChange>) -> Vec<bool>, filter_file_change.keep;
    /// Decides which `tcp-connect` events pass: one answer per event, in the same order.
    FilterTcpConnect::keep_tcp_connect(events: Vec<tcp::TcpConnect>) -> Vec<bool>, filter_tcp_connect.keep;
    /// Decides which `tcp-accept` events pass: one answer per event, in the same order.
    FilterTcpAccept::keep_tcp_accept(events: Vec<tcp::TcpAccept>) -> Vec<bool>, filter_tcp_accept.keep;
    /// Decides which `tcp-close` events pass: one answer per event, in the same order.
    FilterTcpClose::keep_tcp_close(events: Vec<tcp::TcpClose>) -> Vec<bool>, filter_tcp_close.keep;
    /// Decides which `ipc-access` events pass: one answer per event, in the same order.
    FilterIpcAccess::keep_ipc_access(events: Vec<ipc::IpcAccess>) -> Vec<bool>, filter_ipc_access.keep;
    /// Decides which `seccomp-action` events pass: one answer per event, in the same order.
    FilterSeccompAction::keep_seccomp_action(events: Vec<seccomp::SeccompAction>) -> Vec<bool>, filter_seccomp_action.keep;
    /// Decides which `cgroup-created` events pass: one answer per event, in the same order.
    FilterCgroupCreated::keep_cgroup_created(events: Vec<cgroup::CgroupCreated>) -> Vec<bool>, filter_cgroup_created.keep;
    /// Decides which `cgroup-removed` events pass: one answer per event, in the same order.
    FilterCgroupRemoved::keep_cgroup_removed(events: Vec<cgroup::CgroupRemoved>) -> Vec<bool>, filter_cgroup_removed.keep;
}

impl<P: Stored> bindings::Life::exports::eunomia::plugin::life::Guest for Exports<P> {
    fn start(config: String) -> Result<(), String> {
        P::with(|plugin| plugin.start(&config))
    }

    fn stop() {
        P::with(Plugin::stop);
    }
}

/// Carries over what the plugin knows when a new version takes its place.
pub trait KeepsState: Plugin {
    /// What the new version has to know. Called after the last event, at most 4 MiB.
    fn save(&mut self) -> Vec<u8>;

    /// Takes what the version before has saved. Called after `start` and before the first event.
    ///
    /// # Errors
    /// Whatever makes it useless. The text is shown to the operator, and the version before comes back.
    fn restore(&mut self, bytes: Vec<u8>) -> Result<(), String>;
}

impl<P: KeepsState + Stored> bindings::KeepsState::exports::eunomia::plugin::state::Guest for Exports<P> {
    fn save() -> Vec<u8> {
        P::with(KeepsState::save)
    }

    fn restore(bytes: Vec<u8>) -> Result<(), String> {
        P::with(|plugin| plugin.restore(bytes))
    }
}

/// Exports a plugin: its type, and the traits that are to be called. Only these become exports of the component, and so
/// its subscription.
///
/// ```no_run
/// # use eunomia_plugin::prelude::*;
/// # #[derive(Default)] struct Counter { seen: usize }
/// # impl Plugin for Counter {}
/// # impl OnExec for Counter { fn on_exec(&mut self, events: Vec<Exec>) { self.seen += events.len(); } }
/// # impl OnTick for Counter { fn on_tick(&mut self, _: u64, _: u64) { println!("{}", self.seen); } }
/// export!(Counter: OnExec, OnTick);
/// ```
#[macro_export]
macro_rules! export {
    ($plugin:ty : $($interface:ident),+ $(,)?) => {
        const _: () = {
            ::std::thread_local! {
                static PLUGIN: ::std::cell::RefCell<$plugin> = ::std::default::Default::default();
            }

            impl $crate::Stored for $plugin {
                fn with<T>(call: impl FnOnce(&mut Self) -> T) -> T {
                    PLUGIN.with_borrow_mut(call)
                }
            }

            // Natively, for a plugin's own tests, there is nothing to export to; this keeps it from seeming unused.
            #[cfg(not(target_arch = "wasm32"))]
            #[used]
            static EXPORTED: fn() = || <$plugin as $crate::Stored>::with($crate::Plugin::stop);
            #[cfg(target_arch = "wasm32")]
            const _: () = {
                type Exports = $crate::Exports<$plugin>;
                $crate::bindings::Life::export!(Exports with_types_in $crate::bindings::Life);
                $( $crate::bindings::$interface::export!(Exports with_types_in $crate::bindings::$interface); )+
            };
        };
    };
}
