//! The real binary in trouble that is not a plugin's: storms against a small ring, a host that is stopped or killed, standard
//! output that takes nothing or is full. Needs root.

mod support;

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libbpf_rs::query::ProgInfoIter;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use serde_json::Value;
use support::{Folder, Host, can_load_bpf, check_sums, children, fixture, plugin};

/// Processes of a storm: their events are several times what the smallest ring and a pipe hold.
const STORM: usize = 2_000;

/// How long a host may take to end whatever is in its way.
const END: Duration = Duration::from_secs(30);

/// How long a host is stopped.
const STOPPED: Duration = Duration::from_secs(10);

/// Threads that start processes.
const STARTERS: usize = 4;

fn storm(name: &str) {
    (0..STORM).for_each(|_| assert!(Command::new("/bin/true").arg(name).status().unwrap().success()));
}

fn signal(child: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.to_string()]).status().unwrap().success());
}

#[test]
fn what_a_stopped_host_misses_is_told_to_the_event() {
    if !can_load_bpf() {
        return;
    }
    let args = ["--plugin", plugin("json-log").to_str().unwrap(), "--events", "exec", "--ring-bytes", "process=64K"]
        .map(str::to_owned);
    let mut host = Host::start(&args.each_ref().map(String::as_str));
    signal(host.pid(), "-STOP");
    storm("while-stopped");
    std::thread::sleep(STOPPED);
    signal(host.pid(), "-CONT");
    // Until it has read again, the ring is full. Gaps are looked for after that, at intervals and at the end.
    let mut lines = Vec::new();
    host.expect("gap", |line| {
        lines.push(line.clone());
        line["kind"] == "gap"
    });
    Command::new("/bin/true").arg("afterwards").status().unwrap();
    let (rest, summary) = host.stop();
    lines.extend(rest);

    let of = |kind: &'static str| lines.iter().filter(move |line| line["kind"] == kind);
    let named = |name: &'static str| of("exec").filter(move |line| line["args"][1] == name).count() as u64;
    let told: u64 = of("gap").filter(|gap| gap["missing"] == "exec").map(|gap| gap["count"].as_u64().unwrap()).sum();
    let lost = summary["sources"]["process"]["lost"]["kernel_ring"].as_u64().unwrap_or_default();
    assert!(lost > STORM as u64 / 10, "the ring never was full: {summary}");
    // Others may start programs too.
    let seen = named("while-stopped");
    assert!(seen > 0 && seen + told >= STORM as u64, "{seen} seen, {told} told of: {summary}");
    assert_eq!(named("afterwards"), 1, "it goes on");
    let exec = &summary["sources"]["process"];
    assert_eq!(exec["lost"].as_object().unwrap().len(), 1, "{exec}");
    let first = of("gap").next().unwrap();
    assert!(first["from"].as_str().unwrap() < first["to"].as_str().unwrap(), "{first}");
}

/// The ids of the programs that a host's broker holds.
fn programs_of(host: u32) -> Vec<u32> {
    let folders = children(&host.to_string()).into_iter().map(|broker| format!("/proc/{broker}/fdinfo"));
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap().flatten());
    let held = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    held.filter_map(|file| file.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())).collect()
}

#[test]
fn a_host_that_is_killed_leaves_nothing_behind_and_the_next_one_sees() {
    if !can_load_bpf() {
        return;
    }
    let log = plugin("json-log");
    for round in 0..3 {
        let mut host = Host::start(&["--plugin", log.to_str().unwrap(), "--events", "exec"]);
        let programs = programs_of(host.pid());
        let left = || ProgInfoIter::default().any(|info| programs.contains(&info.id));
        assert!(left(), "its programs are there");
        let name = format!("round-{round}");
        Command::new("/bin/true").arg(&name).status().unwrap();
        host.expect("exec", |line| line["args"][1] == name.as_str());
        signal(host.pid(), "-KILL");
        assert!(!host.wait().success());
        let deadline = Instant::now() + END;
        while left() {
            assert!(Instant::now() < deadline, "programs are left");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Starts the host with standard output of the test's own, and waits until it is ready. Its log so far, and the rest of it.
fn start_on(stdout: Stdio, args: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_eunomia-host"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("ready") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended before it was ready");
    }
    (child, log)
}

fn end(child: &mut Child) {
    signal(child.id(), "-INT");
    let deadline = Instant::now() + END;
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The summary of two plugins in a storm, where nobody reads what they print.
fn of_unread(folder: &Folder, [first, second]: [&Path; 2], events: &str) -> Value {
    let summary = folder.0.join("summary.json");
    let (_reader, writer) = std::io::pipe().unwrap();
    let [first, second, file] = [first, second, &summary].map(|path| path.to_str().unwrap());
    let args = ["--plugin", first, "--plugin", second, "--events", events, "--summary", file];
    let (mut child, mut rest) = start_on(writer.into(), &args);
    storm("unread");
    end(&mut child);
    std::io::copy(&mut rest, &mut std::io::sink()).unwrap();
    let summary: Value = serde_json::from_str(&fs::read_to_string(&summary).unwrap()).unwrap();
    check_sums(&summary);
    summary
}

#[test]
fn standard_output_that_takes_nothing_stops_nobody_else() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("hanging");
    let summary = of_unread(&folder, [&plugin("json-log"), &plugin("count")], "exec,exit");
    let count = &summary["plugins"]["count"];
    assert_eq!(count["lost"], serde_json::json!({}), "{summary}");
    assert!(count["delivered"].as_u64().unwrap() >= 2 * STORM as u64, "{summary}");
    assert_eq!(summary["plugins"]["json-log"]["faults"], 0, "waiting is no fault of its own: {summary}");
}

#[test]
fn a_full_disk_is_said_once() {
    if !can_load_bpf() {
        return;
    }
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let log = plugin("json-log");
    let (mut child, mut rest) = start_on(full.into(), &["--plugin", log.to_str().unwrap(), "--events", "exec"]);
    for _ in 0..20 {
        Command::new("/bin/true").status().unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(child.try_wait().unwrap().is_none(), "it lives");
    end(&mut child);
    let mut said = String::new();
    std::io::Read::read_to_string(&mut rest, &mut said).unwrap();
    assert_eq!(said.matches("cannot write to standard output").count(), 1, "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// Processes that are started as fast as the machine can, against the smallest ring: each is seen, or told of.
#[test]
fn a_storm_of_forks_and_programs_is_counted_to_the_last() {
    if !can_load_bpf() {
        return;
    }
    let log = plugin("json-log");
    let host =
        Host::start(&["--plugin", log.to_str().unwrap(), "--events", "exec,exit,fork", "--ring-bytes", "process=64K"]);
    std::thread::scope(|scope| {
        for _ in 0..STARTERS {
            scope.spawn(|| {
                // A bomb of forks, each of which makes a program's three events.
                let bomb = "for i in 1 2 3 4 5; do for j in 1 2 3 4 5 6 7 8 9 10; do /bin/true bomb & done; done; wait";
                for _ in 0..STORM / STARTERS / 50 {
                    assert!(Command::new("sh").args(["-c", bomb]).status().unwrap().success());
                }
            });
        }
    });
    let (lines, summary) = host.stop();
    let seen = lines.iter().filter(|line| line["kind"] == "exec" && line["args"][1] == "bomb").count() as u64;
    let told = |kind: &str| -> u64 {
        let gaps = lines.iter().filter(|line| line["kind"] == "gap" && line["missing"] == kind);
        gaps.map(|gap| gap["count"].as_u64().unwrap()).sum()
    };
    assert!(seen > 0 && seen + told("exec") >= STORM as u64, "{seen} seen: {summary}");
    for kind in ["exec", "exit", "fork"] {
        let printed = lines.iter().filter(|line| line["kind"] == kind).count() as u64;
        assert!(printed + told(kind) >= STORM as u64, "{kind}: {printed}, {} told of: {summary}", told(kind));
    }
}

/// A process that starts a program now and then, beside some that make system calls without a pause and overflow their rings:
/// it has a ring of its own, and loses nothing.
#[test]
fn a_quiet_process_beside_a_flood_is_seen_to_the_last() {
    if !can_load_bpf() {
        return;
    }
    const QUIET: usize = 40;
    support::until_none_is_left_out(|| {
        let folder = Folder::new("quiet");
        fs::write(folder.0.join("json-log.toml"), "events = ['exec', 'gap']\n").unwrap();
        for name in ["json-log", "count"] {
            folder.put(&format!("{name}.wasm"), &fs::read(plugin(name)).unwrap());
        }
        let host = Host::start(&["--plugin-dir", folder.0.to_str().unwrap(), "--ring-bytes", "syscall=64K"]);
        let flood = || {
            Command::new("timeout")
                .args(["2", "dd", "if=/dev/zero", "of=/dev/null", "bs=1"])
                .stderr(Stdio::null())
                .spawn()
        };
        let floods: [Child; STARTERS] = std::array::from_fn(|_| flood().unwrap());
        for _ in 0..QUIET {
            std::thread::sleep(Duration::from_millis(40));
            Command::new("/bin/true").arg("quiet").status().unwrap();
        }
        floods.into_iter().for_each(|mut flood| assert_eq!(flood.wait().unwrap().code(), Some(124), "it went on"));
        let (lines, summary) = host.stop();
        let lost = &summary["sources"]["syscall"]["lost"]["kernel_ring"];
        assert!(lost.as_u64().is_some_and(|lost| lost > 1_000), "the rings never were full: {summary}");
        let seen = lines.iter().filter(|line| line["kind"] == "exec" && line["args"][1] == "quiet").count();
        assert_eq!(seen, QUIET, "{summary}");
        let process = &summary["sources"]["process"]["lost"];
        assert!(process["kernel_ring"].is_null(), "{summary}");
        assert_eq!(summary["plugins"]["json-log"]["lost"], serde_json::json!({}), "{summary}");
    });
}

/// A plugin that floods alerts, and a reader who takes none of them: only that plugin waits.
#[test]
fn a_flood_of_alerts_that_nobody_reads_stops_nobody_else() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("unread-alerts");
    let flood = folder.0.join("flood.wasm");
    fs::copy(fixture("misbehave"), &flood).unwrap();
    fs::write(folder.0.join("flood.toml"), "[config]\ndeed = 'alert-flood'\n").unwrap();
    let summary = of_unread(&folder, [&flood, &plugin("count")], "exec,fork");
    let count = &summary["plugins"]["count"];
    assert_eq!(count["lost"], serde_json::json!({}), "{summary}");
    assert!(count["delivered"].as_u64().unwrap() >= 2 * STORM as u64, "{summary}");
    assert_eq!(summary["plugins"]["flood"]["faults"], 0, "waiting is no fault of its own: {summary}");
    assert!(summary["plugins"]["flood"]["alerts"].as_u64().unwrap() > 0, "{summary}");
}

/// Names that are no text, hold ends of lines, or are as long as there can be.
#[test]
fn names_of_any_bytes_are_recognisable_and_never_tear_a_line() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("names");
    let log = plugin("json-log");
    let host = Host::start(&["--plugin", log.to_str().unwrap(), "--events", "exec"]);
    let strange = folder.0.join(OsStr::from_bytes(b"a\n\"kind\":\xff\x1b"));
    // Each of its parts as long as it can be, and all of it.
    let deep = folder.0.join(vec!["d".repeat(255); 14].join("/"));
    fs::create_dir_all(&deep).unwrap();
    let long_path = deep.join("e".repeat(200));
    for path in [&strange, &long_path] {
        fs::copy("/bin/true", path).unwrap();
        let status =
            Command::new(path).arg("marked").arg(OsStr::from_bytes(b"\x80\n")).arg("x".repeat(100_000)).status();
        assert!(status.unwrap().success());
    }
    let (lines, summary) = host.stop();
    let marked: Vec<_> = lines.iter().filter(|line| line["args"][1] == "marked").collect();
    let [strange, long] = marked[..] else { panic!("two programs were started, not {marked:?}: {summary}") };
    let ends = |field: &Value, end: &str| field.as_str().unwrap().ends_with(end);
    assert!(
        ends(&strange["filename"], "a\n\"kind\":\\xff\x1b") && ends(&strange["exe"], "a\n\"kind\":\\xff\x1b"),
        "{strange}"
    );
    assert_eq!((&strange["lossy"], &strange["args"][2]), (&true.into(), &"\\x80\n".into()), "{strange}");
    assert_eq!(strange["args_truncated"], true);
    // As long as a path can be that is handed to the kernel.
    assert_eq!((&long["paths_truncated"], &long["exe"]), (&false.into(), &long_path.to_str().unwrap().into()));
}

/// The same pid twice, one process after the other.
#[test]
fn a_pid_that_comes_again_is_another_process() {
    const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
    if !can_load_bpf() || fs::metadata(LAST_PID).is_err() {
        return;
    }
    let log = plugin("json-log");
    let host = Host::start(&["--plugin", log.to_str().unwrap(), "--events", "exec,exit"]);
    let first =
        Command::new("/bin/true").arg("first").spawn().map(|mut child| (child.id(), child.wait().unwrap())).unwrap().0;
    // Another process may take it, or the one after: then once more.
    let again = (0..100).any(|_| {
        fs::write(LAST_PID, (first - 1).to_string()).unwrap();
        let mut child = Command::new("/bin/sh").args(["-c", "exit 3", "again"]).spawn().unwrap();
        child.wait().unwrap();
        child.id() == first
    });
    assert!(again, "the pid {first} did not come again");
    let (lines, _) = host.stop();
    let of_pid: Vec<_> = lines.iter().filter(|line| line["pid"] == first).collect();
    let shown: Vec<_> =
        of_pid.iter().map(|line| (line["kind"].as_str().unwrap(), line["comm"].as_str().unwrap())).collect();
    assert_eq!(shown, [("exec", "true"), ("exit", "true"), ("exec", "sh"), ("exit", "sh")], "{of_pid:?}");
    let start = |at: usize| of_pid[at]["start_time"].as_str().unwrap();
    assert!(start(0) == start(1) && start(2) == start(3) && start(1) < start(2), "{of_pid:?}");
    assert_eq!((&of_pid[1]["code"], &of_pid[3]["code"]), (&0.into(), &3.into()));
    let short = of_pid[3]["duration"].as_u64().unwrap();
    assert!(short < Duration::from_secs(1).as_nanos() as u64, "not since the first of that pid: {short} ns");
}

/// Sets the time of day, and sets it right again whatever happens.
struct TimeOfDay {
    since: Instant,
    was: Timespec,
}

impl TimeOfDay {
    fn now() -> Self {
        TimeOfDay { since: Instant::now(), was: clock_gettime(ClockId::Realtime) }
    }

    fn set(&self, years: i64) {
        let passed = self.since.elapsed();
        let nanoseconds = self.was.tv_nsec + i64::from(passed.subsec_nanos());
        let tv_sec = self.was.tv_sec + passed.as_secs() as i64 + nanoseconds / 1_000_000_000 + years * YEAR_SECONDS;
        clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec: nanoseconds % 1_000_000_000 }).unwrap();
    }
}

impl Drop for TimeOfDay {
    fn drop(&mut self) {
        self.set(0);
    }
}

const YEAR_SECONDS: i64 = 365 * 24 * 60 * 60;

/// The clock is set forward by a year, and back: nothing is lost or kept, times say what the clock said.
#[test]
fn a_clock_that_is_set_by_a_year_loses_nothing() {
    if !can_load_bpf() {
        return;
    }
    let log = plugin("json-log");
    let mut host = Host::start(&["--plugin", log.to_str().unwrap(), "--events", "exec,syscall-count"]);
    let time = TimeOfDay::now();
    let year = |line: &Value| line["time"].as_str().unwrap()[..4].parse::<i64>().unwrap();
    let mut years = Vec::new();
    for (name, set) in [("before", 0), ("forward", 1), ("back", 0), ("far-back", -1), ("right", 0)] {
        time.set(set);
        // It follows the clock with each look at the rings.
        std::thread::sleep(Duration::from_millis(200));
        Command::new("/bin/true").arg(name).status().unwrap();
        let (line, _) = host.expect(name, |line| line["args"][1] == name);
        years.push(year(&line));
        // What is summed in the kernel is not kept for a year.
        host.expect("sums", |line| line["kind"] == "syscall-count" && year(line) == years[years.len() - 1]);
    }
    drop(time);
    let base = years[0];
    assert_eq!(years, [base, base + 1, base, base - 1, base]);
    let (_, summary) = host.stop();
    assert_eq!(summary["sources"]["process"]["lost"], serde_json::json!({}), "{summary}");
    assert_eq!(summary["plugins"]["json-log"]["lost"], serde_json::json!({}), "{summary}");
}

/// A cache that is full, and hardly any descriptors: said, and done without.
#[test]
fn a_full_cache_folder_is_said_and_done_without() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("full-cache");
    let path = folder.0.to_str().unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k,mode=700", "none", path]).status().unwrap();
    assert!(mounted.success());
    let log = plugin("json-log");
    let mut host = Host::start(&["--plugin", log.to_str().unwrap(), "--events", "exec", "--cache", path]);
    Command::new("/bin/true").arg("uncached").status().unwrap();
    host.expect("exec", |line| line["args"][1] == "uncached");
    let said: Vec<_> = host.log.iter().filter(|line| line.contains(path)).cloned().collect();
    host.stop();
    assert!(Command::new("umount").arg(path).status().unwrap().success());
    assert!(said.len() == 1 && said[0].contains("No space left"), "{said:?}");
}

#[test]
fn a_host_with_few_addresses_says_so_and_runs_its_plugins() {
    if !can_load_bpf() {
        return;
    }
    // Enough for its plugin's 4 GiB, and for no pool of thousands.
    const ADDRESSES_KIB: u64 = 64 << 20;
    let run = format!(
        "ulimit -v {ADDRESSES_KIB}; exec {} --plugin {} --events exec --duration 2",
        env!("CARGO_BIN_EXE_eunomia-host"),
        plugin("json-log").display()
    );
    let output = Command::new("sh").args(["-c", &run]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("memories are mapped one by one"), "{said}");
    assert!(said.contains("ready sources: process"), "{said}");
}

#[test]
fn a_host_with_hardly_any_descriptors_says_what_it_lacks() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("descriptors");
    for number in 0..20 {
        fs::copy(plugin("json-log"), folder.0.join(format!("log-{number}.wasm"))).unwrap();
    }
    for limit in [12, 20, 40, 60] {
        let run = format!(
            "ulimit -n {limit}; exec {} --plugin-dir {} --events exec --duration 2",
            env!("CARGO_BIN_EXE_eunomia-host"),
            folder.0.display()
        );
        let output = Command::new("sh").args(["-c", &run]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("panicked"), "{limit}: {said}");
        assert!(output.status.success() || said.contains("Too many open files"), "{limit}: {said}");
    }
}
