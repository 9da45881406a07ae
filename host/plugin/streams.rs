//! A plugin's standard output and standard error: whole lines, bounded, to the host's output.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::allowance::{Allowance, refuse};
use super::limits::Limits;
use crate::output::Output;

/// How much a plugin may write before it must wait; also the longest line, beyond which it is broken up.
const PENDING_BYTES: usize = 64 << 10;

/// Standard output: lines go to the host's standard output, never torn.
#[derive(Clone)]
pub(super) struct PrintStream {
    output: Output,
    pending: Arc<Mutex<Vec<u8>>>,
}

impl PrintStream {
    pub fn new(output: Output) -> Self {
        PrintStream { output, pending: Arc::default() }
    }

    /// Ends a last line that has no line end.
    pub async fn finish(&self) {
        let mut rest = std::mem::take(&mut *self.pending.lock().expect("no thread panics while it holds this"));
        if !rest.is_empty() {
            rest.push(b'\n');
            self.output.print(rest).await;
        }
    }
}

impl IsTerminal for PrintStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for PrintStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Printer { output: self.output.clone(), pending: self.pending.clone() })
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink()) // Only later versions of WASI ask for it, which are not linked.
    }
}

struct Printer {
    output: Output,
    pending: Arc<Mutex<Vec<u8>>>,
}

impl Printer {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.pending.lock().expect("no thread panics while it holds this")
    }
}

/// Splits off whole lines; of a line that is too long, what there is.
fn take_lines(pending: &mut Vec<u8>) -> Vec<u8> {
    match pending.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => {
            let rest = pending.split_off(end + 1);
            std::mem::replace(pending, rest)
        }
        None if pending.len() >= PENDING_BYTES => {
            let mut line = std::mem::take(pending);
            line.push(b'\n');
            line
        }
        None => Vec::new(),
    }
}

impl OutputStream for Printer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut pending = self.lock();
        pending.extend_from_slice(&bytes);
        let lines = take_lines(&mut pending);
        if !lines.is_empty()
            && let Err(lines) = self.output.try_print(lines)
        {
            let rest = std::mem::replace(&mut *pending, lines);
            pending.extend_from_slice(&rest);
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let pending = self.lock();
        let waiting = pending.contains(&b'\n');
        Ok(if waiting { 0 } else { PENDING_BYTES - pending.len().min(PENDING_BYTES - 1) })
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Printer {
    async fn ready(&mut self) {
        let lines = {
            let mut pending = self.lock();
            if pending.contains(&b'\n') { take_lines(&mut pending) } else { return }
        };
        self.output.print(lines).await;
    }
}

/// Standard error: lines go to the host's log under the plugin's name, as many as its allowance lets through.
#[derive(Clone)]
pub(super) struct LogStream {
    plugin: Arc<str>,
    output: Output,
    log: Arc<Mutex<Log>>,
    lines_per_second: u64,
    lost: Arc<AtomicU64>,
}

struct Log {
    pending: Vec<u8>,
    lines: Allowance,
    bytes: Allowance,
}

impl LogStream {
    pub fn new(plugin: Arc<str>, output: Output, limits: &Limits, lost: Arc<AtomicU64>) -> Self {
        let (lines, bytes) = (Allowance::new(limits.log_lines_per_second), Allowance::new(limits.log_bytes_per_second));
        let log = Arc::new(Mutex::new(Log { pending: Vec::new(), lines, bytes }));
        LogStream { plugin, output, log, lines_per_second: limits.log_lines_per_second, lost }
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink()) // As above.
    }
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut log = self.log.lock().expect("no thread panics while it holds this");
        log.pending.extend_from_slice(&bytes);
        let lines = take_lines(&mut log.pending);
        for line in String::from_utf8_lossy(&lines).lines() {
            if log.lines.take(1) && log.bytes.take(line.len() as u64) {
                self.output.log(&self.plugin, line);
            } else {
                let most = self.lines_per_second;
                let what = format!("log lines beyond log_bytes_per_second, or more log lines than {most} in a second");
                refuse(&self.lost, &self.plugin, &what, "log_lines_per_second");
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PENDING_BYTES)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}
