//! Plugins' files, read as one who may be root must: opened once without following links, looked at, and read from where
//! they were opened, so that what was looked at is what runs.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// The largest file of a plugin that is read; the largest that is loaded is smaller.
const MAX_PLUGIN_BYTES: u64 = 65 << 20;

/// The largest settings file. Rules and lists of names have some KiB.
const MAX_SETTINGS_BYTES: u64 = 1 << 20;

const CHANGED: &str = "it changed while it was read; write it under another name and rename it into place";

/// How often a file is opened anew that changed while it was read.
const READ_TRIES: usize = 10;

/// Bits of a mode.
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Who may decide what runs besides root.
#[derive(Clone, Copy, Debug)]
pub struct Operator {
    /// The user that the host was started as.
    uid: u32,
    /// The one who started it by sudo.
    sudo: Option<u32>,
}

impl Operator {
    /// Whoever has started this process, which must still be what it was started as.
    pub fn of_this_process() -> Self {
        let uid = geteuid();
        let sudo = uid.is_root().then(|| std::env::var("SUDO_UID").ok()?.parse().ok()).flatten();
        Operator { uid: uid.as_raw(), sudo }
    }
}

/// What is read of a plugin.
pub struct Files {
    /// `NAME.wasm`.
    pub plugin: Vec<u8>,
    /// `NAME.toml`, if there is one.
    pub settings: Option<String>,
}

impl Files {
    /// Those of a plugin that was named by the operator, whose word counts: any file is taken whatever its owner, and links
    /// are followed. Its settings were not named, and give it power, so they must be of somebody who may give it.
    pub fn named(plugin: &Path, operator: Operator) -> Result<Self> {
        let opened = open(CWD, plugin, OFlags::empty()).context("cannot read it")?;
        let bytes = read(opened, MAX_PLUGIN_BYTES)?.context(CHANGED)?;
        Ok(Files { plugin: bytes, settings: Self::named_settings(plugin, operator)? })
    }

    /// Its settings alone.
    pub fn named_settings(plugin: &Path, operator: Operator) -> Result<Option<String>> {
        let path = plugin.with_extension("toml");
        settings(open(CWD, &path, OFlags::empty()), operator, Into::into)
            .with_context(|| format!("cannot read the settings {}", path.display()))
    }

    /// The settings alone of a plugin in a directory, which must be the operator's as it must be to load the plugin.
    pub fn settings_in(directory: &Path, name: &str, operator: Operator) -> Result<Option<String>> {
        Folder::open(directory, operator)?.settings(name)
    }
}

/// A folder that only those can change who may.
pub(super) struct Folder {
    file: OwnedFd,
    operator: Operator,
}

impl AsFd for Folder {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Folder {
    /// Opens it, with a look at all the folders that lead to it.
    pub fn open(path: &Path, operator: Operator) -> Result<Self> {
        let written = std::path::absolute(path)?;
        // As it is written: a link on the way must not be somebody else's.
        for folder in written.ancestors() {
            let metadata = folder.symlink_metadata().with_context(|| format!("cannot look at {}", folder.display()))?;
            is_trusted(&metadata, operator, true)
                .with_context(|| format!("the folder {} on the way to it", folder.display()))?;
        }
        // As it is: from the root, each opened in the one before, so that none can be exchanged in between.
        let real = written.canonicalize()?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder = openat(CWD, "/", flags, Mode::empty())?;
        let mut parts = real.components().filter(|part| matches!(part, Component::Normal(_))).peekable();
        let mut so_far = PathBuf::from("/");
        while let Some(part) = parts.next() {
            folder = openat(&folder, part.as_os_str(), flags, Mode::empty())?;
            so_far.push(part);
            let metadata = File::from(folder.try_clone()?).metadata()?;
            let on_the_way = parts.peek().is_some();
            is_trusted(&metadata, operator, on_the_way).with_context(|| format!("the folder {}", so_far.display()))?;
        }
        Ok(Folder { file: folder, operator })
    }

    /// Which folder it is: another one in its place has another identity.
    pub fn identity(&self) -> Result<(u64, u64)> {
        let metadata = File::from(self.file.try_clone()?).metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// A plugin's files in it.
    pub fn read(&self, name: &str) -> Result<Files> {
        for _ in 0..READ_TRIES {
            if let Some(files) = self.try_read(name)? {
                return Ok(files);
            }
        }
        bail!(
            "it changes all the time while it is read; it is tried again when that is over. Rename new versions into place instead"
        )
    }

    /// The same; nothing where it changed meanwhile.
    fn try_read(&self, name: &str) -> Result<Option<Files>> {
        let file_name = format!("{name}.wasm");
        let file = open(&self.file, Path::new(&file_name), OFlags::NOFOLLOW).map_err(no_link)?;
        let metadata = file.metadata()?;
        is_trusted(&metadata, self.operator, false)?;
        // Where this name still leads to it, and it has no other, it is nobody else's file.
        let now = statat(&self.file, &file_name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (now.st_dev, now.st_ino) != (metadata.dev(), metadata.ino()) {
            return Ok(None);
        }
        ensure!(now.st_nlink == 1, "it has {} names (hard links), so another's file may be it; copy it", now.st_nlink);
        let Some(plugin) = read(file, MAX_PLUGIN_BYTES)? else { return Ok(None) };
        Ok(Some(Files { plugin, settings: self.settings(name)? }))
    }

    fn settings(&self, name: &str) -> Result<Option<String>> {
        let opened = open(&self.file, Path::new(&format!("{name}.toml")), OFlags::NOFOLLOW);
        settings(opened, self.operator, no_link).with_context(|| format!("cannot read its settings {name}.toml"))
    }
}

fn no_link(error: Errno) -> anyhow::Error {
    match error {
        Errno::LOOP => anyhow!("it is a link; copy the file itself there"),
        error => anyhow::Error::from(error).context("cannot open it"),
    }
}

/// Opens a file. That of a FIFO or a device must not wait for anybody.
fn open(folder: impl AsFd, path: &Path, flags: OFlags) -> Result<File, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(folder, path, flags, Mode::empty()).map(File::from)
}

/// What settings say, where there are any.
fn settings(
    opened: Result<File, Errno>,
    operator: Operator,
    explain: fn(Errno) -> anyhow::Error,
) -> Result<Option<String>> {
    let file = match opened {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(explain(error)),
    };
    is_trusted(&file.metadata()?, operator, false).context("they say what the plugin may do")?;
    String::from_utf8(read(file, MAX_SETTINGS_BYTES)?.context(CHANGED)?)
        .map(Some)
        .map_err(|error| anyhow!("it is not UTF-8: {error}"))
}

/// All of a regular file, unless it is too large; nothing where it changes meanwhile.
fn read(mut file: File, most: u64) -> Result<Option<Vec<u8>>> {
    let before = file.metadata()?;
    ensure!(before.is_file(), "it is {}, not a regular file; copy the file itself there", what(&before));
    ensure!(before.len() <= most, "it has {} MiB; the most that is read is {} MiB", before.len() >> 20, most >> 20);
    let mut bytes = Vec::with_capacity(usize::try_from(before.len())?);
    (&mut file).take(most + 1).read_to_end(&mut bytes).context("cannot read it")?;
    let after = file.metadata()?;
    let facts = |file: &Metadata| (file.size(), file.mtime(), file.mtime_nsec());
    Ok((facts(&before) == facts(&after) && bytes.len() as u64 == after.len()).then_some(bytes))
}

fn what(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match kind {
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "something else",
    }
}

/// An error where somebody can change it who could not start this host: it must belong to root, to the user that the host
/// runs as, or to who called it by sudo, and nobody else may write it. On the way to a folder, one like /tmp will do, where
/// everybody may write but nobody can move what is another's.
fn is_trusted(metadata: &Metadata, operator: Operator, on_the_way: bool) -> Result<()> {
    let (owner, mode) = (metadata.uid(), metadata.mode());
    let Operator { uid, sudo } = operator;
    if owner != 0 && owner != uid && Some(owner) != sudo {
        bail!("it belongs to user {owner}, who may not decide what runs here; chown it to user {uid}");
    }
    if metadata.is_symlink() {
        return Ok(()); // Has no mode of its own.
    }
    // Many systems give each user a group of their own with the same number, and have it write all that the user does.
    let own_group = owner != 0 && metadata.gid() == owner;
    let others = mode & OTHERS_WRITE != 0 || (mode & GROUP_WRITES != 0 && !own_group);
    let sticky = on_the_way && metadata.is_dir() && mode & STICKY != 0;
    ensure!(!others || sticky, "others than its owner can write it (mode {:o}); chmod go-w", mode & 0o7777);
    Ok(())
}
