//! Where a container engine of a test lives, and how nothing of it is left afterwards, whatever the test did.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::Folder;

/// How long an engine may take to start or to stop: some hundred milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The image that all engines get, made of busybox.
pub const IMAGE: &str = "test:busybox";

/// Where cgroups of version 2 are: alone, or beside those of version 1.
pub fn unified() -> &'static Path {
    let mixed = Path::new("/sys/fs/cgroup/unified");
    if mixed.is_dir() { mixed } else { Path::new("/sys/fs/cgroup") }
}

/// What a command printed. It must succeed.
pub fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?} ended with {status}: {said}");
    String::from_utf8(stdout).unwrap().trim().to_owned()
}

/// Waits until something is so.
pub fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !test() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An engine's folders. At the end, all its traces are removed.
pub struct Ground {
    folder: Folder,
    pub traces: Traces,
}

/// What an engine leaves on the machine: processes that run from its folders or in containers made of them, mounts, cgroups.
#[derive(Clone)]
pub struct Traces {
    folder: PathBuf,
    /// Names of cgroups of its containers.
    pub containers: Vec<String>,
}

impl Ground {
    pub fn new(name: &str) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = Folder::new(&format!("{name}-{number}"));
        let traces = Traces { folder: folder.0.clone(), containers: vec![] };
        Ground { folder, traces }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A folder with busybox, the root of containers.
    pub fn rootfs(&self) -> PathBuf {
        let rootfs = self.path("rootfs");
        fs::create_dir_all(rootfs.join("bin")).unwrap();
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is installed");
        for applet in ["sh", "true", "sleep", "id"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        rootfs
    }

    /// An archive with the image, as `docker save` makes it, for all engines.
    pub fn image(&self) -> String {
        let rootfs = self.rootfs();
        let layer = self.text("layer.tar");
        output(Command::new("tar").arg("-C").arg(rootfs).args(["--owner=0", "--group=0", "-cf", &layer, "."]));
        let sum = output(Command::new("sha256sum").arg(&layer));
        let digest = sum.split(' ').next().unwrap();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
        );
        fs::write(self.path("config.json"), config).unwrap();
        let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["{IMAGE}"],"Layers":["layer.tar"]}}]"#);
        fs::write(self.path("manifest.json"), manifest).unwrap();
        let archive = self.text("image.tar");
        let folder = &self.folder.0;
        let parts = ["manifest.json", "config.json", "layer.tar"];
        output(Command::new("tar").arg("-C").arg(folder).args(["-cf", &archive]).args(parts));
        archive
    }

    /// Starts a daemon, its log in the folder.
    pub fn daemon(&self, command: &mut Command) -> Child {
        let log = fs::File::create(self.path("daemon.log")).unwrap();
        let command = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.traces.sweep();
    }
}

impl Traces {
    /// Processes that name the folder on their command line, or whose root is in it.
    fn processes(&self) -> Vec<u32> {
        let path = self.folder.to_str().unwrap();
        let own = fs::metadata("/proc/self/ns/mnt").unwrap().ino();
        let belongs = |pid: &u32| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let elsewhere = fs::metadata(format!("/proc/{pid}/ns/mnt")).is_ok_and(|space| space.ino() != own);
            contains(&read("cmdline"), path) || elsewhere && contains(&read("mountinfo"), path)
        };
        let pids =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != std::process::id()).filter(belongs).collect()
    }

    /// What is mounted in the folder, the innermost first.
    fn mounts(&self) -> Vec<String> {
        let path = self.folder.to_str().unwrap();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(path));
        let mut points: Vec<String> = points.map(str::to_owned).collect();
        points.reverse();
        points
    }

    /// The cgroups of its containers, in all trees.
    fn cgroups(&self) -> Vec<PathBuf> {
        let trees =
            fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path()).chain([unified().into()]);
        let parents = trees.flat_map(|tree| ["", "docker", "default", "libpod_parent"].map(|parent| tree.join(parent)));
        let named = |parent: PathBuf| self.containers.iter().map(move |name| parent.join(name)).collect::<Vec<_>>();
        parents.flat_map(named).filter(|cgroup| cgroup.is_dir()).collect()
    }

    /// What is left of the engine.
    pub fn left(&self) -> Vec<String> {
        let processes = self.processes().into_iter().map(|pid| format!("process {pid}"));
        let mounts = self.mounts().into_iter().map(|point| format!("mount {point}"));
        let cgroups = self.cgroups().into_iter().map(|cgroup| format!("cgroup {}", cgroup.display()));
        processes.chain(mounts).chain(cgroups).collect()
    }

    /// Removes all of it.
    pub fn sweep(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.left().is_empty() && Instant::now() < deadline {
            for pid in self.processes() {
                _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
            }
            for point in self.mounts() {
                _ = Command::new("umount").args(["-l", &point]).stderr(Stdio::null()).status();
            }
            for cgroup in self.cgroups() {
                remove_cgroup(&cgroup);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A cgroup goes when those in it have gone.
pub fn remove_cgroup(cgroup: &Path) {
    for below in fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&below.path());
    }
    _ = fs::remove_dir(cgroup);
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
