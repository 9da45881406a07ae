//! Requests to the engines that the operator granted, by wasi:http. A request goes on between the calls of the plugin, so
//! that an engine that hangs keeps nobody waiting.

use std::time::{Duration, Instant};

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Fields, FutureIncomingResponse, IncomingBody, OutgoingRequest, Scheme};
use wasip2::io::poll::{Pollable, poll};
use wasip2::io::streams::{InputStream, StreamError};

/// The longest answer read: a list of some two thousand containers.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Read at once.
const CHUNK_BYTES: u64 = 64 << 10;

/// How long a request may take in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// The operator grants no upstream of this name.
    NotGranted,
    /// Too many requests are on their way already; the engine has no part in it.
    Busy,
    /// Nobody is there to answer, in words.
    Absent(String),
    /// Somebody is there and does not answer well, in words.
    Bad(String),
}

/// A request on its way.
pub struct Call {
    until: Instant,
    stage: Stage,
}

// The fields' order is that in which they are to be dropped: streams before what they belong to.
enum Stage {
    Waiting(FutureIncomingResponse),
    Reading { stream: InputStream, _body: IncomingBody, answer: Vec<u8> },
    Ended,
}

impl Call {
    /// Asks for `path` of the upstream of this name.
    pub fn get(upstream: &str, path: &str) -> Result<Self, Failure> {
        let request = OutgoingRequest::new(Fields::new());
        let made = request.set_scheme(Some(&Scheme::Http)).is_ok()
            && request.set_authority(Some(upstream)).is_ok()
            && request.set_path_with_query(Some(path)).is_ok();
        if !made {
            return Err(Failure::Bad(format!("http://{upstream}{path} is no address")));
        }
        // Without options of its own: the host has its time-outs, and the whole is bounded here. An option is a handle that the
        // host's library does not give back, and a plugin may hold so many.
        let response = outgoing_handler::handle(request, None).map_err(failure)?;
        Ok(Call { until: Instant::now() + PATIENCE, stage: Stage::Waiting(response) })
    }

    /// The answer, if it comes within this time. None: it may still come, ask again later.
    pub fn wait(&mut self, time: Duration) -> Option<Result<Vec<u8>, Failure>> {
        let until = Instant::now() + time;
        loop {
            if let Some(result) = self.advance() {
                self.stage = Stage::Ended;
                return Some(result);
            }
            let left = until.saturating_duration_since(Instant::now());
            if Instant::now() >= self.until {
                self.stage = Stage::Ended;
                return Some(Err(Failure::Bad(format!("it has not answered for {} s", PATIENCE.as_secs()))));
            }
            if left.is_zero() {
                return None;
            }
            let timer = subscribe_duration(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
            let news = self.subscribe()?;
            poll(&[&news, &timer]);
        }
    }

    fn subscribe(&self) -> Option<Pollable> {
        match &self.stage {
            Stage::Waiting(response) => Some(response.subscribe()),
            Stage::Reading { stream, .. } => Some(stream.subscribe()),
            Stage::Ended => None,
        }
    }

    /// Takes what has come. None when there is no more for now.
    fn advance(&mut self) -> Option<Result<Vec<u8>, Failure>> {
        loop {
            match &mut self.stage {
                Stage::Waiting(response) => {
                    let response = response.get()?.unwrap_or(Err(ErrorCode::ConnectionTerminated));
                    match response.map_err(failure).and_then(open) {
                        Ok(stage) => self.stage = stage,
                        Err(failure) => return Some(Err(failure)),
                    }
                }
                Stage::Reading { stream, answer, .. } => match stream.read(CHUNK_BYTES) {
                    Ok(bytes) if bytes.is_empty() => return None,
                    Ok(bytes) if answer.len() + bytes.len() > MAX_ANSWER_BYTES => {
                        let mebibytes = MAX_ANSWER_BYTES >> 20;
                        return Some(Err(Failure::Bad(format!("its answer is longer than {mebibytes} MiB"))));
                    }
                    Ok(bytes) => answer.extend_from_slice(&bytes),
                    Err(StreamError::Closed) => return Some(Ok(std::mem::take(answer))),
                    Err(StreamError::LastOperationFailed(_)) => {
                        return Some(Err(Failure::Bad("its answer was cut short".to_owned())));
                    }
                },
                Stage::Ended => return Some(Err(Failure::Bad("it was asked for an answer twice".to_owned()))),
            }
        }
    }
}

fn open(response: wasip2::http::types::IncomingResponse) -> Result<Stage, Failure> {
    let status = response.status();
    if status != 200 {
        return Err(Failure::Bad(format!("it answers with status {status}")));
    }
    let body = response.consume().map_err(|()| Failure::Bad("its answer has no body".to_owned()))?;
    let stream = body.stream().map_err(|()| Failure::Bad("its answer has no body".to_owned()))?;
    Ok(Stage::Reading { stream, _body: body, answer: vec![] })
}

fn failure(error: ErrorCode) -> Failure {
    match error {
        ErrorCode::HttpRequestDenied => Failure::NotGranted,
        ErrorCode::ConnectionLimitReached => Failure::Busy,
        ErrorCode::DestinationNotFound | ErrorCode::DestinationUnavailable | ErrorCode::DnsError(_) => {
            Failure::Absent("its address is not there".to_owned())
        }
        ErrorCode::ConnectionRefused => Failure::Absent("nobody accepts connections at its socket".to_owned()),
        ErrorCode::ConnectionTerminated => Failure::Absent("it ended the connection".to_owned()),
        ErrorCode::HttpResponseIncomplete => Failure::Bad("its answer was cut short".to_owned()),
        ErrorCode::ConnectionTimeout | ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout => {
            Failure::Bad("it does not answer in time".to_owned())
        }
        ErrorCode::InternalError(Some(text)) => Failure::Bad(text),
        other => Failure::Bad(format!("{other:?}")),
    }
}
