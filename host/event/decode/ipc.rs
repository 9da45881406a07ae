//! Records of the source ipc.

use super::{Clock, DecodeError, fixed};
use crate::event::layout::c::{ipc_object, ipc_record};
use crate::wit::ipc::{IpcAccess, ObjectKind, Ownership, Verdict};

/// An object was accessed, or that was refused.
pub fn ipc_access(bytes: &[u8], clock: &Clock) -> Result<IpcAccess, DecodeError> {
    let ipc_record { header, object, key, id, permission, known, uid, gid, creator_uid, creator_gid, denied } =
        fixed(bytes)?;
    let (time, task) = super::header(&header, clock);
    let object = match ipc_object(object) {
        ipc_object::IPC_SHM => ObjectKind::Shm,
        ipc_object::IPC_MSG => ObjectKind::Msg,
        ipc_object::IPC_SEM => ObjectKind::Sem,
        _ => return Err(DecodeError::UnknownValue("object")),
    };
    let ownership = Ownership { uid, gid, creator_uid, creator_gid };
    Ok(IpcAccess {
        time,
        task,
        object,
        key,
        id: (known != 0).then_some(id),
        permission,
        ownership: (known != 0).then_some(ownership),
        verdict: if denied == 0 { Verdict::Allowed } else { Verdict::Denied },
    })
}
