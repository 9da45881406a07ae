//! The host with container-map and a plugin that prints, as it sees containers of a test's engines.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Folder, Host, plugin};

/// Which engines container-map may ask: sockets and state folders of a test's own.
#[derive(Default)]
pub struct Granted {
    pub docker: Option<String>,
    pub podman: Option<String>,
    pub containerd: Vec<String>,
    pub runc: Vec<String>,
    pub storage: Vec<String>,
}

impl Granted {
    fn settings(&self) -> String {
        let http = |name: &str, socket: &Option<String>| match socket {
            Some(socket) => format!("{name} = 'unix://{socket}'\n"),
            None => String::new(),
        };
        let Granted { containerd, runc, storage, .. } = self;
        let folders: Vec<&String> = containerd.iter().chain(runc).chain(storage).collect();
        let named =
            |name: &str, socket: &Option<String>| if socket.is_some() { format!("'{name}'") } else { String::new() };
        format!(
            "order = -100\n[grants]\ncontainer-registry = true\nfolders = {folders:?}\n[grants.http]\n\
             nobody = 'unix:///does/not/exist'\n{}{}[limits]\n\
             memory_bytes = 67108864\n[config]\ncontainerd = {containerd:?}\nrunc = {runc:?}\ncrio = []\nstorage = {storage:?}\ndocker = [{}]\n\
             podman = [{}]\n",
            http("docker", &self.docker),
            http("podman", &self.podman),
            named("docker", &self.docker),
            named("podman", &self.podman),
        )
    }
}

/// The running host.
pub struct Mapped {
    pub host: Host,
    /// All that was printed so far.
    pub printed: Vec<Value>,
    _folder: Folder,
}

impl Mapped {
    /// With json-log, which prints what names a container.
    pub fn start(name: &str, granted: &Granted, args: &[&str]) -> Self {
        Self::printing(name, granted, plugin("json-log"), args)
    }

    /// With a plugin that prints all that is known of a container.
    pub fn start_with_all(name: &str, granted: &Granted) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures/container-log.wasm");
        assert!(path.exists(), "{} is missing: run `make fixtures` first", path.display());
        Self::printing(name, granted, path, &[])
    }

    fn printing(name: &str, granted: &Granted, printer: PathBuf, args: &[&str]) -> Self {
        let folder = Folder::new(name);
        let place = |from: &Path, settings: &str| {
            let wasm = folder.0.join(from.file_name().unwrap());
            fs::copy(from, &wasm).unwrap();
            fs::write(wasm.with_extension("toml"), settings).unwrap();
            wasm.to_str().unwrap().to_owned()
        };
        let map = place(&plugin("container-map"), &granted.settings());
        let log = place(&printer, "order = 10\nevents = ['exec']\n");
        let args = ["--plugin", &map, "--plugin", &log].into_iter().chain(args.iter().copied());
        let host = Host::start(&args.collect::<Vec<_>>());
        Mapped { host, printed: vec![], _folder: folder }
    }

    /// Waits for a program that runs with this word among its arguments and for which the test holds; how long it took.
    pub fn expect(&mut self, word: &str, mut test: impl FnMut(&Value) -> bool) -> (Value, Duration) {
        let Mapped { host, printed, .. } = self;
        let start = Instant::now();
        let (found, _) = host.expect(word, |event| {
            printed.push(event.clone());
            has_word(event, word) && test(event)
        });
        (found, start.elapsed())
    }

    /// Waits for a line of the log that contains the text, unless it has come already.
    pub fn said(&mut self, text: &str) {
        self.host.said(text);
    }

    /// The host's log so far.
    pub fn log(&mut self) -> Vec<String> {
        let Host { log, stderr, .. } = &mut self.host;
        log.extend(stderr.try_iter());
        log.clone()
    }

    /// Stops the host; all that was printed, and what became of the events.
    pub fn stop(self) -> (Vec<Value>, Value) {
        let Mapped { host, mut printed, .. } = self;
        let (rest, summary) = host.stop();
        printed.extend(rest);
        (printed, summary)
    }
}

/// Whether this is a program of a container, run with this word among its arguments. Engines' own programs, which have the
/// containers' commands among theirs, are others than busybox.
pub fn has_word(event: &Value, word: &str) -> bool {
    let args = event["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
    event["kind"] == "exec"
        && event["exe"].as_str().is_some_and(|exe| exe.ends_with("/busybox"))
        && args.flat_map(|arg| arg.split([' ', ';'])).any(|other| other == word)
}

/// The programs that ran with this word among their arguments.
pub fn with_word<'a>(printed: &'a [Value], word: &str) -> Vec<&'a Value> {
    printed.iter().filter(|event| has_word(event, word)).collect()
}
