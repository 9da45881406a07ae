//! The answers of an engine's API, as Docker has it and podman, too. Pure: bytes in, descriptions or an error out.

use std::collections::BTreeMap;

use eunomia_plugin::containers::{Engine, Label, Pod, State};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A name or an image that is longer is cut.
const MAX_TEXT_BYTES: usize = 1024;

/// Labels kept of a container: what people write fits by far; some tools keep whole files in them.
const MAX_LABELS: usize = 64;
/// And what they may take together, names and values.
const MAX_LABEL_BYTES: usize = 2048;

/// What somebody who knows a container says of it. What it does not say is empty or none.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    pub id: String,
    pub engine: Engine,
    pub name: String,
    pub image: String,
    pub labels: Vec<Label>,
    pub state: State,
    pub pid: Option<u32>,
    pub pod: Option<Pod>,
}

/// The request for all containers, or those of these ids. Ids are of hexadecimal digits. Unlike a single container's
/// description, which waits until the container has started, the list answers at once and knows it already.
pub fn list_path(ids: &[&str]) -> String {
    let mut path = "/containers/json?all=1".to_owned();
    if !ids.is_empty() {
        // `{"id":["ID","ID"]}` in a URL.
        path += &format!("&filters=%7B%22id%22%3A%5B%22{}%22%5D%7D", ids.join("%22%2C%22"));
    }
    path
}

/// The request for a container's first process.
pub fn inspect_path(id: &str) -> String {
    format!("/containers/{id}/json")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    names: Option<Vec<String>>,
    image: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    state: Option<String>,
    // Podman's alone.
    pid: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    state: InspectedState,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    pid: Option<u32>,
}

/// Reads a list.
///
/// # Errors
/// The answer is no list of containers: cut short, or of other types.
pub fn read_list(answer: &[u8], engine: Engine) -> Result<Vec<Description>, String> {
    let listed: Vec<Listed> = read(answer)?;
    Ok(listed.into_iter().map(|listed| describe(listed, engine)).collect())
}

/// Reads the id and the first process's pid from a container's full description.
///
/// # Errors
/// The answer is no container's description.
pub fn read_pid(answer: &[u8]) -> Result<(String, Option<u32>), String> {
    let inspected: Inspected = read(answer)?;
    Ok((inspected.id, inspected.state.pid.filter(|pid| *pid != 0)))
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, String> {
    serde_json::from_slice(answer).map_err(|error| format!("its answer makes no sense ({error})"))
}

fn describe(listed: Listed, engine: Engine) -> Description {
    let labels = listed.labels.unwrap_or_default();
    let pod = pod(
        |key| labels.get(key).map(String::as_str),
        "io.kubernetes.pod.name",
        "io.kubernetes.pod.namespace",
        "io.kubernetes.pod.uid",
    );
    let kubernetes_name = pod.as_ref().and_then(|_| labels.get("io.kubernetes.container.name"));
    let name = match kubernetes_name {
        Some(name) => name.clone(),
        None => own_name(listed.names.unwrap_or_default()),
    };
    Description {
        id: cut(listed.id),
        engine,
        name: cut(name),
        image: cut(listed.image.unwrap_or_default()),
        labels: bounded(labels),
        state: listed.state.as_deref().map_or(State::Unknown, state),
        pid: listed.pid.filter(|pid| *pid != 0),
        pod,
    }
}

/// Links have the container appear below another's name, as `/other/alias`, too.
fn own_name(names: Vec<String>) -> String {
    let own = names.iter().map(|name| name.strip_prefix('/').unwrap_or(name)).find(|name| !name.contains('/'));
    own.unwrap_or_default().to_owned()
}

fn state(word: &str) -> State {
    match word {
        "created" | "configured" | "initialized" => State::Created,
        "running" | "stopping" => State::Running,
        "paused" => State::Paused,
        "restarting" => State::Restarting,
        "exited" | "dead" | "stopped" | "removing" => State::Exited,
        _ => State::Unknown,
    }
}

/// A pod, where one is spoken of.
pub fn pod<'a>(get: impl Fn(&str) -> Option<&'a str>, name: &str, namespace: &str, uid: &str) -> Option<Pod> {
    let text = |key: &str| cut(get(key).unwrap_or_default().to_owned());
    let pod = Pod { name: text(name), namespace: text(namespace), uid: text(uid) };
    (!pod.name.is_empty() || !pod.uid.is_empty()).then_some(pod)
}

/// The labels that fit, in the order of their names.
pub fn bounded(labels: BTreeMap<String, String>) -> Vec<Label> {
    let mut left = MAX_LABEL_BYTES;
    let fits = |(name, value): &(String, String)| {
        let bytes = name.len() + value.len();
        let fits = bytes <= left;
        left -= if fits { bytes } else { 0 };
        fits
    };
    let labels = labels.into_iter().filter(fits).take(MAX_LABELS);
    labels.map(|(name, value)| Label { name, value }).collect()
}

/// At most so many bytes, whole characters.
pub fn cut(mut text: String) -> String {
    let end = text.floor_char_boundary(MAX_TEXT_BYTES);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from Docker 20.10, shortened.
    const DOCKER: &str = include_str!("../fixtures/docker-list.json");
    /// Recorded from podman 4.3.
    const PODMAN: &str = include_str!("../fixtures/podman-list.json");

    #[test]
    fn a_list_of_docker() {
        let all = read_list(DOCKER.as_bytes(), Engine::Docker).unwrap();
        let web = &all[0];
        assert_eq!((web.name.as_str(), web.image.as_str(), web.state), ("web", "test:busybox", State::Running));
        assert_eq!(web.id, "04c0ab3107af6dab383520da34c3ffa3894ca168a0bc6b116defb1dce243c8dc");
        assert_eq!(web.labels, [Label { name: "a".into(), value: "b".into() }]);
        assert_eq!((&web.pod, web.pid), (&None, None));
        let pause = &all[1];
        let pod = pause.pod.as_ref().unwrap();
        assert_eq!((pause.name.as_str(), pod.name.as_str(), pod.namespace.as_str()), ("nginx", "web-0", "shop"));
    }

    #[test]
    fn a_list_of_podman() {
        let all = read_list(PODMAN.as_bytes(), Engine::Podman).unwrap();
        assert_eq!((all[0].name.as_str(), all[0].state), ("web", State::Running));
        assert!(all[0].image.ends_with("busybox"), "{}", all[0].image);
    }

    #[test]
    fn bad_answers_are_errors() {
        for (end, _) in DOCKER.trim_end().char_indices() {
            assert!(read_list(&DOCKER.as_bytes()[..end], Engine::Docker).is_err(), "cut short at {end}");
        }
        for answer in ["null", "{}", r#"{"message":"no"}"#, "[1]", r#"[{"Names":["/a"]}]"#, r#"[{"Id":7}]"#, "\u{fffd}"]
        {
            let error = read_list(answer.as_bytes(), Engine::Docker).unwrap_err();
            assert!(error.starts_with("its answer makes no sense"), "{error}");
        }
        let deep = "[".repeat(1 << 20);
        assert!(read_list(deep.as_bytes(), Engine::Docker).is_err(), "nested without end");
        assert!(read_pid(b"{}").is_err() && read_pid(b"[]").is_err() && read_pid(b"").is_err());
    }

    #[test]
    fn the_first_process_by_inspection() {
        let answer = |pid| format!(r#"{{"Id":"04c0","State":{{"Status":"running","Pid":{pid}}},"Name":"/web"}}"#);
        assert_eq!(read_pid(answer(4711).as_bytes()), Ok(("04c0".into(), Some(4711))));
        assert_eq!(read_pid(answer(0).as_bytes()), Ok(("04c0".into(), None)), "not yet started");
    }

    #[test]
    fn what_is_null_or_absent_is_empty() {
        let answer = r#"[{"Id":"1","Names":null,"Labels":null,"Image":null,"State":"dreaming"},{"Id":"2"}]"#;
        let all = read_list(answer.as_bytes(), Engine::Docker).unwrap();
        assert!(all.iter().all(|one| one.name.is_empty() && one.labels.is_empty() && one.state == State::Unknown));
    }

    #[test]
    fn a_linked_container_keeps_its_own_name() {
        assert_eq!(own_name(vec!["/app/db".into(), "/db".into()]), "db");
        assert_eq!(own_name(vec![]), "");
    }

    #[test]
    fn texts_and_labels_are_bounded() {
        assert_eq!(cut("ä".repeat(1000)).len(), MAX_TEXT_BYTES);
        let labels =
            |count: usize, bytes: usize| (0..count).map(|at| (format!("{at:04}"), "x".repeat(bytes))).collect();
        assert_eq!(bounded(labels(1000, 1)).len(), MAX_LABELS);
        assert_eq!(bounded(labels(10, 1020)).len(), 2);
        let mut mixed: BTreeMap<String, String> = labels(3, 10);
        mixed.insert("0000".into(), "x".repeat(1 << 20));
        assert_eq!(bounded(mixed).len(), 2, "one that is too long leaves room for the others");
    }

    #[test]
    fn requests() {
        assert_eq!(list_path(&[]), "/containers/json?all=1");
        assert_eq!(
            list_path(&["0a", "1b"]),
            "/containers/json?all=1&filters=%7B%22id%22%3A%5B%220a%22%2C%221b%22%5D%7D"
        );
    }
}
