//! Prints a line for people for every TCP connection that is made, accepted, refused or ended, and counts them as metrics.

use std::collections::BTreeMap;
use std::io::Write as _;

use eunomia_plugin::prelude::*;
use eunomia_plugin::tcp::{Direction, Endpoints};

#[derive(Default)]
struct TcpLog;

fn ends(ends: &Endpoints, arrow: &str) -> String {
    let one = |address: &str, port| match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    };
    let source = one(&ends.source_address, ends.source_port);
    format!("{source} {arrow} {}", one(&ends.destination_address, ends.destination_port))
}

fn who(task: &Task) -> String {
    format!("{:<15} {:>7}", task.comm, task.pid)
}

fn connect(event: &TcpConnect) -> String {
    let took = event.duration as f64 / 1e6;
    match event.error {
        0 => format!("connect {} {} in {took:.3} ms", who(&event.task), ends(&event.endpoints, "->")),
        error => format!("failed  {} {} errno {error} in {took:.3} ms", who(&event.task), ends(&event.endpoints, "->")),
    }
}

fn accept(event: &TcpAccept) -> String {
    format!("accept  {} {}", who(&event.task), ends(&event.endpoints, "<-"))
}

fn close(event: &TcpClose) -> String {
    let arrow = if event.direction == Direction::Outgoing { "->" } else { "<-" };
    let TcpClose { sent_bytes, received_bytes, duration, .. } = event;
    let seconds = *duration as f64 / 1e9;
    let line = ends(&event.endpoints, arrow);
    format!("close   {} {line} sent {sent_bytes} received {received_bytes} in {seconds:.3} s", who(&event.task))
}

/// Prints a run of events in one write.
fn print<T>(events: &[T], line: fn(&T) -> String) {
    let text: String = events.iter().map(|event| line(event) + "\n").collect();
    _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Counts connections of a run, by what came of them.
fn count<'a>(outcomes: impl Iterator<Item = &'a str>) {
    let mut counts = BTreeMap::new();
    outcomes.for_each(|outcome| *counts.entry(outcome).or_insert(0) += 1);
    for (outcome, count) in counts {
        _ = metrics::add("connections", &[("outcome", outcome)], count);
    }
}

impl Plugin for TcpLog {}

impl OnTcpConnect for TcpLog {
    fn on_tcp_connect(&mut self, events: Vec<TcpConnect>) {
        count(events.iter().map(|event| if event.error == 0 { "connected" } else { "failed" }));
        print(&events, connect);
    }
}

impl OnTcpAccept for TcpLog {
    fn on_tcp_accept(&mut self, events: Vec<TcpAccept>) {
        count(events.iter().map(|_| "accepted"));
        print(&events, accept);
    }
}

impl OnTcpClose for TcpLog {
    fn on_tcp_close(&mut self, events: Vec<TcpClose>) {
        count(events.iter().map(|_| "closed"));
        let sum = |bytes: fn(&TcpClose) -> u64| events.iter().map(bytes).sum();
        _ = metrics::add("bytes", &[("direction", "sent")], sum(|event| event.sent_bytes));
        _ = metrics::add("bytes", &[("direction", "received")], sum(|event| event.received_bytes));
        print(&events, close);
    }
}

export!(TcpLog: OnTcpConnect, OnTcpAccept, OnTcpClose);

#[cfg(test)]
mod tests {
    use super::*;
    use eunomia_plugin::tcp::Family;

    #[test]
    fn a_connection_is_a_line() {
        let task = Task {
            pid: 42,
            tid: 42,
            ppid: 1,
            uid: 0,
            gid: 0,
            comm: "curl".into(),
            cgroup: 1,
            pid_ns: 1,
            mnt_ns: 1,
            user_ns: 1,
            start_time: 1,
        };
        let endpoints = Endpoints {
            family: Family::Ipv6,
            source_address: "::1".into(),
            source_port: 40000,
            destination_address: "10.0.0.1".into(),
            destination_port: 443,
            net_ns: 1,
        };
        let event = TcpConnect { time: 1, task, endpoints, error: 111, duration: 1_500_000 };
        let expected = "failed  curl                 42 [::1]:40000 -> 10.0.0.1:443 errno 111 in 1.500 ms";
        assert_eq!(connect(&event), expected);
    }
}
