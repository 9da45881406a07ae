//! Records of the source seccomp.

use super::{Clock, DecodeError, fixed, syscall};
use crate::event::layout::c::{seccomp_did, seccomp_record};
use crate::wit::seccomp::{Action, SeccompAction};

/// A seccomp filter did something about a system call.
pub fn seccomp_action(bytes: &[u8], clock: &Clock) -> Result<SeccompAction, DecodeError> {
    let seccomp_record { header, number, abi, action, code } = fixed(bytes)?;
    let (time, task) = super::header(&header, clock);
    let action = match seccomp_did(action) {
        seccomp_did::SECCOMP_ERRNO => Action::Errno,
        seccomp_did::SECCOMP_TRAP => Action::Trap,
        seccomp_did::SECCOMP_KILL_PROCESS => Action::KillProcess,
        seccomp_did::SECCOMP_KILL_THREAD => Action::KillThread,
        seccomp_did::SECCOMP_LOG => Action::Log,
        seccomp_did::SECCOMP_TRACE => Action::Trace,
        seccomp_did::SECCOMP_USER_NOTIF => Action::UserNotif,
        _ => return Err(DecodeError::UnknownValue("action")),
    };
    let returns = matches!(action, Action::Errno | Action::Trace | Action::UserNotif);
    let signals = matches!(action, Action::Trap | Action::KillProcess | Action::KillThread);
    Ok(SeccompAction {
        time,
        task,
        number,
        abi: syscall::abi(abi)?,
        action,
        errno: returns.then_some(code),
        signal: signals.then_some(code),
    })
}
