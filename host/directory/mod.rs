//! A directory of plugins: watches it, and says what is to be loaded, exchanged or unloaded. It knows files, not the
//! kernel, events or Wasm.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;
use tokio::sync::mpsc;

use files::Folder;
pub use files::{Files, Operator};

/// How often the directory is read even if nothing was notified: notifications can be lost, the directory replaced.
const RESCAN: Duration = Duration::from_millis(700);

/// A file that was written so short a while ago may still be growing, unless it was renamed into place.
const SETTLE: Duration = Duration::from_millis(400);

/// How often files are looked at that may still be growing.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The most plugins of a directory: more is another directory that was named by mistake.
const MAX_PLUGINS: usize = 10_000;

/// What is to be done.
#[derive(Debug)]
pub enum Change {
    /// Load this plugin, or exchange the one with this name for it.
    Load(Found),
    /// Unload this plugin: its file has gone.
    Unload {
        /// The name.
        name: String,
    },
}

/// A plugin in a directory.
pub struct Found {
    /// The file's name without `.wasm`.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    folder: Arc<Folder>,
}

impl Found {
    /// Reads it, if nobody else could have put it there.
    pub fn read(&self) -> Result<Files> {
        self.folder.read(&self.name)
    }
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// A directory of plugins.
pub struct Directory {
    path: PathBuf,
    operator: Operator,
    known: BTreeMap<String, Version>,
    /// What was said to be no plugin, so that it is said once.
    refused: BTreeSet<PathBuf>,
    unreadable: bool,
    /// Which folder it was when it was last read.
    identity: Option<(u64, u64)>,
    /// Some file may still be growing.
    unsettled: bool,
    notified: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
    notify: mpsc::Sender<()>,
}

/// What tells one version of a plugin from another, of its file and of its settings: device, inode, size, and the times at
/// which it and its mode or owner were changed.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Version(Vec<(u64, u64, i64, i64, i64, i64, i64)>);

impl Directory {
    /// Watches a directory. The first changes are all that is in it. An error when it cannot be read, or others than who
    /// runs this host can write to it.
    pub fn new(path: &Path, operator: Operator) -> Result<Self> {
        // One notification that waits is enough: the directory is read as a whole.
        let (notify, notified) = mpsc::channel(1);
        let (known, refused, unreadable, unsettled, identity, watcher) = Default::default();
        let path = path.to_owned();
        let mut directory =
            Directory { path, operator, known, refused, unreadable, identity, unsettled, notified, watcher, notify };
        directory.open().with_context(|| format!("the plugin directory {} is not used", directory.path.display()))?;
        Ok(directory)
    }

    /// Opens it, and watches it where it is another than before.
    fn open(&mut self) -> Result<Arc<Folder>> {
        let folder = Folder::open(&self.path, self.operator)?;
        let identity = folder.identity()?;
        if self.identity.replace(identity) != Some(identity) {
            self.watch();
        }
        Ok(Arc::new(folder))
    }

    fn watch(&mut self) {
        let notify = self.notify.clone();
        // Reading the directory is itself notified, as an access: to follow that would be to read it for ever.
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access()) {
                _ = notify.try_send(());
            }
        });
        let watched = watcher.and_then(|mut watcher: RecommendedWatcher| {
            watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watched {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => log::warn!(
                "changes of {} are not notified ({error}); it is read every {} ms instead",
                self.path.display(),
                RESCAN.as_millis()
            ),
        }
    }

    /// All that is in the directory, files included that have only just been written.
    pub async fn first(&mut self) -> Vec<Change> {
        let mut changes = self.scan();
        if self.unsettled {
            tokio::time::sleep(SETTLE).await;
            changes.extend(self.scan());
        }
        changes.sort_by(|a, b| a.name().cmp(b.name()));
        changes
    }

    /// Waits for changes. Can be abandoned while it waits.
    pub async fn changes(&mut self) -> Vec<Change> {
        loop {
            let changes = self.scan();
            if !changes.is_empty() {
                return changes;
            }
            let at_most = if self.unsettled { LOOK_AGAIN } else { RESCAN };
            _ = tokio::time::timeout(at_most, self.notified.recv()).await;
        }
    }

    /// What has changed since the last scan.
    pub fn scan(&mut self) -> Vec<Change> {
        let (folder, found) = match self.open().and_then(|folder| Ok((folder.clone(), self.read(&folder)?))) {
            Ok(found) => found,
            Err(error) => {
                if !self.unreadable {
                    log::error!(
                        "cannot read the plugin directory {}: {error:#}. The plugins that run go on; it is looked at again",
                        self.path.display()
                    );
                }
                (self.unreadable, self.identity, self.watcher) = (true, None, None);
                return Vec::new();
            }
        };
        if self.unreadable {
            self.unreadable = false;
            log::info!("the plugin directory {} is there again", self.path.display());
        }
        let gone: Vec<_> = self.known.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
        let mut changes = Vec::new();
        for name in gone {
            self.known.remove(&name);
            changes.push(Change::Unload { name });
        }
        for (name, version) in found {
            let Some(version) = version else { continue };
            if self.known.get(&name) != Some(&version) {
                self.known.insert(name.clone(), version);
                let file = self.path.join(format!("{name}.wasm"));
                changes.push(Change::Load(Found { name, file, folder: folder.clone() }));
            }
        }
        changes
    }

    /// The plugins there are, each with its version, or none while it may still be being written.
    fn read(&mut self, folder: &Folder) -> Result<BTreeMap<String, Option<Version>>> {
        let mut found = BTreeMap::new();
        let mut refused = BTreeSet::new();
        self.unsettled = false;
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let file_name = OsStr::from_bytes(entry.file_name().to_bytes());
            let path = self.path.join(file_name);
            if file_name.as_bytes().starts_with(b".") || path.extension() != Some(OsStr::new("wasm")) {
                continue; // Of editors, package managers and others who are not done yet: they all use such names.
            }
            let mut refuse = |why: &str| {
                if !self.refused.contains(&path) {
                    log::warn!("{} is not loaded: {why}", path.display().to_string().escape_debug());
                }
                refused.insert(path.clone());
            };
            let name = path.file_stem().and_then(OsStr::to_str);
            let Some(name) = name.filter(|name| !name.contains(char::is_control)) else {
                refuse("its name is not UTF-8 or has control characters; rename it");
                continue;
            };
            if found.len() >= MAX_PLUGINS {
                refuse(&format!("there are more than {MAX_PLUGINS} plugins"));
                continue;
            }
            let stat = |name: &OsStr| statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
            let Ok(metadata) = stat(file_name) else {
                // It went away in between, or the whole directory did: the next scan knows.
                self.unsettled = true;
                found.insert(name.to_owned(), None);
                continue;
            };
            if FileType::from_raw_mode(metadata.st_mode) != FileType::RegularFile {
                refuse("it is no regular file; copy the plugin itself there");
                continue;
            }
            let settings = match stat(OsStr::new(&format!("{name}.toml"))) {
                Ok(settings) => Some(settings),
                Err(Errno::NOENT) => None,
                Err(error) => return Err(error.into()),
            };
            let files: Vec<Stat> = std::iter::once(metadata).chain(settings).collect();
            let settled = files.iter().all(is_settled);
            self.unsettled |= !settled;
            found.insert(name.to_owned(), settled.then(|| Version(files.iter().map(facts).collect())));
        }
        self.refused = refused;
        Ok(found)
    }
}

impl Change {
    /// The plugin's name.
    pub fn name(&self) -> &str {
        match self {
            Change::Load(found) => &found.name,
            Change::Unload { name } => name,
        }
    }
}

/// Whether a file was written some time ago, or in the future: clocks are set.
fn is_settled(file: &Stat) -> bool {
    let nanoseconds = u32::try_from(file.st_mtime_nsec).unwrap_or_default();
    let written = u64::try_from(file.st_mtime).ok().map(|seconds| Duration::new(seconds, nanoseconds));
    let age = written.and_then(|written| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + written).ok());
    age.is_none_or(|age| age >= SETTLE)
}

fn facts(file: &Stat) -> (u64, u64, i64, i64, i64, i64, i64) {
    let nanoseconds = |time: u64| time.cast_signed();
    let modified = (file.st_mtime, nanoseconds(file.st_mtime_nsec));
    let changed = (file.st_ctime, nanoseconds(file.st_ctime_nsec));
    (file.st_dev, file.st_ino, file.st_size, modified.0, modified.1, changed.0, changed.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn settle() {
        tokio::time::sleep(SETTLE + Duration::from_millis(20)).await;
    }

    fn shown(changes: Vec<Change>) -> Vec<String> {
        let word = |change: &Change| if matches!(change, Change::Load(_)) { "load" } else { "unload" };
        changes.iter().map(|change| format!("{} {}", word(change), change.name())).collect()
    }

    #[tokio::test]
    async fn files_that_come_change_and_go_are_told_once() {
        let path = std::env::temp_dir().join(format!("eunomia-directory-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("a.wasm"), "1").unwrap();
        std::fs::write(path.join(".b.wasm"), "1").unwrap();
        std::fs::write(path.join("c.wasm.tmp"), "1").unwrap();
        std::os::unix::fs::symlink("a.wasm", path.join("d.wasm")).unwrap();
        let mut directory = Directory::new(&path, Operator::of_this_process()).unwrap();
        assert_eq!(shown(directory.scan()), [""; 0], "a file that was just written may still grow");
        settle().await;
        assert_eq!(shown(directory.scan()), ["load a"]);
        while directory.notified.try_recv().is_ok() {}
        assert_eq!(shown(directory.scan()), [""; 0]);
        settle().await;
        assert!(directory.notified.try_recv().is_err(), "reading the directory is no change of it");

        std::fs::write(path.join("a.toml"), "").unwrap();
        std::fs::rename(path.join("c.wasm.tmp"), path.join("c.wasm")).unwrap();
        assert_eq!(shown(directory.scan()), ["load c"], "renamed into place: whole at once");
        settle().await;
        assert_eq!(shown(directory.scan()), ["load a"], "new settings are a new version");

        std::fs::remove_file(path.join("a.wasm")).unwrap();
        let changes = tokio::time::timeout(Duration::from_secs(2), directory.changes()).await.unwrap();
        assert_eq!(shown(changes), ["unload a"]);
        std::fs::remove_dir_all(&path).unwrap();
        assert_eq!(shown(directory.scan()), [""; 0], "the directory has gone, the plugins stay");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(shown(directory.scan()), ["unload c"], "it is there again, and empty");
        std::fs::remove_dir_all(&path).unwrap();
    }
}
