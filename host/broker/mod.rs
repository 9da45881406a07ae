//! The connection between the host, which runs plugins and may do next to nothing, and the broker: the process that keeps the
//! power and does for the host what needs it. Questions and answers, each with bytes and open files; what they mean is for
//! those who ask and those who answer.

mod frame;

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use frame::Frame;

/// What is said when nobody answers.
pub const GONE: &str =
    "the host's other process, which keeps its power, does not answer; what it said last is in the log";

/// What helps when a process may open no more files.
pub const MORE_FILES: &str = "raise the limit of open files (ulimit -n, or LimitNOFILE= of a service)";

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Errand {
    /// Loading, attaching and controlling BPF programs.
    Sources,
    /// Telling these programs of cgroups.
    Cgroups,
    /// Looking at processes.
    Processes,
    /// Compiling a plugin.
    Compile,
    /// Connecting to a server that a plugin was granted.
    Connect,
}

/// Whom to ask.
pub struct Caller(Mutex<UnixStream>);

impl Caller {
    /// One that asks whoever serves the other end.
    pub fn new(stream: UnixStream) -> Self {
        Caller(Mutex::new(stream))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Nobody is there to answer, or the answer is not what was asked for.
    pub fn ask<A: DeserializeOwned>(&self, question: &impl Serialize, bytes: &[u8]) -> Result<(A, Frame)> {
        let stream = self.0.lock().expect("no thread panics while it holds this");
        frame::send(&stream, question, bytes, &[]).context(GONE)?;
        let answer = match frame::receive(&stream) {
            Err(error) if has_no_descriptors(&error) => bail!("the answer cannot be taken: {error}; {MORE_FILES}"),
            answer => answer.context(GONE)?.context(GONE)?,
        };
        Ok((answer.value().context("the host's two processes do not understand each other")?, answer))
    }
}

/// What is answered.
pub struct Answer {
    /// The answer itself.
    pub value: serde_json::Value,
    /// Bytes that go with it.
    pub bytes: Vec<u8>,
    /// Open files that go with it.
    pub files: Vec<OwnedFd>,
}

impl Answer {
    /// A value alone.
    pub fn of(value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).expect("answers are values of JSON");
        Answer { value, bytes: Vec::new(), files: Vec::new() }
    }
}

/// Answers questions until nobody is left who asks.
pub fn serve<Q: DeserializeOwned>(stream: &UnixStream, mut answer: impl FnMut(Q, Vec<u8>) -> Answer) {
    while let Ok(Some(frame)) = frame::receive(stream) {
        let Ok(question) = frame.value() else {
            return log::error!("a question that makes no sense has come, and ends its connection");
        };
        let Answer { value, bytes, files } = answer(question, frame.bytes);
        let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        if frame::send(stream, &value, &bytes, &files).is_err() {
            return;
        }
    }
}

/// The broker, as the host sees it. It ends with the host, however that ends.
#[derive(Clone)]
pub struct Broker(Arc<Process>);

struct Process {
    control: UnixStream,
    /// Who sends: one after the other.
    turn: Mutex<()>,
    child: Mutex<Child>,
}

impl Broker {
    /// Starts it: this very program once more, with a subcommand. Tells it what it has to know, and waits for what it has to
    /// say of itself.
    pub fn start<A: DeserializeOwned>(subcommand: &str, introduction: &impl Serialize) -> Result<(Self, A)> {
        let (control, its) = UnixStream::pair().context("cannot make a pair of sockets")?;
        let child = Command::new("/proc/self/exe")
            .arg0(std::env::args_os().next().unwrap_or_default())
            .arg(subcommand)
            .stdin(OwnedFd::from(its))
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the process that keeps the host's power, /proc/self/exe")?;
        frame::send(&control, introduction, &[], &[]).context(GONE)?;
        let said = frame::receive(&control).context(GONE)?;
        let Some(said) = said else { bail!(GONE) };
        let said = said.value().context(GONE)?;
        Ok((Broker(Arc::new(Process { control, turn: Mutex::default(), child: Mutex::new(child) })), said))
    }

    /// A connection for an errand.
    pub fn open(&self, errand: Errand) -> Result<Caller> {
        let (own, its) = UnixStream::pair().context("cannot make a pair of sockets")?;
        let _turn = self.0.turn.lock().expect("no thread panics while it holds this");
        frame::send(&self.0.control, &errand, &[], &[its.as_fd()]).context(GONE)?;
        Ok(Caller::new(own))
    }

    /// Ends it, and with it all that it holds for the host.
    pub fn stop(&self) {
        _ = self.0.control.shutdown(std::net::Shutdown::Both);
        _ = self.0.child.lock().expect("no thread panics while it holds this").wait();
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.0.child.lock().expect("no thread panics while it holds this").id()
    }

    /// Waits until it has ended.
    pub fn wait(&self) {
        while let Ok(1..) = (&self.0.control).read(&mut [0]) {}
    }
}

/// What the broker is told first.
pub fn introduction<T: DeserializeOwned>(control: &UnixStream) -> Result<T> {
    let told = frame::receive(control).context("standard input is no connection to a host, which alone starts this")?;
    told.context("the host has ended")?.value().context("the host's two processes do not understand each other")
}

/// What the broker does: says something of itself, then serves each errand on a thread of its own, until the host has ended.
pub fn attend(
    control: &UnixStream,
    about: &impl Serialize,
    serve: impl Fn(Errand, &UnixStream) + Clone + Send + 'static,
) -> Result<()> {
    frame::send(control, about, &[], &[]).context("the host has ended")?;
    loop {
        let mut frame = match frame::receive(control) {
            Ok(Some(frame)) => frame,
            Err(error) if has_no_descriptors(&error) => {
                log::error!("a question cannot be taken: {error}; {MORE_FILES}");
                continue;
            }
            Ok(None) | Err(_) => return Ok(()),
        };
        let errand: Errand = frame.value().context("the host asks for something that is not known")?;
        let stream = frame.files.pop().map(UnixStream::from);
        ensure!(frame.files.is_empty(), "the host sent more than one connection");
        let (stream, serve) = (stream.context("the host sent no connection")?, serve.clone());
        thread::Builder::new()
            .name(format!("{errand:?}").to_lowercase())
            .spawn(move || serve(errand, &stream))
            .context("cannot start a thread")?;
    }
}

fn has_no_descriptors(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::MFILE.raw_os_error())
}
