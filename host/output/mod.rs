//! What leaves the host: lines on standard output, alerts among them, the log on standard error, and metrics. Bounded, and never
//! torn. It knows formats and writers, not who raised what and why.

mod alert;
mod exposition;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

pub use exposition::{Family, Label, Listener, Sample, Scrape, Value};

use crate::wit::alerts::RaisedAlert;
use crate::wit::containers::Container;

/// Pieces of output (of up to 64 KiB) that may wait for standard output's reader. Then plugins wait in turn.
const MAX_PIECES: usize = 64;

/// How alerts are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertFormat {
    /// Coloured lines on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Lines for people, coloured on a terminal.
    Human,
    /// A JSON object a line.
    Json,
    /// Not at all; plugins that handle alerts still get them.
    Off,
}

/// The way to standard output and to the log. Cheap to clone.
#[derive(Clone)]
pub struct Output {
    pieces: mpsc::Sender<Vec<u8>>,
    alerts: AlertFormat,
    colours: bool,
    waiting: Arc<AtomicBool>,
}

/// The thread that writes standard output.
pub struct Writer {
    thread: std::thread::JoinHandle<()>,
    closed: watch::Receiver<bool>,
}

/// Starts the thread that writes standard output.
pub fn start(alerts: AlertFormat) -> io::Result<(Output, Writer)> {
    start_on(Box::new(io::stdout()), io::stdout().is_terminal(), alerts)
}

/// The same, with something else in the place of standard output.
pub fn start_on(stdout: Box<dyn Write + Send>, terminal: bool, alerts: AlertFormat) -> io::Result<(Output, Writer)> {
    let alerts = match alerts {
        AlertFormat::Auto if terminal => AlertFormat::Human,
        AlertFormat::Auto => AlertFormat::Json,
        format => format,
    };
    let (pieces, receiver) = mpsc::channel(MAX_PIECES);
    let (say_closed, closed) = watch::channel(false);
    let thread =
        std::thread::Builder::new().name("output".into()).spawn(move || write_all(stdout, receiver, &say_closed))?;
    let colours = terminal && std::env::var_os("NO_COLOR").is_none();
    Ok((Output { pieces, alerts, colours, waiting: Arc::default() }, Writer { thread, closed }))
}

fn write_all(mut stdout: Box<dyn Write + Send>, mut pieces: mpsc::Receiver<Vec<u8>>, closed: &watch::Sender<bool>) {
    let mut failed = false;
    while let Some(piece) = pieces.blocking_recv() {
        match stdout.write_all(&piece).and_then(|()| stdout.flush()) {
            Ok(()) => failed = false,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                _ = closed.send(true);
                // The rest is read and dropped, so that nobody waits for a reader who has gone.
                while pieces.blocking_recv().is_some() {}
            }
            Err(error) if !failed => {
                log::error!("cannot write to standard output: {error}. Lines are lost until that is mended");
                failed = true;
            }
            Err(_) => {}
        }
    }
}

impl Writer {
    /// Waits until standard output's reader has gone.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        if closed.wait_for(|closed| *closed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until everything is written. For when every `Output` is gone.
    pub fn finish(self) {
        _ = self.thread.join();
    }
}

impl Output {
    /// One for a plugin of its own, which knows when that plugin is waiting.
    #[must_use]
    pub fn for_plugin(&self) -> Output {
        Output { waiting: Arc::default(), ..self.clone() }
    }

    /// Whether somebody waits because standard output takes nothing.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Prints whole lines, or gives them back when that would mean waiting.
    pub fn try_print(&self, lines: Vec<u8>) -> Result<(), Vec<u8>> {
        self.pieces.try_send(lines).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Prints whole lines. Waits while standard output takes nothing.
    pub async fn print(&self, lines: Vec<u8>) {
        if let Err(lines) = self.try_print(lines) {
            self.waiting.store(true, Ordering::Relaxed);
            _ = self.pieces.send(lines).await;
            self.waiting.store(false, Ordering::Relaxed);
        }
    }

    /// Shows an alert, with the container that it is about.
    pub async fn alert(&self, alert: &RaisedAlert, container: Option<&Container>) {
        let line = match self.alerts {
            AlertFormat::Off => return,
            AlertFormat::Json => alert::json(alert, container),
            AlertFormat::Human | AlertFormat::Auto => alert::human(alert, container, self.colours),
        };
        self.print(line.into_bytes()).await;
    }

    /// Writes a plugin's line to the log. Control characters are shown, not obeyed.
    pub fn log(&self, plugin: &str, line: &str) {
        let shown = alert::plain(line);
        log::info!("[{plugin}] {shown}");
    }
}

/// Sends the host's log to standard error, from `level` up unless the environment's RUST_LOG says otherwise.
pub fn start_log(level: log::LevelFilter) {
    env_logger::Builder::new()
        .filter_level(level)
        .parse_default_env()
        .format(|out, record| writeln!(out, "{}: {}", record.level().as_str().to_lowercase(), record.args()))
        .init();
}

/// Writes a line to standard error, if there is still somebody there.
pub fn say(line: &str) {
    _ = writeln!(io::stderr(), "{line}");
}
