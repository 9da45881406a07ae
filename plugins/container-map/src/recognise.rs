//! Which container a cgroup is, by its path alone: the engine, the id, the pod and the containers around it. Pure; what no
//! path gives away is asked of the caller.

use eunomia_plugin::containers::Engine;

/// A cgroup that is a container's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub engine: Engine,
    pub id: String,
    /// The unique id of its pod, with dashes.
    pub pod: Option<String>,
    /// Ids of the containers around it, the innermost first.
    pub parents: Vec<String>,
}

/// Names that may be a container's or anybody's. Who asks answers from the engines' state folders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Hint<'a> {
    /// `/ID`: where runc puts a container that names no path of its own.
    Runc { id: &'a str },
    /// `/NAMESPACE/ID` or `NAMESPACE-ID.scope`: containerd's.
    Containerd { namespace: &'a str, id: &'a str },
}

/// Longer paths than any engine makes are not looked into.
const MAX_PATH_BYTES: usize = 4096;

/// The longest name that runc and containerd allow a container, and some.
const MAX_ID_BYTES: usize = 256;

/// What one folder on the way is.
enum Part<'a> {
    Container(Engine, String),
    Pod(&'a str),
    Other,
}

/// The container whose own cgroup this is. None for a host's cgroup, and for those below or around containers.
pub fn recognise(path: &str, is_container: impl Fn(Hint) -> bool) -> Option<Found> {
    if path.len() > MAX_PATH_BYTES {
        return None;
    }
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let (mut parents, mut pod, mut own) = (vec![], None, None);
    for at in 0..names.len() {
        match part(&names[..=at], &is_container) {
            Part::Container(engine, id) if at + 1 == names.len() => own = Some((engine, id)),
            Part::Container(_, id) => {
                parents.insert(0, id);
                pod = None;
            }
            Part::Pod(uid) => pod = Some(uid.replace('_', "-")),
            Part::Other => {}
        }
    }
    let (engine, id) = own?;
    let pod = pod.or_else(|| {
        names
            .last()
            .and_then(|name| name.split_once(':'))
            .and_then(|(slice, _)| pod_uid(slice))
            .map(|uid| uid.replace('_', "-"))
    });
    Some(Found { engine, id, pod, parents })
}

/// What the last of these folders is.
fn part<'a>(names: &[&'a str], is_container: &impl Fn(Hint) -> bool) -> Part<'a> {
    let (name, above) = names.split_last().expect("there is a last one");
    if let Some(uid) = pod_uid(name)
        && (name.ends_with(".slice") || above.contains(&"kubepods"))
    {
        return Part::Pod(uid);
    }
    let found = match name.strip_suffix(".scope") {
        Some(unit) => scope(unit, above, is_container),
        None => by_prefix(name).or_else(|| by_place(name, above, is_container)),
    };
    found.map_or(Part::Other, |(engine, id)| Part::Container(engine, id))
}

/// systemd's naming: `PREFIX-ID.scope`.
fn scope(unit: &str, above: &[&str], is_container: &impl Fn(Hint) -> bool) -> Option<(Engine, String)> {
    if let Some(machine) = unit.strip_prefix("machine-")
        && above.last() == Some(&"machine.slice")
    {
        let machine = unescape(machine);
        // libvirt registers its machines here, too: virtual ones, which are no containers, and LXC's.
        return match machine.split('-').next() {
            Some("qemu" | "xen" | "bhyve" | "ch") => None,
            Some("lxc") => Some((Engine::Lxc, machine)),
            _ => Some((Engine::Nspawn, machine)),
        };
    }
    if let Some((prefix, id)) = unit.rsplit_once('-')
        && is_hex_id(id)
    {
        return named(prefix).map(|engine| (engine, id.to_owned()));
    }
    if let Some(id) = unit.strip_prefix("runc-") {
        return is_plain(id).then(|| (Engine::Runc, id.to_owned()));
    }
    // A namespace may have dashes, and so may an id.
    unit.match_indices('-').find_map(|(at, _)| {
        let (namespace, id) = (&unit[..at], &unit[at + 1..]);
        (is_plain(id) && is_container(Hint::Containerd { namespace, id })).then(|| (Engine::Containerd, id.to_owned()))
    })
}

/// Whose prefix of a scope with a container's id this is. None for what an engine runs beside its containers.
fn named(prefix: &str) -> Option<Engine> {
    match prefix {
        "docker" => Some(Engine::Docker),
        "cri-containerd" | "nerdctl" | "containerd" => Some(Engine::Containerd),
        "crio" => Some(Engine::Crio),
        "libpod" | "libpod-payload" => Some(Engine::Podman),
        "runc" => Some(Engine::Runc),
        _ if prefix.contains("conmon") => None,
        _ => Some(Engine::Unknown),
    }
}

/// Names of plain folders that say by themselves whose they are.
fn by_prefix(name: &str) -> Option<(Engine, String)> {
    // `SLICE:PREFIX:ID` is systemd's naming given to a run time that uses none.
    if let Some((rest, id)) = name.rsplit_once(':')
        && let Some((_, prefix)) = rest.rsplit_once(':')
    {
        let engine = named(prefix).filter(|_| is_hex_id(id));
        return engine.map(|engine| (engine, id.to_owned()));
    }
    if let Some((prefix @ ("libpod" | "libpod-payload" | "crio"), id)) = name.rsplit_once('-') {
        return named(prefix).filter(|_| is_hex_id(id)).map(|engine| (engine, id.to_owned()));
    }
    let id = name.strip_prefix("lxc.payload.").filter(|id| is_plain(id))?;
    Some((Engine::Lxc, id.to_owned()))
}

/// Names that mean something because of where they are.
fn by_place(name: &str, above: &[&str], is_container: &impl Fn(Hint) -> bool) -> Option<(Engine, String)> {
    let whose = |engine| Some((engine, name.to_owned()));
    match (above, is_hex_id(name)) {
        ([.., "docker"], true) | ([.., "ecs", _], true) => whose(Engine::Docker),
        // A pod's folder.
        ([.., "libpod_parent"], _) => None,
        ([], true) => whose(Engine::Runc),
        // Kubernetes, or an operator's own parent folder: the id tells only that it is a container's.
        (_, true) => whose(Engine::Unknown),
        ([.., "lxc" | "lxc.payload"], false) if is_plain(name) => whose(Engine::Lxc),
        ([.., "machine.slice"], false) => {
            let name = name.strip_prefix("systemd-nspawn@")?.strip_suffix(".service")?;
            Some((Engine::Nspawn, unescape(name)))
        }
        ([], false) if is_plain(name) && is_container(Hint::Runc { id: name }) => whose(Engine::Runc),
        ([namespace], false) if is_plain(name) && is_container(Hint::Containerd { namespace, id: name }) => {
            whose(Engine::Containerd)
        }
        _ => None,
    }
}

/// `podUID`, or `...-podUID.slice` with underscores for dashes.
fn pod_uid(name: &str) -> Option<&str> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) if slice.contains("kubepods") => slice.rsplit_once("-pod")?.1,
        Some(_) => return None,
        None => name.strip_prefix("pod")?,
    };
    // 36 characters, or 32 of a pod that the node's own files define.
    let valid = uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-' || byte == b'_');
    (valid && matches!(uid.len(), 32 | 36)).then_some(uid)
}

/// An id as most engines make them.
fn is_hex_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name that a person gave: as runc, containerd and LXC allow it, and no unit of systemd.
fn is_plain(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'+');
    let unit = [".slice", ".scope", ".service", ".socket", ".mount", ".swap"].iter().any(|end| name.ends_with(end));
    !name.is_empty() && name.len() <= MAX_ID_BYTES && name != "." && name != ".." && name.bytes().all(valid) && !unit
}

/// systemd writes what a unit's name must not contain as `\xHH`.
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, behind @ ..] = rest {
        let escaped = behind.first() == Some(&b'x');
        let code = behind.get(1..3).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'\\' && escaped => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
