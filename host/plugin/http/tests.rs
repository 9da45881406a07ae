//! Calls to servers that hang, flood, cut their answers short, or were not granted.

use http_body_util::Empty;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::super::grants::SAFE_METHODS;
use super::*;

/// What a server does once it has read a request.
#[derive(Clone, Copy)]
enum Deed {
    Answer,
    /// It never says a word.
    Hang,
    /// It begins an answer and then stops.
    Stall,
    /// 100 MiB.
    Flood,
    /// The same without saying how much is to come.
    FloodUnannounced,
    /// Less than it has said.
    CutShort,
    /// A head without end.
    EndlessHead,
    Nonsense,
}

async fn serve(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, deed: Deed) -> std::io::Result<String> {
    let mut request = vec![0; 4096];
    let length = stream.read(&mut request).await?;
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let megabyte = vec![b'x'; 1 << 20];
    match deed {
        Deed::Answer => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await?,
        Deed::Hang => std::future::pending().await,
        Deed::Stall => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel").await?;
            std::future::pending().await
        }
        Deed::Flood | Deed::FloodUnannounced => {
            let length = if matches!(deed, Deed::Flood) { "content-length: 104857600\r\n" } else { "" };
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{length}\r\n").as_bytes()).await?;
            for _ in 0..100 {
                stream.write_all(&megabyte).await?;
            }
        }
        Deed::CutShort => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nhello").await?,
        Deed::EndlessHead => {
            stream.write_all(b"HTTP/1.1 200 OK\r\na: ").await?;
            for _ in 0..100 {
                stream.write_all(&megabyte).await?;
            }
        }
        Deed::Nonsense => stream.write_all(b"this is not HTTP\r\n\r\n").await?,
    }
    Ok(request)
}

/// This process may connect to them itself.
fn directly() -> Connect {
    Arc::new(|_, _, path| Box::pin(UnixStream::connect(path)))
}

/// A server on a Unix socket, with the calls of a plugin that may reach it as `up`.
struct Server {
    http: Http,
    socket: PathBuf,
}

impl Server {
    fn new(name: &str, deed: Deed) -> Self {
        let socket = std::env::temp_dir().join(format!("eunomia-http-{name}-{}.sock", std::process::id()));
        _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, deed));
            }
        });
        let mut grants = Grants::default();
        grants.add_http("up", &format!("unix://{}", socket.display()), None).unwrap();
        Server { http: Http::new("test".into(), &grants, directly()), socket }
    }

    async fn get(&self) -> Result<Vec<u8>, Error> {
        get(&self.http, "GET", "http://up/info?a=1", RequestOptions::default()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.socket);
    }
}

fn request(method: &str, url: &str) -> Request<WasiBody> {
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    Request::builder().method(method).uri(url).body(body).unwrap()
}

async fn send(http: &Http, method: &str, url: &str, options: RequestOptions) -> Answer {
    let sent = Box::new(async { Ok(()) });
    Pin::from(http.clone().send_request(request(method, url), Some(options), sent)).await
}

async fn get(http: &Http, method: &str, url: &str, options: RequestOptions) -> Result<Vec<u8>, Error> {
    let (response, worker) = send(http, method, url, options).await?;
    let worker = tokio::spawn(Pin::from(worker));
    let body = response.into_body().collect().await.map(|body| body.to_bytes().to_vec());
    worker.abort();
    body
}

#[tokio::test]
async fn a_server_on_a_unix_socket_answers() {
    let server = Server::new("answer", Deed::Answer);
    assert_eq!(server.get().await.unwrap(), b"hello");
}

/// What comes back of bytes that are sent through a proxy that lets methods of asking through, as far as the connection goes.
async fn through_proxy(server: &Server, bytes: &str) -> String {
    let (mut own, its) = UnixStream::pair().unwrap();
    let proxy = proxy::connect(&server.socket, SAFE_METHODS.map(String::from).to_vec()).await.unwrap();
    let running = tokio::spawn(proxy.run(its));
    own.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = own.read(&mut answer).await.unwrap_or(0);
    drop(own);
    _ = running.await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn no_other_methods_than_those_granted_get_through_a_proxy_whoever_asks() {
    let server = Server::new("proxy", Deed::Answer);
    let answer = through_proxy(&server, "GET /info HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{answer}");
    for other in [
        "POST /containers/create HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        "get /info HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /info HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked, identity\r\n\r\nhello",
        "nonsense\r\n\r\n",
    ] {
        let answer = through_proxy(&server, other).await;
        assert!(!answer.contains("200") && !answer.contains("hello"), "{other}: {answer}");
    }
}

#[tokio::test]
async fn a_server_on_a_port_is_asked_by_its_own_name_and_path_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = tokio::spawn(async move { serve(listener.accept().await.unwrap().0, Deed::Answer).await.unwrap() });
    let mut grants = Grants::default();
    grants.add_http("up", &format!("http://{address}"), None).unwrap();
    let http = Http::new("test".into(), &grants, directly());
    assert_eq!(get(&http, "GET", "http://up/info?a=1", RequestOptions::default()).await.unwrap(), b"hello");
    let asked = asked.await.unwrap().to_lowercase();
    assert!(asked.starts_with("get /info?a=1 http/1.1\r\n") && asked.contains(&format!("host: {address}")), "{asked}");
}

#[tokio::test]
async fn nobody_else_and_nothing_else_is_asked() {
    let server = Server::new("denied", Deed::Answer);
    for (method, url) in [
        ("GET", "http://other/"),
        ("GET", "http://up:80/"),
        ("GET", "http://user@up/"),
        ("GET", "http://127.0.0.1:80/"),
        ("POST", "http://up/containers/create"),
        ("DELETE", "http://up/containers/a"),
    ] {
        let result = get(&server.http, method, url, RequestOptions::default()).await;
        assert!(matches!(result, Err(Error::HttpRequestDenied)), "{method} {url}: {result:?}");
    }
    let mut http = server.http.clone();
    assert!(http.is_supported_scheme(&Scheme::HTTP) && !http.is_supported_scheme(&Scheme::HTTPS));
}

#[tokio::test]
async fn a_server_that_hangs_or_is_not_there_is_given_up() {
    for (name, deed) in [("hang", Deed::Hang), ("stall", Deed::Stall)] {
        let server = Server::new(name, deed);
        let result = timeout(WAIT * 3, server.get()).await.expect("the call ends by itself");
        assert!(matches!(result, Err(Error::ConnectionReadTimeout)), "{name}: {result:?}");
        let options = RequestOptions {
            first_byte_timeout: Some(Duration::from_millis(10)),
            between_bytes_timeout: Some(Duration::from_millis(10)),
            ..Default::default()
        };
        let call = get(&server.http, "GET", "http://up/", options);
        let result = timeout(WAIT / 2, call).await.expect("a plugin may ask for less time");
        assert!(matches!(result, Err(Error::ConnectionReadTimeout)), "{name}: {result:?}");
    }
    let server = Server::new("gone", Deed::Answer);
    std::fs::remove_file(&server.socket).unwrap();
    assert!(matches!(server.get().await, Err(Error::Connect(_))));
}

#[tokio::test]
async fn a_server_that_floods_is_cut_off() {
    for (name, deed) in [("flood", Deed::Flood), ("flood-unannounced", Deed::FloodUnannounced)] {
        let server = Server::new(name, deed);
        let result = server.get().await.map(|body| body.len());
        assert!(matches!(result, Err(Error::HttpResponseBodySize(Some(MAX_RESPONSE_BYTES)))), "{name}: {result:?}");
    }
    let server = Server::new("head", Deed::EndlessHead);
    assert!(matches!(server.get().await, Err(Error::Hyper(_))));
}

#[tokio::test]
async fn an_answer_cut_short_or_none_at_all_is_an_error() {
    for (name, deed) in [("cut", Deed::CutShort), ("nonsense", Deed::Nonsense)] {
        let result = Server::new(name, deed).get().await;
        assert!(matches!(result, Err(Error::Hyper(_))), "{name}: {result:?}");
    }
}

#[tokio::test]
async fn calls_at_the_same_time_and_in_a_second_are_bounded() {
    let server = Server::new("many", Deed::Stall);
    let mut going_on = Vec::new();
    for _ in 0..CALLS_AT_ONCE {
        going_on.push(send(&server.http, "GET", "http://up/", RequestOptions::default()).await.unwrap());
    }
    assert!(matches!(server.get().await, Err(Error::ConnectionLimitReached)));
    drop(going_on);
    assert!(send(&server.http, "GET", "http://up/", RequestOptions::default()).await.is_ok(), "places are given back");

    let start = Instant::now();
    let mut allowance = Allowance { calls: f64::from(CALLS_PER_SECOND), since: start };
    let taken = |allowance: &mut Allowance, at| (0..3 * CALLS_PER_SECOND).filter(|_| allowance.take(at)).count();
    assert_eq!(taken(&mut allowance, start), CALLS_PER_SECOND as usize);
    assert_eq!(taken(&mut allowance, start + Duration::from_millis(500)), CALLS_PER_SECOND as usize / 2);
    assert_eq!(taken(&mut allowance, start + Duration::from_secs(60)), CALLS_PER_SECOND as usize);
}

#[tokio::test]
async fn a_request_is_no_longer_than_allowed() {
    let long = vec![0; usize::try_from(MAX_REQUEST_BYTES).unwrap() + 1];
    let body = http_body_util::Full::new(Bytes::from(long)).map_err(|never| match never {}).boxed_unsync();
    let result = Bounded::request(body).collect().await.map(|body| body.to_bytes().len());
    assert!(matches!(result, Err(Error::HttpRequestBodySize(Some(MAX_REQUEST_BYTES)))), "{result:?}");
}
