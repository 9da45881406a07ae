//! The source files on the running kernel: workloads whose true figures are known, by every rung. Needs root.

mod support;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use eunomia_host::event::{Columns, Kind, KindSet};
use eunomia_host::wit::files::{Change, FileActivity, FileIo, FileOperation, FileType};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
use support::{Folder, each_hook, watch};

fn set(kinds: &[Kind]) -> KindSet {
    kinds.iter().copied().collect()
}

fn own_pid() -> u32 {
    std::process::id()
}

/// Calls and bytes: reads, writes, bytes read, bytes written.
type Sums = (u64, u64, u64, u64);

fn sums<'a>(events: impl Iterator<Item = &'a FileActivity>) -> Sums {
    events.fold((0, 0, 0, 0), |sums, event| {
        let FileActivity { reads, writes, read_bytes, write_bytes, .. } = event;
        (sums.0 + reads, sums.1 + writes, sums.2 + read_bytes, sums.3 + write_bytes)
    })
}

fn of_path(seen: &Columns, path: &str) -> Sums {
    sums(seen.file_activity.iter().filter(|event| event.path == path && event.task.pid == own_pid()))
}

#[test]
fn reads_and_writes_are_summed_exactly_by_file_and_thread() {
    const FILES: usize = 20;
    const READS: usize = 500;
    const WRITES: usize = 250;
    each_hook("files", |hook| {
        let folder = Folder::new("activity");
        let path = |number: usize| folder.0.join(format!("file-{number}"));
        let mut size = 0;
        let seen = watch(hook, set(&[Kind::FileActivity]), || {
            for number in 0..FILES {
                let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path(number));
                let file = file.as_mut().unwrap();
                (0..WRITES).for_each(|_| file.write_all(&[7; 100]).unwrap());
                // By position, so that they do not end at the file's end.
                let mut bytes = [0; 64];
                (0..READS).for_each(|turn| size += file.read_at(&mut bytes, turn as u64 % 1_000).unwrap());
            }
        });
        let (reads, writes, read_bytes, write_bytes) =
            (READS as u64, WRITES as u64, 64 * READS as u64, 100 * WRITES as u64);
        for number in 0..FILES {
            let sums = of_path(&seen, path(number).to_str().unwrap());
            assert_eq!(sums, (reads, writes, read_bytes, write_bytes), "{hook}: file {number}");
        }
        assert_eq!(size as u64, FILES as u64 * read_bytes);
        let event = seen.file_activity.iter().find(|event| event.path == path(0).to_str().unwrap()).unwrap();
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        assert_eq!((event.file_type, event.task.tid), (FileType::Regular, tid.cast_unsigned()), "{hook}");
        assert!(!event.path_truncated && !event.deleted && !event.lossy);
    });
}

#[test]
fn what_is_in_no_directory_and_what_is_deleted_is_named() {
    each_hook("files", |hook| {
        let folder = Folder::new("nameless");
        let path = folder.0.join("deleted");
        let mut inode = 0;
        let seen = watch(hook, set(&[Kind::FileActivity]), || {
            let mut deleted = File::create(&path).unwrap();
            inode = deleted.metadata().unwrap().ino();
            fs::remove_file(&path).unwrap();
            deleted.write_all(b"12345").unwrap();
            let memfd = rustix::fs::memfd_create("secret", rustix::fs::MemfdFlags::empty()).unwrap();
            File::from(memfd).write_all(b"1234567").unwrap();
            let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            assert_eq!(ours.write_vectored(&[IoSlice::new(b"ab"), IoSlice::new(b"c")]).unwrap(), 3);
            let mut halves = [[0; 2]; 2];
            let [first, second] = &mut halves;
            assert_eq!(theirs.read_vectored(&mut [IoSliceMut::new(first), IoSliceMut::new(second)]).unwrap(), 3);
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            File::from(writer).write_all(b"pipe").unwrap();
            File::from(reader).read_exact(&mut [0; 4]).unwrap();
        });
        let by_inode = seen.file_activity.iter().filter(|event| event.inode == inode && event.deleted);
        assert_eq!(sums(by_inode), (0, 1, 0, 5), "{hook}: deleted");
        assert_eq!(of_path(&seen, "/memfd:secret"), (0, 1, 0, 7), "{hook}: memfd");
        assert_eq!(of_path(&seen, "pipe"), (1, 1, 4, 4), "{hook}: pipe");
        let sockets: Vec<_> = seen
            .file_activity
            .iter()
            .filter(|event| event.task.pid == own_pid() && event.file_type == FileType::Socket)
            .collect();
        assert_eq!(sums(sockets.iter().copied()), (1, 1, 3, 3), "{hook}: sockets by readv and writev");
        assert!(sockets.iter().all(|event| event.path.starts_with("UNIX")), "{sockets:?}");
    });
}

#[test]
fn each_read_and_write_is_seen_with_its_size_and_error() {
    const TIMES: usize = 2_000;
    each_hook("files", |hook| {
        let folder = Folder::new("io");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(folder.0.join("file")).unwrap();
        let directory = File::open(&folder.0).unwrap();
        let (inode, folder_inode) = (file.metadata().unwrap().ino(), directory.metadata().unwrap().ino());
        let seen = watch(hook, set(&[Kind::FileIo]), || {
            for turn in 0..TIMES {
                file.write_all_at(&[1; 10], 10 * turn as u64).unwrap();
                file.read_exact_at(&mut [0; 5], turn as u64).unwrap();
                assert!((&directory).read(&mut [0; 1]).is_err());
            }
        });
        let count = |operation, inode, bytes, error| {
            let events =
                seen.file_io.iter().map(FileIo::from).filter(|event| event.pid == own_pid() && event.inode == inode);
            events.filter(|event| (event.operation, event.bytes, event.error) == (operation, bytes, error)).count()
        };
        assert_eq!(count(FileOperation::Write, inode, 10, 0), TIMES, "{hook}");
        assert_eq!(count(FileOperation::Read, inode, 5, 0), TIMES, "{hook}");
        assert_eq!(count(FileOperation::Read, folder_inode, 0, 21), TIMES, "{hook}: EISDIR");
        assert_eq!(seen.file_io.iter().filter(|event| event.inode == inode).count(), 2 * TIMES, "{hook}");
    });
}

/// A bind mount of a folder, taken away at the end.
struct Bind(PathBuf);

impl Bind {
    fn new(from: &std::path::Path, to: PathBuf) -> Self {
        fs::create_dir(&to).unwrap();
        rustix::mount::mount_bind(from, &to).expect("root may mount");
        Bind(to)
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn opened_files_are_seen_by_their_real_paths_and_failures_by_those_asked_for() {
    const EACH: usize = 80;
    const CREATED: usize = 50;
    const FAILED: usize = 50;
    each_hook("files", |hook| {
        let folder = Folder::new("open");
        let base = folder.0.to_str().unwrap().to_owned();
        let deep = folder.0.join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "x").unwrap();
        symlink("a/b/file", folder.0.join("link")).unwrap();
        let bind = Bind::new(&deep, folder.0.join("bound"));
        let directory = File::open(folder.0.join("a")).unwrap();
        let before = std::env::current_dir().unwrap();
        let read = |path: &str| drop(openat(CWD, path, OFlags::RDONLY, Mode::empty()).unwrap());
        let seen = watch(hook, set(&[Kind::FileOpen]), || {
            std::env::set_current_dir(folder.0.join("a")).unwrap();
            for _ in 0..EACH {
                read(&format!("{base}/a/b/file"));
                read("b/../b/file");
                drop(openat(&directory, "b/file", OFlags::RDWR, Mode::empty()).unwrap());
                read(&format!("{base}/link"));
                read(&format!("{base}/bound/file"));
            }
            for number in 0..CREATED {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                drop(openat(&directory, format!("new-{number}"), flags, Mode::from(0o640)).unwrap());
            }
            for _ in 0..FAILED {
                assert!(openat(&directory, "b/none", OFlags::RDONLY, Mode::empty()).is_err());
            }
            std::env::set_current_dir(&before).unwrap();
        });
        drop(bind);
        let own: Vec<_> = seen
            .file_open
            .iter()
            .filter(|event| event.task.pid == own_pid() && event.path.starts_with(&base))
            .collect();
        assert_eq!(own.len(), 5 * EACH + CREATED + FAILED, "{hook}: {own:#?}");
        let count = |path: &str, write| {
            let path = format!("{base}{path}");
            own.iter().filter(|event| event.path == path && event.write == write && event.error == 0).count()
        };
        assert_eq!(count("/a/b/file", false), 3 * EACH, "{hook}: absolute, relative, by a link");
        assert_eq!(count("/a/b/file", true), EACH, "{hook}: by a directory's descriptor");
        assert_eq!(count("/bound/file", false), EACH, "{hook}: through the bind mount");
        let created: Vec<_> = own.iter().filter(|event| event.created).collect();
        assert_eq!(created.len(), CREATED, "{hook}");
        assert_eq!((created[7].path.as_str(), created[7].mode), (format!("{base}/a/new-7").as_str(), 0o640), "{hook}");
        assert!(created[0].flags & OFlags::EXCL.bits() != 0 && created[0].write, "{hook}");
        let failed: Vec<_> = own.iter().filter(|event| event.error == 2).collect();
        assert_eq!(failed.len(), FAILED, "{hook}");
        assert!(failed.iter().all(|event| event.path == format!("{base}/a/b/none")), "{hook}: {:?}", failed[0]);
    });
}

#[test]
fn long_paths_are_cut_at_the_front_and_marked() {
    each_hook("files", |hook| {
        let folder = Folder::new("long");
        let start = File::open(&folder.0).unwrap();
        let name = "n".repeat(200);
        // Deeper than a path may be long, so step by step.
        let mut directory = std::os::fd::OwnedFd::from(start);
        for _ in 0..30 {
            mkdirat(&directory, &name, Mode::from(0o700)).unwrap();
            directory = openat(&directory, &name, OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let seen = watch(hook, set(&[Kind::FileOpen, Kind::FileActivity]), || {
            let file = openat(&directory, "deep", OFlags::CREATE | OFlags::WRONLY, Mode::from(0o600)).unwrap();
            File::from(file).write_all(b"1").unwrap();
        });
        let open = seen.file_open.iter().find(|event| event.path.ends_with("/deep")).unwrap();
        assert!(open.path_truncated && open.path.starts_with(".../nnn") && open.path.len() > 3_500, "{hook}: {open:?}");
        let activity = seen.file_activity.iter().find(|event| event.path.ends_with("/deep")).unwrap();
        assert_eq!(activity.path, format!(".../{name}/deep"), "{hook}");
        assert!(activity.path_truncated, "{hook}");
        let removed = Command::new("rm").arg("-rf").arg(&folder.0).status().unwrap();
        assert!(removed.success());
    });
}

#[test]
fn changes_are_seen_with_both_paths_and_what_was_set() {
    const TIMES: usize = 10;
    each_hook("files", |hook| {
        let folder = Folder::new("change");
        let base = folder.0.to_str().unwrap().to_owned();
        let at = |name: &str| folder.0.join(name);
        let directory = File::open(&folder.0).unwrap();
        let seen = watch(hook, set(&[Kind::FileChange]), || {
            for _ in 0..TIMES {
                let file = File::create(at("one")).unwrap();
                renameat(&directory, "one", CWD, at("two")).unwrap();
                fs::hard_link(at("two"), at("three")).unwrap();
                symlink("two", at("link")).unwrap();
                fs::create_dir(at("dir")).unwrap();
                fs::set_permissions(at("two"), Permissions::from_mode(0o4711)).unwrap();
                file.set_permissions(Permissions::from_mode(0o600)).unwrap();
                std::os::unix::fs::chown(at("two"), Some(1), None).unwrap();
                file.set_len(77).unwrap();
                unlinkat(&directory, "dir", AtFlags::REMOVEDIR).unwrap();
                assert!(fs::remove_dir(at("dir")).is_err(), "it is gone");
                ["two", "three", "link"].iter().for_each(|name| fs::remove_file(at(name)).unwrap());
            }
        });
        let own: Vec<_> = seen
            .file_change
            .iter()
            .filter(|event| event.task.pid == own_pid() && event.path.starts_with(&base))
            .collect();
        assert_eq!(own.len(), 13 * TIMES, "{hook}: {own:#?}");
        let path = |name: &str| format!("{base}/{name}");
        let count = |change, name: &str, other: Option<&str>, error| {
            let same = own.iter().filter(|event| (event.change, event.error) == (change, error));
            same.filter(|event| event.path == path(name) && event.other_path.as_deref() == other).count()
        };
        assert_eq!(count(Change::Rename, "one", Some(&path("two")), 0), TIMES, "{hook}");
        assert_eq!(count(Change::Link, "two", Some(&path("three")), 0), TIMES, "{hook}");
        assert_eq!(count(Change::Symlink, "link", Some("two"), 0), TIMES, "{hook}");
        assert_eq!(count(Change::Mkdir, "dir", None, 0), TIMES, "{hook}");
        assert_eq!(count(Change::Rmdir, "dir", None, 0), TIMES, "{hook}");
        assert_eq!(count(Change::Rmdir, "dir", None, 2), TIMES, "{hook}: refused");
        assert_eq!(count(Change::Chmod, "two", None, 0), 2 * TIMES, "{hook}: by path and by descriptor");
        assert_eq!(count(Change::Truncate, "two", None, 0), TIMES, "{hook}");
        assert_eq!(own.iter().filter(|event| event.change == Change::Delete).count(), 3 * TIMES, "{hook}");
        assert!(own.iter().any(|event| event.new_mode == Some(0o4711)), "{hook}");
        let chown = own.iter().find(|event| event.change == Change::Chown).unwrap();
        assert_eq!((chown.new_uid, chown.new_gid, chown.path == path("two")), (Some(1), None, true), "{hook}");
        let truncate = own.iter().find(|event| event.change == Change::Truncate).unwrap();
        assert_eq!((truncate.new_size, truncate.new_uid), (Some(77), None), "{hook}");
    });
}
