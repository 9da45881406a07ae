//! Metrics, as somebody who monitors the host gets them: on the running kernel, with the real host. Needs root.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::scrape::{LONG, host, scrape, send, sum, until};
use support::{Folder, can_load_bpf, fixture, plugin};

/// Programs that are started.
const RUNS: u64 = 500;

/// How often figures are looked at while they change.
const SCRAPES: usize = 200;

#[test]
fn a_scrape_tells_the_exact_figures_while_the_host_runs() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("metrics");
    let program = folder.0.join("metrics-true");
    fs::copy("/bin/true", &program).unwrap();
    let (json_log, quiet) = (plugin("json-log"), plugin("quiet"));
    let (host, address) = host(&[
        "--plugin",
        quiet.to_str().unwrap(),
        "--plugin",
        json_log.to_str().unwrap(),
        "--comm",
        "metrics-true",
        "--events",
        "exec,exit",
    ]);
    for _ in 0..RUNS {
        Command::new(&program).status().unwrap();
    }
    let log = ["plugin=\"json-log\""];
    until("all are delivered", || {
        sum(&scrape(&address), "eunomia_plugin_delivered_events_total", &log) >= 2.0 * RUNS as f64
    });
    let all = scrape(&address);
    for kind in ["kind=\"exec\"", "kind=\"exit\""] {
        let of = |what: &str| sum(&all, &format!("eunomia_plugin_{what}_events_total"), &[log[0], kind]);
        assert_eq!((of("seen"), of("filtered"), of("delivered"), of("lost")), (RUNS as f64, 0.0, RUNS as f64, 0.0));
    }
    let of = |what: &str| sum(&all, &format!("eunomia_source_{what}_events_total"), &["source=\"process\""]);
    assert_eq!((of("seen"), of("delivered"), of("lost")), (2.0 * RUNS as f64, 2.0 * RUNS as f64, 0.0));
    assert_eq!(sum(&all, "eunomia_plugin_state", &[log[0], "state=\"running\""]), 1.0);
    assert_eq!(sum(&all, "eunomia_source_state", &["source=\"process\"", "state=\"attached\""]), 1.0);
    assert_eq!(sum(&all, "eunomia_source_state", &["source=\"tcp\"", "state=\"off\""]), 1.0);
    let (calls, timed) =
        (sum(&all, "eunomia_plugin_calls_total", &log), sum(&all, "eunomia_plugin_call_seconds_count", &log));
    // Those that start it are no calls about events.
    assert!(calls > 0.0 && timed >= calls, "{calls} calls, {timed} of them timed");
    assert!(sum(&all, "eunomia_plugin_memory_bytes", &log) >= 65_536.0);
    assert!(sum(&all, "process_resident_memory_bytes", &[]) > 1e6);
    assert!(sum(&all, "eunomia_broker_resident_memory_bytes", &[]) > 1e6);
    assert!(sum(&all, "eunomia_broker_cpu_seconds_total", &[]) > 0.0);
    let (lines, summary) = host.stop();
    assert_eq!(lines.len() as u64, 2 * RUNS);
    assert_eq!(summary["plugins"]["json-log"]["delivered"], 2 * RUNS);
}

#[test]
fn every_scrape_adds_up_while_events_come_by_the_hundred_thousand() {
    if !can_load_bpf() {
        return;
    }
    let (count, quiet) = (plugin("count"), plugin("quiet"));
    let plugins = ["--plugin", quiet.to_str().unwrap(), "--plugin", count.to_str().unwrap()];
    let (host, address) = host(&[&plugins[..], &["--events", "syscall,syscall-return,exec"]].concat());
    let (over, start) = (AtomicBool::new(false), Instant::now());
    let mut most_waiting = 0.0_f64;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // It ends even where the test has failed.
            while !over.load(Ordering::Relaxed) && start.elapsed() < 2 * LONG {
                (0..1000).for_each(|_| _ = rustix::process::getppid());
            }
        });
        for _ in 0..SCRAPES {
            let all = scrape(&address);
            for kind in ["syscall", "syscall-return", "exec"] {
                let labels = ["plugin=\"count\"", &format!("kind=\"{kind}\"")];
                let of = |what: &str| sum(&all, &format!("eunomia_plugin_{what}"), &labels);
                let (seen, waiting) = (of("seen_events_total"), of("waiting_events"));
                let settled = ["filtered", "delivered", "lost"].map(|fate| of(&format!("{fate}_events_total")));
                assert_eq!(seen, settled.iter().sum::<f64>() + waiting, "{kind}");
                most_waiting = most_waiting.max(waiting);
            }
            for source in ["source=\"syscall\"", "source=\"process\""] {
                let of = |fate| sum(&all, &format!("eunomia_source_{fate}_events_total"), &[source]);
                assert!(of("seen") >= of("filtered") + of("delivered") + of("lost"), "{source}: {all:?}");
            }
        }
        let calls = || sum(&scrape(&address), "eunomia_source_seen_events_total", &["source=\"syscall\""]);
        until("the storm is one", || calls() > 100_000.0);
        over.store(true, Ordering::Relaxed);
    });
    assert!(most_waiting > 0.0, "no scrape fell into the storm");
    host.stop();
}

#[test]
fn a_plugins_own_metrics_are_served_within_its_limits_and_every_name_is_documented() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("metrics-own");
    fs::copy(fixture("misbehave"), folder.0.join("flood.wasm")).unwrap();
    fs::write(folder.0.join("flood.toml"), "[config]\ndeed = 'metric-flood'\n[limits]\nmetrics = 300\n").unwrap();
    fs::copy(folder.0.join("flood.wasm"), folder.0.join("fails.wasm")).unwrap();
    fs::write(folder.0.join("fails.toml"), "[config]\ndeed = 'trap'\n").unwrap();
    fs::copy(plugin("tcp-log"), folder.0.join("tcp-log.wasm")).unwrap();
    let (mut host, address) = host(&["--plugin-dir", folder.0.to_str().unwrap()]);
    Command::new("/bin/true").status().unwrap();
    let flood = ["plugin=\"flood\""];
    until("it floods", || sum(&scrape(&address), "eunomia_plugin_metrics_refused_total", &flood) > 0.0);
    // Scrapes are connections themselves.
    let connected = ["plugin=\"tcp-log\"", "name=\"connections\"", "outcome=\"connected\""];
    until("connections are counted", || sum(&scrape(&address), "eunomia_plugin_own_total", &connected) > 1.0);
    let all = scrape(&address);
    let own = all.keys().filter(|name| name.starts_with("eunomia_plugin_own_total") && name.contains(flood[0]));
    assert_eq!(own.count(), 300);
    assert!(all.contains_key("eunomia_plugin_own_total{plugin=\"flood\",name=\"flood\",number=\"7\\\"} 1\\n\"}"));
    let fails = ["plugin=\"fails\""];
    until("one that fails is started again", || {
        Command::new("/bin/true").status().unwrap();
        let all = scrape(&address);
        let of = |what: &str| sum(&all, &format!("eunomia_plugin_{what}_total"), &fails);
        let lost = sum(&all, "eunomia_plugin_lost_events_total", &["plugin=\"fails\"", "where=\"fault\""]);
        of("restarts") >= 1.0 && of("faults") >= of("restarts") && lost >= of("faults")
    });
    let line = host.said("a metric is refused");
    assert!(line.contains("plugin flood") && line.contains("limits.metrics"), "{line}");

    // Another version takes its place, which has no metrics; what was counted of the name goes on.
    let lasting = |all: &BTreeMap<String, f64>| {
        let names = ["calls_total", "call_seconds_count", "metrics_refused_total", "seen_events_total"];
        names.map(|name| sum(all, &format!("eunomia_plugin_{name}"), &flood))
    };
    let before = lasting(&scrape(&address));
    fs::remove_file(folder.0.join("flood.toml")).unwrap();
    folder.put("flood.wasm", &fs::read(plugin("exec-stats")).unwrap());
    until("the other version is there", || sum(&scrape(&address), "eunomia_plugin_own_total", &flood) == 0.0);
    let after = lasting(&scrape(&address));
    assert!(before.iter().zip(after).all(|(before, after)| after >= *before), "{before:?}, then {after:?}");

    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let page = fs::read_to_string(docs.join("metrics.md")).unwrap();
    let named: BTreeSet<String> = names(&page);
    let text = send(&address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let served: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    let missing: Vec<_> = served.difference(&named).collect();
    assert!(missing.is_empty(), "docs/metrics.md does not name {missing:?}");
    // Those need a filter's answer, a plugin's gauge or histogram, or statistics that the kernel keeps only when asked.
    let elsewhere =
        ["eunomia_plugin_filter_events_total", "eunomia_plugin_own_value", "eunomia_plugin_own_observations"];
    let gone: Vec<_> = named.difference(&served).filter(|name| !elsewhere.contains(&name.as_str())).collect();
    assert!(gone.is_empty(), "docs/metrics.md names {gone:?}, which are not served");
    let dashboard = names(&fs::read_to_string(docs.join("grafana.json")).unwrap());
    assert!(dashboard.len() > 10, "{dashboard:?}");
    let base = |name: &String| {
        named.contains(name.trim_end_matches("_bucket").trim_end_matches("_count").trim_end_matches("_sum"))
    };
    let unknown: Vec<_> = dashboard.iter().filter(|name| !base(name)).collect();
    assert!(unknown.is_empty(), "docs/grafana.json shows {unknown:?}, which are not served");
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("eunomia_") || word.starts_with("process_")).map(str::to_owned).collect()
}

#[test]
fn whoever_connects_and_asks_badly_keeps_nobody_else_from_the_metrics() {
    if !can_load_bpf() {
        return;
    }
    let json_log = plugin("json-log");
    let (host, address) =
        host(&["--plugin", json_log.to_str().unwrap(), "--comm", "nobody-has-it", "--events", "exec"]);
    assert!(send(&address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(
        send(&address, b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").starts_with("HTTP/1.1 405")
    );
    let huge = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    assert!(!send(&address, huge.as_bytes()).starts_with("HTTP/1.1 200"));
    assert!(!send(&address, &[0xff; 4096]).starts_with("HTTP/1.1 200"));
    let open_files = || fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap().count();
    let before = open_files();
    let idle: Vec<TcpStream> = (0..500).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let halves: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut socket = TcpStream::connect(&address).unwrap();
            socket.write_all(b"GET /metrics HTTP/1.1\r\nHost:").unwrap();
            socket
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(sum(&scrape(&address), "eunomia_build_info", &[]), 1.0);
    }
    // Those who ask, and read nothing of the answer.
    let deaf: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut socket = TcpStream::connect(&address).unwrap();
            socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            socket
        })
        .collect();
    assert_eq!(sum(&scrape(&address), "eunomia_build_info", &[]), 1.0);
    // Those who ask a byte at a time: whoever takes too long is cut off, and meanwhile others are answered.
    let start = Instant::now();
    let mut slow: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let mut request = b"GET /metrics HTTP/1.1\r\nX: ".iter().copied().chain(std::iter::repeat(b'x'));
    while !slow.is_empty() {
        let byte = request.next().unwrap();
        slow.retain_mut(|socket| socket.write_all(&[byte]).is_ok());
        assert_eq!(sum(&scrape(&address), "eunomia_build_info", &[]), 1.0);
        assert!(start.elapsed() < LONG, "they are never cut off");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop((idle, halves, deaf));
    until("no descriptor is left open", || open_files() <= before);
    host.stop();
}

/// Has the kernel measure runs of BPF programs, or not, and leaves that as it was.
struct Measuring(String);

const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Measuring {
    fn set(on: bool) {
        fs::write(BPF_STATS, if on { "1" } else { "0" }).unwrap();
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        fs::write(BPF_STATS, &self.0).unwrap();
    }
}

#[test]
fn runs_of_bpf_programs_are_told_while_the_kernel_measures_them() {
    const CALLS: u64 = 100_000;
    if !can_load_bpf() {
        return;
    }
    let count = plugin("count");
    let (host, address) = host(&["--plugin", count.to_str().unwrap(), "--events", "syscall"]);
    let call = || (0..CALLS).for_each(|_| _ = rustix::process::getppid());
    let measured = || {
        let all = scrape(&address);
        let of = |what: &str| sum(&all, &format!("eunomia_bpf_program_{what}_total"), &["source=\"syscall\""]);
        (of("runs"), of("seconds"))
    };
    let measuring = Measuring(fs::read_to_string(BPF_STATS).unwrap());
    Measuring::set(true);
    let before = measured();
    call();
    let after = measured();
    let (runs, seconds) = (after.0 - before.0, after.1 - before.1);
    assert!(runs >= CALLS as f64, "{runs} runs");
    let each = seconds / runs;
    assert!((1e-9..1e-3).contains(&each), "{each} s for each run");
    Measuring::set(false);
    let before = measured();
    call();
    assert!(measured().0 - before.0 < CALLS as f64 / 2.0, "what is not measured is not told");
    drop(measuring);
    host.stop();
}

#[test]
fn an_address_that_cannot_be_had_is_an_error_with_the_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let json_log = plugin("json-log");
    let run = |address: &str| {
        let host = Command::new(env!("CARGO_BIN_EXE_eunomia-host"));
        let output = { host }.args(["--plugin", json_log.to_str().unwrap(), "--metrics", address]).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let error = run(&address);
    assert!(error.contains(&address) && error.contains("choose another with --metrics"), "{error}");
    assert!(run("9464").contains("--metrics <ADDR:PORT>"));
}
