//! Calls of plugins to the HTTP servers that the operator named, and to nobody else: bounded in time, size and number.

mod proxy;

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Request, Response, Uri};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

pub use self::proxy::{Proxy, connect as connect_for};
use super::grants::{Address, Grants, Upstream};

/// How long a server may take for each of: to accept, to begin its answer, to go on with it. Where a plugin asks for another
/// time it gets that, up to `CALL_TIME`. Shorter than what a plugin's own call may last, so that a plugin that waits for
/// a server that hangs gets an error, and not the blame.
const WAIT: Duration = Duration::from_millis(1_500);

/// How long a call may last in all. Whoever follows a stream of news asks again.
const CALL_TIME: Duration = Duration::from_secs(60);

/// The longest answer. That of an engine with a thousand containers has about 2 MiB.
const MAX_RESPONSE_BYTES: u64 = 8 << 20;

/// The longest request body: queries are short.
const MAX_REQUEST_BYTES: u64 = 256 << 10;

/// How much of a request a plugin hands over at once.
const REQUEST_CHUNK_BYTES: usize = 64 << 10;

/// The most that is read of an answer at once, its head included.
const BUFFER_BYTES: usize = 64 << 10;

/// Calls of one plugin that go on at the same time.
const CALLS_AT_ONCE: usize = 8;

/// Calls that one plugin may begin in a second, on average: a few for each container that starts.
const CALLS_PER_SECOND: u32 = 100;

/// A connection on its way.
pub type Connecting = Pin<Box<dyn Future<Output = std::io::Result<UnixStream>> + Send>>;

/// Connects to a Unix socket for a plugin, which was granted it under a name.
pub type Connect = Arc<dyn Fn(Arc<str>, String, PathBuf) -> Connecting + Send + Sync>;

/// One plugin's calls, over all its instances.
#[derive(Clone)]
pub(super) struct Http(Arc<Shared>);

struct Shared {
    plugin: Arc<str>,
    connect: Connect,
    upstreams: BTreeMap<String, Upstream>,
    places: Arc<Semaphore>,
    allowance: Mutex<Allowance>,
    denied: AtomicBool,
}

/// Calls that may be begun, more of them as time passes.
struct Allowance {
    calls: f64,
    since: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let most = f64::from(CALLS_PER_SECOND);
        let more = now.duration_since(self.since).as_secs_f64() * most;
        (self.calls, self.since) = ((self.calls + more).min(most), now);
        let is_there = self.calls >= 1.0;
        self.calls -= if is_there { 1.0 } else { 0.0 };
        is_there
    }
}

impl Http {
    pub fn new(plugin: Arc<str>, grants: &Grants, connect: Connect) -> Self {
        let allowance = Mutex::new(Allowance { calls: f64::from(CALLS_PER_SECOND), since: Instant::now() });
        let (upstreams, places) = (grants.http.clone(), Arc::new(Semaphore::new(CALLS_AT_ONCE)));
        Http(Arc::new(Shared { plugin, connect, upstreams, places, allowance, denied: AtomicBool::new(false) }))
    }

    /// The server meant, if it may be called so, and a place among the calls that go on.
    fn admit<B>(&self, request: &Request<B>) -> Result<(Upstream, OwnedSemaphorePermit), Error> {
        let shared = &*self.0;
        let name = request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
        let upstream = shared.upstreams.get(name);
        let method = request.method().as_str();
        let Some(upstream) = upstream.filter(|upstream| upstream.methods.iter().any(|other| other == method)) else {
            if !shared.denied.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "plugin {}: {method} http://{}/ is not granted by [grants.http] of its settings, and was refused",
                    shared.plugin,
                    name.escape_debug()
                );
            }
            return Err(Error::HttpRequestDenied);
        };
        let place = shared.places.clone().try_acquire_owned().map_err(|_| Error::ConnectionLimitReached)?;
        match shared.allowance.lock().expect("no thread panics while it holds this").take(Instant::now()) {
            true => Ok((upstream.clone(), place)),
            false => Err(Error::ConnectionLimitReached),
        }
    }
}

type Worker = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = Result<(Response<WasiBody>, Worker), Error>;

impl WasiHttpHooks for Http {
    fn is_supported_scheme(&mut self, scheme: &Scheme) -> bool {
        *scheme == Scheme::HTTP
    }

    fn default_scheme(&mut self) -> Option<Scheme> {
        Some(Scheme::HTTP)
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        REQUEST_CHUNK_BYTES
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Worker,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        let admitted = self.admit(&request);
        let shared = self.0.clone();
        Box::new(async move {
            let (upstream, place) = admitted?;
            let (end, options) = (Instant::now() + CALL_TIME, options.unwrap_or_default());
            let call = call(request, &shared, &upstream, &options, end, place);
            tokio::time::timeout_at(end, call).await.unwrap_or(Err(Error::HttpResponseTimeout))
        })
    }
}

/// What a connection runs over.
trait Stream: hyper::rt::Read + hyper::rt::Write + Send + Unpin {}
impl<T: hyper::rt::Read + hyper::rt::Write + Send + Unpin> Stream for T {}

async fn connect(shared: &Shared, name: &str, address: &Address) -> std::io::Result<Box<dyn Stream>> {
    Ok(match address {
        Address::Tcp(authority) => Box::new(TokioIo::new(TcpStream::connect(authority).await?)),
        Address::Unix(path) => {
            let connecting = (shared.connect)(shared.plugin.clone(), name.to_owned(), path.clone());
            Box::new(TokioIo::new(connecting.await?))
        }
    })
}

async fn call(
    mut request: Request<WasiBody>,
    shared: &Shared,
    upstream: &Upstream,
    options: &RequestOptions,
    end: Instant,
    place: OwnedSemaphorePermit,
) -> Answer {
    let wait = |asked: Option<Duration>| asked.unwrap_or(WAIT).min(CALL_TIME);
    let name = request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
    let stream = timeout(wait(options.connect_timeout), connect(shared, name, &upstream.address)).await;
    let stream = stream.map_err(|_| Error::ConnectionTimeout)?.map_err(Error::Connect)?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER_BYTES);
    let (mut sender, connection) = builder.handshake(stream).await?;

    // The name is the operator's; the server knows itself by its own. Only proxies are told more than the path.
    if let Address::Tcp(authority) = &upstream.address {
        let host = HeaderValue::from_str(authority).map_err(|_| Error::HttpRequestUriInvalid)?;
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    let request = request.map(|body| Bounded::request(body).boxed_unsync());

    let mut connection = Some(connection);
    let mut response = pin!(timeout(wait(options.first_byte_timeout), sender.send_request(request)));
    // The connection is driven here until the answer begins, and by the worker from then on.
    let response = poll_fn(|cx| {
        if let Poll::Ready(response) = response.as_mut().poll(cx) {
            return Poll::Ready(response);
        }
        if let Some(driven) = &mut connection
            && let Poll::Ready(ended) = Pin::new(driven).poll(cx)
        {
            connection = None;
            return match ended {
                Ok(()) => response.as_mut().poll(cx),
                Err(error) => Poll::Ready(Ok(Err(error))),
            };
        }
        Poll::Pending
    })
    .await
    .map_err(|_| Error::ConnectionReadTimeout)??;
    let between = wait(options.between_bytes_timeout);
    let response = response.map(|body| Bounded::response(body, between, end, place).boxed_unsync());
    let worker = async move {
        match connection {
            Some(connection) => connection.await.map_err(Error::from),
            None => Ok(()),
        }
    };
    Ok((response, Box::new(worker)))
}

/// A body with no more bytes than are allowed, that comes without long pauses.
struct Bounded<B> {
    body: B,
    left: u64,
    pace: Option<Pace>,
}

/// How an answer has to come.
struct Pace {
    between: Duration,
    end: Instant,
    next: Pin<Box<Sleep>>,
    /// Held until the answer has been read or dropped.
    _place: OwnedSemaphorePermit,
}

impl Bounded<WasiBody> {
    fn request(body: WasiBody) -> Self {
        Bounded { body, left: MAX_REQUEST_BYTES, pace: None }
    }
}

impl Bounded<Incoming> {
    fn response(body: Incoming, between: Duration, end: Instant, place: OwnedSemaphorePermit) -> Self {
        let next = Box::pin(sleep_until((Instant::now() + between).min(end)));
        Bounded { body, left: MAX_RESPONSE_BYTES, pace: Some(Pace { between, end, next, _place: place }) }
    }
}

impl<B: Body<Data = Bytes, Error: Into<Error>> + Unpin> Body for Bounded<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            let late = this.pace.as_mut().is_some_and(|pace| pace.next.as_mut().poll(cx).is_ready());
            return if late { Poll::Ready(Some(Err(Error::ConnectionReadTimeout))) } else { Poll::Pending };
        };
        let now = Instant::now();
        if let Some(pace) = &mut this.pace {
            if now >= pace.end {
                return Poll::Ready(Some(Err(Error::HttpResponseTimeout)));
            }
            pace.next.as_mut().reset((now + pace.between).min(pace.end));
        }
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len) as u64,
            _ => 0,
        };
        match this.left.checked_sub(bytes) {
            Some(left) => this.left = left,
            None if this.pace.is_some() => {
                return Poll::Ready(Some(Err(Error::HttpResponseBodySize(Some(MAX_RESPONSE_BYTES)))));
            }
            None => return Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(MAX_REQUEST_BYTES))))),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
