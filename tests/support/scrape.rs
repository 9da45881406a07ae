//! What a host serves at `--metrics`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Host;

/// How long anything may take that takes milliseconds.
pub const LONG: Duration = Duration::from_secs(20);

/// Sends bytes to a host and reads what it answers.
pub fn send(address: &str, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.write_all(request).unwrap();
    let mut answer = Vec::new();
    _ = socket.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// What is served, by name and labels.
pub fn scrape(address: &str) -> BTreeMap<String, f64> {
    let answer = send(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    let values = text.lines().filter(|line| !line.starts_with('#'));
    values
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        })
        .collect()
}

/// The sum of what has a name and these labels.
pub fn sum(all: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
    let is_it = |full: &str| full.split('{').next() == Some(name) && labels.iter().all(|label| full.contains(label));
    all.iter().filter(|(full, _)| is_it(full)).map(|(_, value)| value).sum()
}

pub fn until(what: &str, test: impl Fn() -> bool) {
    let start = Instant::now();
    while !test() {
        assert!(start.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A host that serves metrics, and where.
pub fn host(args: &[&str]) -> (Host, String) {
    let mut host = Host::spawn(&[args, &["--metrics", "127.0.0.1:0"]].concat());
    let ready = host.expect_log("ready");
    let at = ready.split(" metrics: http://").nth(1).expect("it says where");
    let address = at.split("/metrics").next().unwrap().to_owned();
    (host, address)
}
