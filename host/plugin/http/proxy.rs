//! Between a plugin's calls and a server on a Unix socket, in another process than the plugin's: whoever took that over gets no
//! further than the plugin's settings allow.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use wasmtime_wasi_http::io::TokioIo;

use super::BUFFER_BYTES;

/// Connects to a socket, for calls by these methods.
pub async fn connect(path: &Path, methods: Vec<String>) -> std::io::Result<Proxy> {
    Ok(Proxy { server: UnixStream::connect(path).await?, methods })
}

/// A connection to a server.
pub struct Proxy {
    server: UnixStream,
    methods: Vec<String>,
}

impl Proxy {
    /// Passes requests that come over `caller` on, and their answers back, until one of both ends it or asks for what is not
    /// allowed. Each is read and written anew, so that none hides in another.
    pub async fn run(self, caller: UnixStream) -> Result<()> {
        let (sender, connection) = client::Builder::new()
            .max_buf_size(BUFFER_BYTES)
            .handshake(TokioIo::new(self.server))
            .await
            .context("the server does not answer")?;
        let (sender, methods) = (Arc::new(Mutex::new(sender)), Arc::new(self.methods));
        let service = service_fn(move |request: Request<Incoming>| {
            let (sender, methods) = (sender.clone(), methods.clone());
            async move {
                let method = request.method().as_str();
                ensure!(methods.iter().any(|allowed| allowed == method), "{method} is not granted");
                let response: Response<Incoming> = sender.lock().await.send_request(request).await?;
                Ok(response)
            }
        });
        let serving = server::Builder::new().max_buf_size(BUFFER_BYTES).serve_connection(TokioIo::new(caller), service);
        // With the caller goes whoever asks the server; when the server goes, its last answer is still to be passed on.
        let (served, asked) = tokio::join!(serving, connection);
        served.context("a plugin's call ends").and(asked.context("a server ends a call"))
    }
}
