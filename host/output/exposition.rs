//! Serves metrics by HTTP, in Prometheus' text format, to whoever asks for them. It knows the format and the wire, not what is
//! measured. Whoever connects can waste no more than a place among a few.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{sleep, timeout};
use wasmtime_wasi_http::io::TokioIo;

/// Where metrics are.
const PATH: &str = "/metrics";

/// Connections at once. One more ends the oldest: a server that asks is done within milliseconds, who holds a place is not.
const MAX_CONNECTIONS: usize = 32;

/// How long a connection may last, the request's arrival and the answer's departure included.
const CONNECTION_TIME: Duration = Duration::from_secs(10);

/// The largest head of a request.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// The pause after an error of accepting, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Metrics of one name.
#[derive(Debug)]
pub struct Family {
    /// Without the suffixes `_total` of counters and `_bucket` of histograms.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Values by their labels, all of the same sort.
    pub samples: Vec<Sample>,
}

/// A label's name and value.
pub type Label = (Cow<'static, str>, Cow<'static, str>);

/// A value, and of what.
#[derive(Debug)]
pub struct Sample {
    /// No name twice.
    pub labels: Vec<Label>,
    /// Its value.
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Grows only.
    Counter(u64),
    /// The same in fractions, such as seconds.
    Sum(f64),
    /// Grows and shrinks.
    Gauge(f64),
    /// How many observations there were up to each bound and above the one before; the last bound is infinite.
    Histogram {
        /// Of all that was observed.
        sum: f64,
        /// Upper bounds, and how many.
        buckets: Vec<(f64, u64)>,
    },
}

/// Who asks for all metrics there are.
pub type Scrape = oneshot::Sender<Vec<Family>>;

/// A socket that was opened before the host gave up its power.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Opens it.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let socket = TcpListener::bind(address).with_context(|| {
            format!(
                "cannot serve metrics on {address}: another program may have that port, or this machine does not have \
                 that address; choose another with --metrics"
            )
        })?;
        socket.set_nonblocking(true)?;
        Ok(Listener(socket))
    }

    /// Serves metrics, each time as they are then, until the run time ends.
    pub fn serve(self, scrapes: mpsc::Sender<Scrape>) -> Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.0)?;
        // One answer is made at a time, however many ask.
        let scrapes = Arc::new(Mutex::new(scrapes));
        tokio::spawn(async move {
            let mut connections: VecDeque<AbortHandle> = VecDeque::new();
            loop {
                let socket = match listener.accept().await {
                    Ok((socket, _)) => socket,
                    Err(error) => {
                        log::debug!("a connection for metrics could not be accepted: {error}");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                connections.retain(|connection| !connection.is_finished());
                if connections.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = connections.pop_front()
                {
                    oldest.abort();
                }
                connections.push_back(tokio::spawn(serve_one(socket, scrapes.clone())).abort_handle());
            }
        });
        Ok(())
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.local_addr() {
            Ok(address) => write!(f, "http://{address}{PATH}"),
            Err(error) => write!(f, "an address that cannot be told: {error}"),
        }
    }
}

async fn serve_one(socket: TcpStream, scrapes: Arc<Mutex<mpsc::Sender<Scrape>>>) {
    let service = service_fn(|request| answer(request, &scrapes));
    let mut server = http1::Builder::new();
    // A connection for each request: nobody keeps a place for the next.
    server.keep_alive(false).max_buf_size(MAX_HEAD_BYTES);
    // Whoever hangs up or sends garbage is no news.
    _ = timeout(CONNECTION_TIME, server.serve_connection(TokioIo::new(socket), service)).await;
}

async fn answer(
    request: Request<Incoming>,
    scrapes: &Mutex<mpsc::Sender<Scrape>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, PATH) => match scrape(scrapes).await {
            Some(text) => (StatusCode::OK, text),
            None => (StatusCode::SERVICE_UNAVAILABLE, "the host stops\n".to_owned()),
        },
        (_, PATH) => (StatusCode::METHOD_NOT_ALLOWED, "metrics can only be got\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, format!("metrics are at {PATH}\n")),
    };
    let kind = if status == StatusCode::OK { prometheus_text::CONTENT_TYPE } else { "text/plain; charset=utf-8" };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}

async fn scrape(scrapes: &Mutex<mpsc::Sender<Scrape>>) -> Option<String> {
    let scrapes = scrapes.lock().await;
    let (reply, families) = oneshot::channel();
    scrapes.send(reply).await.ok()?;
    let families = families.await.ok()?;
    // Of a thousand plugins it takes so long that plugins would wait for this thread.
    spawn_blocking(|| text(families)).await.ok()?.ok()
}

/// All families as text.
pub fn text(families: Vec<Family>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let Some(first) = family.samples.first() else { continue };
            let sort = match first.value {
                Value::Counter(_) | Value::Sum(_) => MetricType::Counter,
                Value::Gauge(_) => MetricType::Gauge,
                Value::Histogram { .. } => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, sort)?;
            for Sample { labels, value } in &family.samples {
                let mut metric = metric.encode_family(labels)?;
                match value {
                    Value::Counter(count) => metric.encode_counter::<NoLabelSet, _, u64>(count, None)?,
                    Value::Sum(sum) => metric.encode_counter::<NoLabelSet, _, u64>(sum, None)?,
                    Value::Gauge(value) => metric.encode_gauge(value)?,
                    Value::Histogram { sum, buckets } => {
                        let count = buckets.iter().map(|(_, count)| count).sum();
                        metric.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_with_their_sort_and_labels_cannot_forge_lines() {
        let label = |value: &'static str| vec![("plugin".into(), value.into())];
        let family = |name, value| Family { name, help: "Help.", samples: vec![Sample { labels: label("a"), value }] };
        let mut forged = family("calls", Value::Counter(7));
        forged.samples.push(Sample { labels: label("b\"} 1\nc\\"), value: Value::Counter(8) });
        let buckets = vec![(0.5, 2), (f64::INFINITY, 1)];
        let families = vec![
            forged,
            family("seconds", Value::Sum(1.5)),
            family("waiting", Value::Gauge(3.0)),
            family("time", Value::Histogram { sum: 4.25, buckets }),
            Family { name: "nothing", help: "Help.", samples: vec![] },
        ];
        let expected = "# HELP calls_total Help.\n# TYPE calls_total counter\ncalls_total{plugin=\"a\"} 7\n\
            calls_total{plugin=\"b\\\"} 1\\nc\\\\\"} 8\n\
            # HELP seconds_total Help.\n# TYPE seconds_total counter\nseconds_total{plugin=\"a\"} 1.5\n\
            # HELP waiting Help.\n# TYPE waiting gauge\nwaiting{plugin=\"a\"} 3.0\n\
            # HELP time Help.\n# TYPE time histogram\n\
            time_bucket{plugin=\"a\",le=\"0.5\"} 2\ntime_bucket{plugin=\"a\",le=\"+Inf\"} 3\n\
            time_sum{plugin=\"a\"} 4.25\ntime_count{plugin=\"a\"} 3\n";
        assert_eq!(text(families).unwrap(), expected);
    }
}
