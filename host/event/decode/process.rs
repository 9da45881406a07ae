//! Records of the source process.

use super::{Clock, DecodeError, Tail, Text, fixed};
use crate::event::layout::c::{exec_flag, exec_record, exit_record, file_trait, fork_record};
use crate::wit::process::{Exec, Exit, Fork};

/// A program was executed.
pub fn exec(bytes: &[u8], clock: &Clock) -> Result<Exec, DecodeError> {
    let exec_record {
        header,
        capabilities,
        login_uid,
        flags,
        filename_length,
        exe_length,
        cwd_length,
        args_length,
        tty,
        parent_comm,
    } = fixed(bytes)?;
    let (time, task) = super::header(&header, clock);
    let mut tail = Tail(&bytes[size_of::<exec_record>()..]);
    let mut text = Text::default();
    let has = |flag: exec_flag| flags & flag.0 != 0;
    let is = |file: file_trait| flags & file.0 != 0;
    let filename = text.decode(tail.take(filename_length)?);
    let exe = text.path(tail.take(exe_length)?, has(exec_flag::EXEC_EXE_CUT));
    let cwd = text.path(tail.take(cwd_length)?, has(exec_flag::EXEC_CWD_CUT));
    let args = tail.take(args_length)?;
    let args = args.strip_suffix(b"\0").unwrap_or(args);
    let args =
        if args_length == 0 { Vec::new() } else { args.split(|byte| *byte == 0).map(|arg| text.decode(arg)).collect() };
    let tty = text.name(&tty);
    Ok(Exec {
        time,
        task,
        filename,
        exe,
        exe_memfd: is(file_trait::FILE_MEMFD),
        exe_deleted: is(file_trait::FILE_DELETED),
        exe_upper_layer: is(file_trait::FILE_OVERLAY).then(|| is(file_trait::FILE_UPPER)),
        args,
        args_truncated: has(exec_flag::EXEC_ARGS_CUT),
        cwd,
        paths_truncated: has(exec_flag::EXEC_FILENAME_CUT)
            || has(exec_flag::EXEC_EXE_CUT)
            || has(exec_flag::EXEC_CWD_CUT),
        tty: (!tty.is_empty()).then_some(tty),
        login_uid: (login_uid != u32::MAX).then_some(login_uid),
        capabilities,
        parent_comm: text.name(&parent_comm),
        lossy: text.lossy,
    })
}

/// A core dump's bit in a wait status, and the signal's bits.
const STATUS_CORE: u32 = 0x80;
const STATUS_SIGNAL: u32 = 0x7f;

/// A process ended.
pub fn exit(bytes: &[u8], clock: &Clock) -> Result<Exit, DecodeError> {
    let exit_record { header, duration, status, padding: _ } = fixed(bytes)?;
    let (time, task) = super::header(&header, clock);
    let signal = status & STATUS_SIGNAL;
    Ok(Exit {
        time,
        task,
        code: if signal == 0 { (status >> 8) & 0xff } else { 0 },
        signal: (signal != 0).then_some(signal),
        core_dumped: status & STATUS_CORE != 0,
        duration,
    })
}

/// A process forked.
pub fn fork(bytes: &[u8], clock: &Clock) -> Result<Fork, DecodeError> {
    let fork_record { header, child_pid, padding: _ } = fixed(bytes)?;
    let (time, task) = super::header(&header, clock);
    Ok(Fork { time, task, child_pid })
}
