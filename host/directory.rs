//! A directory of plugins: watches it, and says what is to be loaded, exchanged or unloaded. It knows files, not the
//! kernel, events or Wasm.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// How often the directory is read even if nothing was notified: notifications can be lost, the directory replaced.
const RESCAN: Duration = Duration::from_millis(700);

/// A file that was written so short a while ago may still be growing, and is looked at again.
const SETTLE: Duration = Duration::from_millis(100);

/// What is to be done.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Load this plugin, or exchange the one with this name for it.
    Load {
        /// The file's name without `.wasm`.
        name: String,
        /// The file.
        file: PathBuf,
    },
    /// Unload this plugin: its file has gone.
    Unload {
        /// The name.
        name: String,
    },
}

/// A directory of plugins.
pub struct Directory {
    path: PathBuf,
    known: BTreeMap<String, Version>,
    /// What was said to be no regular file, so that it is said once.
    refused: BTreeSet<PathBuf>,
    vanished: bool,
    /// Some file may still be growing.
    unsettled: bool,
    notified: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
    notify: mpsc::Sender<()>,
}

/// What tells one version of a plugin from another: device, inode, size and change of its file and of its settings.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Version(Vec<(u64, u64, u64, i64, i64)>);

impl Directory {
    /// Watches a directory. The first changes are all that is in it.
    pub fn new(path: &Path) -> Self {
        // One notification that waits is enough: the directory is read as a whole.
        let (notify, notified) = mpsc::channel(1);
        let (known, refused) = Default::default();
        let path = path.to_owned();
        let mut directory =
            Directory { path, known, refused, vanished: false, unsettled: false, notified, watcher: None, notify };
        directory.watch();
        directory
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
        changes.sort();
        changes
    }

    /// Waits for changes. Can be abandoned while it waits.
    pub async fn changes(&mut self) -> Vec<Change> {
        loop {
            let changes = self.scan();
            if !changes.is_empty() {
                return changes;
            }
            let at_most = if self.unsettled { SETTLE } else { RESCAN };
            _ = tokio::time::timeout(at_most, self.notified.recv()).await;
        }
    }

    /// What has changed since the last scan.
    pub fn scan(&mut self) -> Vec<Change> {
        let found = match self.read() {
            Ok(found) => found,
            Err(error) => {
                if !self.vanished {
                    log::error!(
                        "cannot read the plugin directory {}: {error}. The plugins that run go on; it is looked for again",
                        self.path.display()
                    );
                }
                (self.vanished, self.watcher) = (true, None);
                return Vec::new();
            }
        };
        if self.vanished {
            self.vanished = false;
            log::info!("the plugin directory {} is there again", self.path.display());
            self.watch();
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
                changes.push(Change::Load { file: self.path.join(format!("{name}.wasm")), name });
            }
        }
        changes
    }

    /// The plugins there are, each with its version, or none while it may still be being written.
    fn read(&mut self) -> io::Result<BTreeMap<String, Option<Version>>> {
        let mut found = BTreeMap::new();
        self.unsettled = false;
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str());
            let Some(name) = name.filter(|name| !name.starts_with('.')) else { continue };
            if path.extension().is_none_or(|extension| extension != "wasm") {
                continue;
            }
            let Ok(metadata) = path.symlink_metadata() else {
                // It went away in between, or the whole directory did: the next scan knows.
                self.unsettled = true;
                found.insert(name.to_owned(), None);
                continue;
            };
            if !metadata.is_file() {
                if self.refused.insert(path.clone()) {
                    log::warn!("{} is not loaded: it is no regular file; copy the plugin itself there", path.display());
                }
                continue;
            }
            self.refused.remove(&path);
            let settings = path.with_extension("toml").symlink_metadata().ok();
            let files: Vec<_> = std::iter::once(metadata).chain(settings).collect();
            let settled = files.iter().all(|file| {
                let age = file.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
                age.is_none_or(|age| age >= SETTLE)
            });
            self.unsettled |= !settled;
            let facts = files.iter().map(|file| (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()));
            found.insert(name.to_owned(), settled.then(|| Version(facts.collect())));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn settle() {
        tokio::time::sleep(SETTLE + Duration::from_millis(20)).await;
    }

    fn load(directory: &Path, name: &str) -> Change {
        Change::Load { name: name.into(), file: directory.join(format!("{name}.wasm")) }
    }

    #[tokio::test]
    async fn files_that_come_change_and_go_are_told_once() {
        let path = std::env::temp_dir().join(format!("eunomia-directory-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("a.wasm"), "1").unwrap();
        std::fs::write(path.join(".b.wasm"), "1").unwrap();
        std::fs::write(path.join("c.wasm.tmp"), "1").unwrap();
        std::os::unix::fs::symlink("a.wasm", path.join("d.wasm")).unwrap();
        let mut directory = Directory::new(&path);
        assert_eq!(directory.scan(), [], "a file that was just written may still grow");
        settle().await;
        assert_eq!(directory.scan(), [load(&path, "a")]);
        while directory.notified.try_recv().is_ok() {}
        assert_eq!(directory.scan(), []);
        settle().await;
        assert!(directory.notified.try_recv().is_err(), "reading the directory is no change of it");

        std::fs::write(path.join("a.toml"), "").unwrap();
        std::fs::rename(path.join("c.wasm.tmp"), path.join("c.wasm")).unwrap();
        assert_eq!(directory.scan(), [load(&path, "c")], "renamed into place: whole at once");
        settle().await;
        assert_eq!(directory.scan(), [load(&path, "a")], "new settings are a new version");

        std::fs::remove_file(path.join("a.wasm")).unwrap();
        let changes = tokio::time::timeout(Duration::from_secs(2), directory.changes()).await.unwrap();
        assert_eq!(changes, [Change::Unload { name: "a".into() }]);
        std::fs::remove_dir_all(&path).unwrap();
        assert_eq!(directory.scan(), [], "the directory has gone, the plugins stay");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(directory.scan(), [Change::Unload { name: "c".into() }], "it is there again, and empty");
        std::fs::remove_dir_all(&path).unwrap();
    }
}
