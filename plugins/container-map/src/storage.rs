//! What the storage of podman's containers says of them: their names and images, from the moment they are made. podman's
//! API gives no answer about a container while it starts.

use std::path::PathBuf;

use eunomia_plugin::containers::{Engine, State};
use serde::Deserialize;

use crate::engine::{Description, cut};
use crate::oci::read;

/// Some hundred bytes for each container that there is.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The second is of containers that are removed when they end.
const FILES: [&str; 2] = ["containers.json", "volatile-containers.json"];

#[derive(Deserialize)]
struct Stored {
    id: String,
    /// JSON within the JSON.
    #[serde(default)]
    metadata: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    image_name: String,
}

/// What these folders say of a container of podman.
pub fn describe(folders: &[PathBuf], id: &str) -> Option<Description> {
    let files = folders.iter().flat_map(|folder| FILES.map(|file| folder.join(file)));
    files.filter_map(|file| read(&file, MAX_FILE_BYTES)).find_map(|text| find(&text, id))
}

fn find(text: &str, id: &str) -> Option<Description> {
    let stored: Vec<Stored> = serde_json::from_str(text).ok()?;
    let found = stored.into_iter().find(|stored| stored.id == id)?;
    let Metadata { name, image_name } = serde_json::from_str(&found.metadata).ok()?;
    Some(Description {
        id: found.id,
        engine: Engine::Podman,
        name: cut(name),
        image: cut(image_name),
        labels: vec![],
        state: State::Unknown,
        pid: None,
        pod: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from podman 4.3, shortened.
    const STORED: &str = r#"[{"id":"aa","names":["n0"],"image":"6331","layer":"77",
        "metadata":"{\"image-name\":\"localhost/test:busybox\",\"image-id\":\"6331\",\"name\":\"n0\",\"created-at\":1795557264}",
        "created":"2026-11-24T21:54:24Z","flags":{"MountLabel":""}},{"id":"bb"}]"#;

    #[test]
    fn a_container_is_named_by_its_metadata() {
        let found = find(STORED, "aa").unwrap();
        assert_eq!((found.name.as_str(), found.image.as_str()), ("n0", "localhost/test:busybox"));
        assert_eq!((find(STORED, "bb"), find(STORED, "cc")), (None, None));
    }

    #[test]
    fn half_a_file_and_other_files_say_nothing() {
        for text in ["", "[", "{}", "[1]", r#"[{"id":"aa","metadata":7}]"#, &STORED[..STORED.len() / 2]] {
            assert_eq!(find(text, "aa"), None, "{text}");
        }
    }

    #[test]
    fn both_files_of_all_folders_are_looked_into() {
        let folder = std::env::temp_dir().join(format!("eunomia-storage-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(FILES[0]), "[]").unwrap();
        std::fs::write(folder.join(FILES[1]), STORED).unwrap();
        let found = describe(&["/does/not/exist".into(), folder.clone()], "aa");
        std::fs::remove_dir_all(folder).unwrap();
        assert_eq!(found.unwrap().name, "n0");
    }
}
