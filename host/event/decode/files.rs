//! Records of the source files.

use super::{Clock, DecodeError, Tail, Text, fixed};
use crate::event::layout::c::{
    activity_key, activity_value, file_activity_record, file_change_record, file_changed, file_kind, file_open_record,
    file_trait, given_path, path_cut, record_header, record_kind, record_start,
};
use crate::event::layout::{bytes_of, read};
use crate::wit::files::{Change, FileActivity, FileChange, FileOpen, FileType};

/// The bits of open's flags that say what is to be done with the contents, and a descriptor for the path alone.
const O_ACCMODE: u32 = 0o3;
const O_RDONLY: u32 = 0;
const O_PATH: u32 = 0o10_000_000;

/// For what a kind of change does not have; UNCHANGED in files.h.
const UNCHANGED: u32 = u32::MAX;

fn file_type(number: u32) -> Result<FileType, DecodeError> {
    match file_kind(number) {
        file_kind::FILE_REGULAR => Ok(FileType::Regular),
        file_kind::FILE_SOCKET => Ok(FileType::Socket),
        file_kind::FILE_OTHER => Ok(FileType::Other),
        _ => Err(DecodeError::UnknownValue("type")),
    }
}

/// A device's number as stat gives it, from the kernel's own: 12 bits of major number above 20 of minor.
fn device(kernel: u32) -> u64 {
    let (major, minor) = (u64::from(kernel >> 20), u64::from(kernel & 0xf_ffff));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn is(traits: u32, wanted: file_trait) -> bool {
    traits & wanted.0 != 0
}

/// The path of a file, given as its names, the last one first, or as the one name of a file that is in no directory.
fn file_path(text: &mut Text, names: &[u8], traits: u32, cut: bool) -> String {
    if is(traits, file_trait::FILE_MEMFD) || !is(traits, file_trait::FILE_NAMELESS) {
        return text.path(names, cut);
    }
    match names.strip_suffix(b"\0").unwrap_or(names) {
        b"" => "pipe".into(), // The only ones to which the kernel gives no name at all.
        name => text.decode(name),
    }
}

/// A path as it was given to a call, and whether it is not the whole one.
fn given(text: &mut Text, tail: &mut Tail<'_>, path: &given_path) -> Result<(String, bool), DecodeError> {
    let given_path { base_length, given_length, cut, traits } = path;
    let names = tail.take(*base_length)?;
    let given = text.decode(tail.take(*given_length)?);
    let has = |flag: path_cut| cut & flag.0 != 0;
    let base_cut = has(path_cut::BASE_CUT) || has(path_cut::BASE_UNKNOWN);
    let path = if given.starts_with('/') {
        given
    } else if *given_length == 0 {
        file_path(text, names, *traits, base_cut)
    } else {
        let base = if has(path_cut::BASE_UNKNOWN) { "...".into() } else { text.path(names, base_cut) };
        format!("{}/{}", base.trim_end_matches('/'), given.trim_start_matches("./"))
    };
    Ok((path, *cut != 0))
}

/// An entry of the kernel's sums, made a record at the end of its interval.
pub fn activity_record(key: &[u8], value: &[u8], time: u64) -> Option<Vec<u8>> {
    let activity_key { dentry: _, inode, device, tid: _ } = read(key)?;
    let activity_value { reads, writes, read_bytes, write_bytes, task, r#type, traits, cut, path_length, path } =
        read(value)?;
    let path = path.get(..path_length as usize)?;
    let path: Vec<u8> = path.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
    let length = u32::try_from(size_of::<file_activity_record>() + path.len()).ok()?;
    let start = record_start { kind: record_kind::RECORD_FILE_ACTIVITY.0, length, time };
    let header = record_header { start, task };
    let record = file_activity_record {
        header,
        inode,
        reads,
        writes,
        read_bytes,
        write_bytes,
        device,
        r#type,
        traits,
        cut,
        path_length,
        padding: 0,
    };
    Some([bytes_of(&record), &path].concat())
}

/// What a thread read from and wrote to a file in an interval.
pub fn file_activity(bytes: &[u8], clock: &Clock) -> Result<FileActivity, DecodeError> {
    let file_activity_record {
        header,
        inode,
        reads,
        writes,
        read_bytes,
        write_bytes,
        device: kernel_device,
        r#type,
        traits,
        cut,
        path_length,
        padding: _,
    } = fixed(bytes)?;
    let (time, task) = super::header(&header, clock);
    let mut names = Tail(&bytes[size_of::<file_activity_record>()..]).take(path_length)?;
    let path_truncated = cut != 0;
    if path_truncated && let Some(end) = names.iter().rposition(|byte| *byte == 0) {
        names = &names[..=end]; // The cut may have gone through a name.
    }
    let mut text = Text::default();
    // A file that was closed meanwhile has no inode, and no path either.
    let path = if inode == 0 { String::new() } else { file_path(&mut text, names, traits, path_truncated) };
    Ok(FileActivity {
        time,
        task,
        path,
        path_truncated,
        deleted: is(traits, file_trait::FILE_DELETED),
        file_type: file_type(r#type)?,
        inode,
        device: device(kernel_device),
        reads,
        writes,
        read_bytes,
        write_bytes,
        lossy: text.lossy,
    })
}

/// A file was opened, or that failed.
pub fn file_open(bytes: &[u8], clock: &Clock) -> Result<FileOpen, DecodeError> {
    let file_open_record {
        header,
        inode,
        device: kernel_device,
        r#type,
        flags,
        mode,
        error,
        created,
        path: given_path,
    } = fixed(bytes)?;
    let (time, task) = super::header(&header, clock);
    let mut text = Text::default();
    let mut tail = Tail(&bytes[size_of::<file_open_record>()..]);
    let (path, path_truncated) = given(&mut text, &mut tail, &given_path)?;
    Ok(FileOpen {
        time,
        task,
        path,
        path_truncated,
        flags,
        mode,
        write: flags & O_ACCMODE != O_RDONLY && flags & O_PATH == 0,
        created: created != 0,
        deleted: is(given_path.traits, file_trait::FILE_DELETED),
        memfd: is(given_path.traits, file_trait::FILE_MEMFD),
        error,
        file_type: file_type(r#type)?,
        inode,
        device: device(kernel_device),
        lossy: text.lossy,
    })
}

/// A file's name, owner, permissions or size was changed, or that failed.
pub fn file_change(bytes: &[u8], clock: &Clock) -> Result<FileChange, DecodeError> {
    let file_change_record {
        header,
        size,
        change,
        error,
        mode,
        uid,
        gid,
        padding: _,
        path: given_path,
        other_path: other_given,
    } = fixed(bytes)?;
    let (time, task) = super::header(&header, clock);
    let change = match file_changed(change) {
        file_changed::CHANGE_DELETE => Change::Delete,
        file_changed::CHANGE_RENAME => Change::Rename,
        file_changed::CHANGE_LINK => Change::Link,
        file_changed::CHANGE_SYMLINK => Change::Symlink,
        file_changed::CHANGE_MKDIR => Change::Mkdir,
        file_changed::CHANGE_RMDIR => Change::Rmdir,
        file_changed::CHANGE_CHMOD => Change::Chmod,
        file_changed::CHANGE_CHOWN => Change::Chown,
        file_changed::CHANGE_TRUNCATE => Change::Truncate,
        _ => return Err(DecodeError::UnknownValue("change")),
    };
    let mut text = Text::default();
    let mut tail = Tail(&bytes[size_of::<file_change_record>()..]);
    let (path, cut) = given(&mut text, &mut tail, &given_path)?;
    let (other_path, other_cut) = match change {
        // Its text is of no directory.
        Change::Symlink => {
            _ = tail.take(other_given.base_length)?;
            let cut = other_given.cut & path_cut::GIVEN_CUT.0 != 0;
            (Some(text.decode(tail.take(other_given.given_length)?)), cut)
        }
        Change::Rename | Change::Link => {
            let (path, cut) = given(&mut text, &mut tail, &other_given)?;
            (Some(path), cut)
        }
        _ => (None, false),
    };
    let set = |value: u32| (value != UNCHANGED).then_some(value);
    Ok(FileChange {
        time,
        task,
        change,
        path,
        other_path,
        paths_truncated: cut || other_cut,
        new_mode: set(mode),
        new_uid: set(uid),
        new_gid: set(gid),
        new_size: (change == Change::Truncate).then_some(size),
        error,
        lossy: text.lossy,
    })
}
