//! What the operator lets a plugin do beyond handling events. It comes from settings alone, and by default is nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail, ensure};

/// The most folders, and the most upstreams, of one plugin: more is a mistake.
const MAX_GRANTS: usize = 32;

/// The longest path of a Unix socket, by the kernel.
const MAX_SOCKET_PATH: usize = 107;

/// Methods that only ask. What changes something has to be granted by name.
pub const SAFE_METHODS: [&str; 2] = ["GET", "HEAD"];

/// What a plugin may do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grants {
    /// It may tell the host of containers.
    pub container_registry: bool,
    /// Folders that it may read, with all that is in them. It sees them under their own paths.
    pub folders: Vec<PathBuf>,
    /// Whom it may call by HTTP, under names of the operator's choice.
    pub http: BTreeMap<String, Upstream>,
}

/// An HTTP server that a plugin may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Where it is.
    pub address: Address,
    /// The methods that may be used.
    pub methods: Vec<String>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq)]
pub enum Address {
    /// `http://HOST:PORT`.
    Tcp(String),
    /// `unix:///path`.
    Unix(PathBuf),
}

impl Grants {
    /// Lets the plugin read a folder.
    pub fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        ensure!(
            folder.is_absolute() && folder.components().all(plain),
            "grants.folders: '{}' is not the absolute path of a folder, such as /run/containerd",
            folder.display()
        );
        ensure!(folder.to_str().is_some(), "grants.folders: '{}' is not UTF-8", folder.display());
        ensure!(self.folders.len() < MAX_GRANTS, "grants.folders has more than {MAX_GRANTS} folders");
        self.folders.push(folder.to_owned());
        Ok(())
    }

    /// Lets the plugin call a server. Without methods it may only ask.
    pub fn add_http(&mut self, name: &str, url: &str, methods: Option<Vec<String>>) -> Result<()> {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        ensure!(
            !name.is_empty() && name.chars().all(is_name) && !name.starts_with(['-', '.']),
            "grants.http: the name '{name}' cannot stand in http://NAME/; use lower-case letters, digits, '-' and '.'"
        );
        ensure!(self.http.len() < MAX_GRANTS, "grants.http has more than {MAX_GRANTS} servers");
        let methods = methods.unwrap_or_else(|| SAFE_METHODS.map(String::from).to_vec());
        for method in &methods {
            ensure!(
                !method.is_empty() && method.chars().all(|c| c.is_ascii_uppercase()),
                "grants.http.{name}: '{method}' is no HTTP method; methods are written like \"GET\""
            );
        }
        self.http.insert(name.to_owned(), Upstream { address: address(name, url)?, methods });
        Ok(())
    }
}

fn address(name: &str, url: &str) -> Result<Address> {
    let forms = "write unix:///path/of/a.sock or http://HOST:PORT";
    if let Some(path) = url.strip_prefix("unix://") {
        ensure!(path.starts_with('/'), "grants.http.{name}: the socket of '{url}' is no absolute path; {forms}");
        ensure!(
            path.len() <= MAX_SOCKET_PATH,
            "grants.http.{name}: a socket's path has at most {MAX_SOCKET_PATH} bytes"
        );
        return Ok(Address::Unix(path.into()));
    }
    if url.starts_with("https://") {
        bail!("grants.http.{name}: '{url}': the host speaks no TLS; grant a server on this machine or network without");
    }
    let Some(authority) = url.strip_prefix("http://") else { bail!("grants.http.{name}: '{url}' is no URL; {forms}") };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let port = authority.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    let is_text = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    ensure!(
        matches!(port, Some(Ok(1..))) && authority.chars().all(is_text),
        "grants.http.{name}: '{url}' is not a host with a port and nothing else; {forms}. A plugin asks for any path there"
    );
    Ok(Address::Tcp(authority.to_owned()))
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(authority) => write!(f, "http://{authority}")?,
            Address::Unix(path) => write!(f, "unix://{}", path.display())?,
        }
        write!(f, " ({})", self.methods.join(", "))
    }
}

impl fmt::Display for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registry = self.container_registry.then(|| "container-registry".to_owned());
        let folders = self.folders.iter().map(|folder| format!("reading {}", folder.display()));
        let http = self.http.iter().map(|(name, upstream)| format!("http://{name}/ at {upstream}"));
        let all: Vec<String> = registry.into_iter().chain(folders).chain(http).collect();
        f.write_str(&if all.is_empty() { "nothing".to_owned() } else { all.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_granted_is_shown_as_it_was_written() {
        let mut grants = Grants::default();
        assert_eq!(grants.to_string(), "nothing");
        grants.container_registry = true;
        grants.add_folder(Path::new("/run/containerd")).unwrap();
        grants.add_http("docker", "unix:///var/run/docker.sock", None).unwrap();
        grants.add_http("hook", "http://[::1]:8080/", Some(vec!["POST".into()])).unwrap();
        assert_eq!(
            grants.to_string(),
            "container-registry, reading /run/containerd, http://docker/ at unix:///var/run/docker.sock (GET, HEAD), \
             http://hook/ at http://[::1]:8080 (POST)"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_remedy() {
        for folder in ["run/containerd", "/run/../etc", ""] {
            let error = Grants::default().add_folder(Path::new(folder)).unwrap_err().to_string();
            assert!(error.contains(&format!("'{folder}'")) && error.contains("absolute"), "{error}");
        }
        for (name, url, why) in [
            ("docker", "/var/run/docker.sock", "write unix:///path"),
            ("docker", "unix://run/docker.sock", "no absolute path"),
            ("docker", "https://example.org:443", "no TLS"),
            ("docker", "http://example.org", "with a port"),
            ("docker", "http://example.org:99999", "with a port"),
            ("docker", "http://:80", "with a port"),
            ("docker", "http://example.org:80/path", "with a port"),
            ("docker", "http://user@example.org:80", "with a port"),
            ("Docker", "http://localhost:80", "lower-case"),
            ("a/b", "http://localhost:80", "lower-case"),
        ] {
            let error = Grants::default().add_http(name, url, None).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
        let long = format!("unix:///{}", "a".repeat(200));
        assert!(Grants::default().add_http("a", &long, None).unwrap_err().to_string().contains("107"));
        let error = Grants::default().add_http("a", "http://h:1", Some(vec!["get".into()])).unwrap_err();
        assert!(error.to_string().contains("'get'"), "{error}");
    }
}
