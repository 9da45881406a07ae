//! What the run times' folders say of a container: the annotations of its OCI configuration, and its first process.
//! Reading is of files of bounded size in folders that the operator granted; without the grant nothing is found.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use eunomia_plugin::containers::{Engine, State};
use serde::Deserialize;

use crate::engine::{Description, bounded, cut, pod};
use crate::recognise::Hint;
use crate::storage;

/// A configuration has some ten KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Namespaces of containerd looked into: a machine has about three (`default`, `k8s.io`, `moby`).
const MAX_NAMESPACES: usize = 32;

/// Below containerd's own folder.
const TASKS: &str = "io.containerd.runtime.v2.task";

/// The folders to look into.
#[derive(Debug, Default)]
pub struct Folders {
    /// containerd's state: `/run/containerd`.
    pub containerd: Vec<PathBuf>,
    /// runc's: `/run/runc`.
    pub runc: Vec<PathBuf>,
    /// Where CRI-O runs its containers: `/run/containers/storage`.
    pub crio: Vec<PathBuf>,
    /// podman's lists of stored containers: `/var/lib/containers/storage/overlay-containers`.
    pub podman: Vec<PathBuf>,
}

impl Folders {
    /// Whether a name that could be anybody's is a container's.
    pub fn confirm(&self, hint: Hint) -> bool {
        match hint {
            Hint::Runc { id } => self.runc.iter().any(|folder| folder.join(id).is_dir()),
            Hint::Containerd { namespace, id } => {
                let mut tasks = self.containerd.iter().map(|folder| folder.join(TASKS)).filter(|tasks| tasks.is_dir());
                let Some(first) = tasks.next() else { return namespace == "default" };
                std::iter::once(first).chain(tasks).any(|tasks| tasks.join(namespace).join(id).is_dir())
            }
        }
    }

    /// What the folders say of a container.
    pub fn describe(&self, engine: Engine, id: &str) -> Option<Description> {
        if let Engine::Docker | Engine::Containerd | Engine::Unknown = engine
            && let Some((folder, namespace)) = self.task(id)
        {
            let engine = if namespace == "moby" { Engine::Docker } else { Engine::Containerd };
            let mut description = config(&folder.join("config.json"), engine, id)?;
            description.pid = read(&folder.join("init.pid"), MAX_FILE_BYTES).and_then(|text| text.trim().parse().ok());
            return Some(description);
        }
        if let Engine::Crio | Engine::Unknown = engine {
            let file = Path::new("overlay-containers").join(id).join("userdata/config.json");
            return self.crio.iter().find_map(|folder| config(&folder.join(&file), Engine::Crio, id));
        }
        if engine == Engine::Podman {
            return storage::describe(&self.podman, id);
        }
        if engine == Engine::Runc {
            let state =
                self.runc.iter().find_map(|folder| read(&folder.join(id).join("state.json"), MAX_FILE_BYTES))?;
            return runc(&state, id);
        }
        None
    }

    /// The folder of containerd's task with this id, and its namespace.
    fn task(&self, id: &str) -> Option<(PathBuf, String)> {
        self.containerd.iter().find_map(|folder| {
            let namespaces = std::fs::read_dir(folder.join(TASKS)).ok()?.flatten().take(MAX_NAMESPACES);
            let mut tasks = namespaces.map(|namespace| (namespace.path().join(id), namespace.file_name()));
            let (task, namespace) = tasks.find(|(task, _)| task.is_dir())?;
            Some((task, namespace.to_string_lossy().into_owned()))
        })
    }
}

/// A file's text; at most so much of it.
pub fn read(file: &Path, bytes: u64) -> Option<String> {
    let mut text = String::new();
    File::open(file).ok()?.take(bytes).read_to_string(&mut text).ok()?;
    Some(text)
}

fn config(file: &Path, engine: Engine, id: &str) -> Option<Description> {
    annotations(&read(file, MAX_FILE_BYTES)?, engine, id)
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Reads an OCI configuration's annotations. None for what is no such configuration, for example half a file.
fn annotations(text: &str, engine: Engine, id: &str) -> Option<Description> {
    let Config { annotations } = serde_json::from_str(text).ok()?;
    let get = |key: &str| annotations.get(key).map(String::as_str);
    let first = |keys: &[&str]| cut(keys.iter().find_map(|key| get(key)).unwrap_or_default().to_owned());
    let cri = "io.kubernetes.cri.";
    let pod = pod(get, &format!("{cri}sandbox-name"), &format!("{cri}sandbox-namespace"), &format!("{cri}sandbox-uid"))
        .or_else(|| pod(get, "io.kubernetes.pod.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.uid"));
    let name = first(&["io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name"]);
    let image = first(&["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName", "nerdctl/image-ref"]);
    let labels = bounded(annotations);
    Some(Description { id: id.to_owned(), engine, name, image, labels, state: State::Unknown, pid: None, pod })
}

/// Reads the state that runc keeps of a container.
fn runc(text: &str, id: &str) -> Option<Description> {
    #[derive(Deserialize)]
    struct Kept {
        init_process_pid: Option<u32>,
    }
    let Kept { init_process_pid } = serde_json::from_str(text).ok()?;
    Some(Description {
        id: id.to_owned(),
        engine: Engine::Runc,
        name: String::new(),
        image: String::new(),
        labels: vec![],
        state: State::Unknown,
        pid: init_process_pid.filter(|pid| *pid > 0),
        pod: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRI: &str = r#"{"ociVersion":"1.0.2","process":{"args":["nginx"]},"annotations":{
        "io.kubernetes.cri.container-name":"nginx","io.kubernetes.cri.container-type":"container",
        "io.kubernetes.cri.image-name":"docker.io/library/nginx:1.25","io.kubernetes.cri.sandbox-id":"aa",
        "io.kubernetes.cri.sandbox-name":"web-0","io.kubernetes.cri.sandbox-namespace":"shop",
        "io.kubernetes.cri.sandbox-uid":"7d9a2c1e-4b0f-4b53-9d0e-0123456789ab"},
        "linux":{"cgroupsPath":"/kubepods/burstable/pod7d9a/aa"}}"#;

    #[test]
    fn a_container_of_kubernetes_by_containerd() {
        let found = annotations(CRI, Engine::Containerd, "aa").unwrap();
        assert_eq!((found.name.as_str(), found.image.as_str()), ("nginx", "docker.io/library/nginx:1.25"));
        let pod = found.pod.unwrap();
        assert_eq!((pod.name.as_str(), pod.namespace.as_str()), ("web-0", "shop"));
        assert_eq!(pod.uid, "7d9a2c1e-4b0f-4b53-9d0e-0123456789ab");
    }

    #[test]
    fn a_container_of_crio_and_one_of_nerdctl() {
        let text = r#"{"annotations":{"io.kubernetes.container.name":"db","io.kubernetes.pod.name":"db-0",
            "io.kubernetes.pod.namespace":"shop","io.kubernetes.cri-o.ImageName":"quay.io/db:1"}}"#;
        let found = annotations(text, Engine::Crio, "bb").unwrap();
        assert_eq!((found.name.as_str(), found.image.as_str()), ("db", "quay.io/db:1"));
        assert_eq!(found.pod.unwrap().name, "db-0");
        let found = annotations(r#"{"annotations":{"nerdctl/name":"web"}}"#, Engine::Containerd, "cc").unwrap();
        assert_eq!((found.name.as_str(), found.pod), ("web", None));
    }

    #[test]
    fn configurations_without_annotations_and_bad_ones() {
        let found = annotations(r#"{"ociVersion":"1.0.2"}"#, Engine::Containerd, "aa").unwrap();
        assert_eq!((found.name.as_str(), found.labels.len()), ("", 0));
        for bad in ["", "{", "7", r#"{"annotations":[]}"#, r#"{"annotations":{"a":1}}"#, &CRI[..CRI.len() / 2]] {
            assert_eq!(annotations(bad, Engine::Containerd, "aa"), None, "{bad}");
        }
        assert_eq!(runc(r#"{"id":"web","init_process_pid":4711}"#, "web").unwrap().pid, Some(4711));
        assert_eq!(runc(r#"{"id":"web","init_process_pid":0}"#, "web").unwrap().pid, None);
        assert_eq!(runc("{", "web"), None);
    }

    #[test]
    fn folders_of_containerd_and_runc() {
        let root = std::env::temp_dir().join(format!("eunomia-oci-{}", std::process::id()));
        let task = root.join("containerd").join(TASKS).join("k8s.io/aa");
        std::fs::create_dir_all(&task).unwrap();
        std::fs::create_dir_all(root.join("runc/web")).unwrap();
        std::fs::write(task.join("config.json"), CRI).unwrap();
        std::fs::write(task.join("init.pid"), "4711").unwrap();
        let folders =
            Folders { containerd: vec![root.join("containerd")], runc: vec![root.join("runc")], ..Default::default() };
        let found = folders.describe(Engine::Unknown, "aa").unwrap();
        assert_eq!((found.engine, found.name.as_str(), found.pid), (Engine::Containerd, "nginx", Some(4711)));
        assert_eq!(folders.describe(Engine::Unknown, "bb"), None);
        assert!(folders.confirm(Hint::Runc { id: "web" }) && !folders.confirm(Hint::Runc { id: "init" }));
        assert!(folders.confirm(Hint::Containerd { namespace: "k8s.io", id: "aa" }));
        assert!(!folders.confirm(Hint::Containerd { namespace: "default", id: "aa" }));
        let none = Folders::default();
        assert!(
            none.confirm(Hint::Containerd { namespace: "default", id: "aa" }),
            "without a grant, by its name alone"
        );
        assert!(
            !none.confirm(Hint::Containerd { namespace: "other", id: "aa" }) && !none.confirm(Hint::Runc { id: "web" })
        );
        std::fs::remove_dir_all(root).unwrap();
    }
}
