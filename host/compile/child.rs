//! The process that compiles one plugin: what it does, and how the host starts it and waits for it.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::Signal;

use super::{MAX_CODE_BYTES, MAX_PLUGIN_BYTES};
use crate::confine::{self, COMPILE_THREADS, CompileLimits};

/// The host's subcommand that compiles.
const SUBCOMMAND: &str = "compile";

/// How long compiling one plugin may take in all, for each second of its processor time: a busy machine gives it little.
const COMPILE_TIME_PER_CPU: u32 = 4;

/// How much of what the process says is kept; the rest is read and dropped.
const MAX_SAID_BYTES: u64 = 4 << 10;

/// The exit code of a host that ends with an error: here, that the plugin cannot be compiled.
const REFUSED: i32 = 1;

/// What Rust's run time says when an allocation fails.
const NO_MEMORY: &str = "memory allocation of";

/// What the process does: gives up power, reads a plugin from standard input, and writes its machine code to standard output.
pub fn answer(limits: CompileLimits, compile: impl FnOnce(&[u8]) -> Result<Vec<u8>>) -> Result<()> {
    confine::compiler(limits).context("this process cannot give up its power, so it compiles nothing")?;
    let mut plugin = Vec::new();
    io::stdin().lock().take(MAX_PLUGIN_BYTES as u64 + 1).read_to_end(&mut plugin)?;
    if plugin.len() > MAX_PLUGIN_BYTES {
        bail!("the plugin is larger than {} MiB", MAX_PLUGIN_BYTES >> 20);
    }
    let code = compile(&plugin)?;
    Ok(io::stdout().lock().write_all(&code)?)
}

/// Has a plugin compiled by `program`.
pub(super) fn compile(program: &Path, plugin: &[u8], limits: CompileLimits) -> Result<Vec<u8>> {
    let CompileLimits { memory_bytes, cpu_seconds } = limits;
    let longest = Duration::from_secs(cpu_seconds).saturating_mul(COMPILE_TIME_PER_CPU);
    let mut child = Command::new(program)
        .args([SUBCOMMAND, &memory_bytes.to_string(), &cpu_seconds.to_string()])
        // What it needs to know is here; the host's environment is none of its business.
        .env_clear()
        .env("RAYON_NUM_THREADS", COMPILE_THREADS.to_string())
        .env("MALLOC_ARENA_MAX", COMPILE_THREADS.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start the process that compiles plugins, {}", program.display()))?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        bail!("the process that compiles plugins has no pipes; this is a defect of the host")
    };
    thread::scope(|scope| {
        scope.spawn(move || {
            // A process that refuses a plugin may end before it has read all.
            _ = stdin.write_all(plugin);
        });
        let said = scope.spawn(move || read_said(stderr));
        let (send, received) = channel();
        scope.spawn(move || {
            let mut code = Vec::new();
            let read = stdout.take(MAX_CODE_BYTES as u64 + 1).read_to_end(&mut code);
            _ = send.send(read.map(|_| code));
        });
        let code = match received.recv_timeout(longest) {
            Ok(code) => code.context("cannot read what the process that compiles plugins writes"),
            Err(RecvTimeoutError::Timeout) => Err(anyhow!(
                "its compilation took more than {} s and was stopped; make it smaller, or load it when the machine is less busy",
                longest.as_secs()
            )),
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("the thread that reads machine code failed")),
        };
        let code = code.and_then(|code| match code.len() <= MAX_CODE_BYTES {
            true => Ok(code),
            false => Err(anyhow!("its machine code is larger than {} MiB; make it smaller", MAX_CODE_BYTES >> 20)),
        });
        if code.is_err() {
            end(&mut child)?;
        }
        let status = child.wait().context("cannot wait for the process that compiles plugins")?;
        let said = said.join().unwrap_or_default();
        let code = code?;
        match status.success() {
            true => Ok(code),
            false => Err(explain(status, &said, limits)),
        }
    })
}

fn end(child: &mut Child) -> Result<()> {
    match child.kill() {
        Err(error) if error.kind() != ErrorKind::InvalidInput => Err(error)
            .context("cannot end the process that compiles plugins (its user is another: that needs CAP_KILL)"),
        _ => Ok(()),
    }
}

fn read_said(mut stderr: impl Read) -> String {
    let mut said = Vec::new();
    _ = stderr.by_ref().take(MAX_SAID_BYTES).read_to_end(&mut said);
    _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&said).into_owned()
}

/// What the engine says of components that need asynchronous functions.
const ASYNC: &str = "component model async feature";

/// Why there is no machine code. What the process says can hold names of the plugin's choice.
fn explain(status: ExitStatus, said: &str, limits: CompileLimits) -> anyhow::Error {
    let line = said.trim().strip_prefix("error: ").unwrap_or(said.trim()).escape_debug().to_string();
    match status.signal() {
        _ if said.contains(NO_MEMORY) => anyhow!(
            "compiling it needs more than {} MiB, the most that it is given; make it smaller, or set limits.compile_memory_bytes",
            limits.memory_bytes >> 20
        ),
        Some(signal) if signal == Signal::XCPU.as_raw() || signal == Signal::KILL.as_raw() => anyhow!(
            "compiling it takes more than {} s of a processor, the most that it is given (or the machine ran out of \
             memory); make it smaller, or set limits.compile_seconds",
            limits.cpu_seconds
        ),
        Some(signal) => anyhow!("the process that compiles it ended by signal {signal}, and said: {line}"),
        None if status.code() == Some(REFUSED) && said.contains(ASYNC) => anyhow!("{line}").context(
            "it uses asynchronous functions of the component model, which this host does not run; build it for WASI 0.2 without \
             them (componentize-qjs, for one, has --sync for that)",
        ),
        None if status.code() == Some(REFUSED) => anyhow!("{line}")
            .context("it is damaged or uses something that this host does not run; build it again and copy it whole"),
        None => anyhow!("the process that compiles it failed ({status}), and said: {line}"),
    }
}
