//! Machine code of earlier runs: a folder that only this user can write, one file a plugin. What is there is run by the
//! host, so folder and files are looked at as closely as a program's own.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::process::geteuid;
use sha2::{Digest, Sha256};

use super::{Key, MAX_CODE_BYTES};

/// Where it is unless somebody says otherwise.
const USUAL_FOLDER: &str = "/var/cache/eunomia-host";

/// The most that all files take together. Then those go that were used longest ago.
const MAX_CACHE_BYTES: u64 = 2 << 30;

/// Begins each file; another layout gets another number.
const MAGIC: &[u8; 16] = b"eunomia-code 1\n\0";

/// What follows it: a digest of the key and of the code.
const DIGEST_BYTES: usize = 32;

/// A file that has been incomplete for so long was left by a host that was killed.
const INCOMPLETE_SECONDS: i64 = 3_600;

/// How files end that are complete, and those that are being written.
const COMPLETE: &str = ".code";
const INCOMPLETE: &str = ".new";

/// Bits of a mode that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// A folder of machine code.
pub struct Cache {
    path: PathBuf,
    folder: OwnedFd,
}

impl Cache {
    /// Root's, in the usual place. None, with a warning, where it cannot be used.
    pub fn usual() -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        match Self::open(Path::new(USUAL_FOLDER)) {
            Ok(cache) => Some(cache),
            Err(error) => {
                log::warn!("machine code is not kept, so plugins are compiled at each start: {error:#}");
                None
            }
        }
    }

    /// Opens a folder, or makes it.
    pub fn open(path: &Path) -> Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot make the cache folder {}; name another with --cache, or say --no-cache",
                        path.display()
                    )
                });
            }
            _ => {}
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let folder = openat(CWD, path, flags, Mode::empty()).with_context(|| {
            format!("cannot open the cache folder {}; it must be a folder and no link", path.display())
        })?;
        let folder = File::from(folder);
        check(&folder.metadata()?).with_context(|| {
            format!(
                "the cache folder {} is not used, for what is in it is run as this user; name one that is for this alone",
                path.display()
            )
        })?;
        Ok(Cache { path: path.to_owned(), folder: folder.into() })
    }

    /// The code that is kept under a key. A file that is damaged, or that others could have written, is thrown away.
    pub(super) fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let name = name(key);
        match self.read(&name, key) {
            Ok(code) => code,
            Err(error) => {
                log::warn!(
                    "{} is thrown away, and its plugin compiled anew: {error:#}",
                    self.path.join(&name).display()
                );
                _ = unlinkat(&self.folder, &name, AtFlags::empty());
                None
            }
        }
    }

    fn read(&self, name: &str, key: &Key) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = match openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error).context("cannot open it"),
        };
        let metadata = file.metadata()?;
        ensure!(metadata.is_file(), "it is no regular file");
        check(&metadata)?;
        let head = MAGIC.len() + DIGEST_BYTES;
        ensure!(metadata.len() <= (head + MAX_CODE_BYTES) as u64, "it is larger than any code that is kept");
        let mut head = [0; MAGIC.len() + DIGEST_BYTES];
        file.read_exact(&mut head).context("it is cut off")?;
        let mut code = Vec::with_capacity(usize::try_from(metadata.len())?);
        (&mut file).take(MAX_CODE_BYTES as u64).read_to_end(&mut code)?;
        let (magic, expected) = head.split_at(MAGIC.len());
        ensure!(magic == MAGIC && expected == digest(key, &code), "it is damaged");
        // Says when it was last used; that it cannot be said is no reason not to use it.
        _ = file.set_modified(SystemTime::now());
        Ok(Some(code))
    }

    /// Keeps code under a key. That it cannot is no reason not to run it.
    pub(super) fn put(&self, key: &Key, code: &[u8]) {
        if let Err(error) = self.write(key, code).and_then(|()| self.shrink()) {
            log::warn!("cannot keep machine code in {}: {error:#}", self.path.display());
        }
    }

    fn write(&self, key: &Key, code: &[u8]) -> Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let new = format!("{}-{number}{INCOMPLETE}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        _ = unlinkat(&self.folder, &new, AtFlags::empty()); // Of another process, which is no more.
        let mut file = File::from(openat(&self.folder, &new, flags, Mode::RUSR | Mode::WUSR)?);
        let written = [MAGIC, digest(key, code).as_slice(), code].into_iter().try_for_each(|part| file.write_all(part));
        let done = written.and_then(|()| Ok(renameat(&self.folder, &new, &self.folder, name(key))?));
        if done.is_err() {
            _ = unlinkat(&self.folder, &new, AtFlags::empty());
        }
        Ok(done?)
    }

    /// Removes what was used longest ago, until the rest has room.
    fn shrink(&self) -> Result<()> {
        let now =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
        let mut files = Vec::new();
        for entry in Dir::read_from(self.folder.as_fd())? {
            let name = entry?.file_name().to_owned();
            let Ok(stat) = statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if name.to_bytes().ends_with(COMPLETE.as_bytes()) {
                files.push((stat.st_mtime, u64::try_from(stat.st_size).unwrap_or_default(), name));
            } else if name.to_bytes().ends_with(INCOMPLETE.as_bytes()) && now - stat.st_mtime > INCOMPLETE_SECONDS {
                unlinkat(&self.folder, &name, AtFlags::empty())?;
            }
        }
        files.sort_unstable();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, name) in files {
            if total <= MAX_CACHE_BYTES {
                break;
            }
            unlinkat(&self.folder, &name, AtFlags::empty())?;
            total -= size;
        }
        Ok(())
    }
}

/// An error where somebody else than this user can change it.
fn check(metadata: &fs::Metadata) -> Result<()> {
    let (owner, own) = (metadata.uid(), geteuid().as_raw());
    if owner != own {
        bail!("it belongs to user {owner}, and this host runs as user {own}; remove it, or have its owner changed");
    }
    let mode = metadata.mode() & 0o7777;
    ensure!(mode & OTHERS_WRITE == 0, "others than its owner can write it (mode {mode:o}); chmod go-w");
    Ok(())
}

fn name(key: &Key) -> String {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    hex + COMPLETE
}

fn digest(key: &Key, code: &[u8]) -> [u8; DIGEST_BYTES] {
    Sha256::new().chain_update(key).chain_update(code).finalize().into()
}
