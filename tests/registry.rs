//! A plugin that tells of containers, with others behind it: order, narrowing, stamped alerts, and grants. No privilege.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eunomia_host::dispatch::{Only, Watch};
use eunomia_host::event::clock::Clock;
use eunomia_host::event::{Columns, Kind, decode};
use eunomia_host::plugin::{Grants, Plugin, Settings};
use eunomia_host::wit::cgroup::{CgroupCreated, CgroupRemoved};
use eunomia_host::wit::container_registry::Cgroup;
use eunomia_host::wit::process::Exec;
use serde_json::{Value, json};
use support::line::{Line, Outcome};
use support::{Folder, plugin};

/// A cgroup, and whether it is that of a container wanted.
type Told = (u64, Option<bool>);

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures/containers.wasm")
}

/// An exec event as the kernel sent one, and may have sent it from another cgroup.
fn exec(time: u64, cgroup: u64) -> Exec {
    let bytes = include_bytes!("fixtures/process.records");
    let (mut rest, mut columns) = (&bytes[..], Columns::default());
    while columns.exec.is_empty() {
        let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        decode(&rest[4..4 + length], &Clock::new(0, 0), &mut columns).unwrap();
        rest = &rest[4 + length..];
    }
    let mut exec = columns.exec.remove(0);
    (exec.time, exec.task.cgroup) = (time, cgroup);
    exec
}

fn created(time: u64, id: u64, path: &str) -> CgroupCreated {
    CgroupCreated { time, task: exec(0, 1).task, id, path: path.into(), level: 2, hierarchy: 0 }
}

fn cgroup(id: u64, path: &str) -> Cgroup {
    Cgroup { id, path: path.into() }
}

/// Settings with the grants that the fixture needs, and a server that nobody calls.
fn granted(config: &str) -> Settings {
    let mut grants = Grants { container_registry: true, ..Default::default() };
    grants.add_http("nobody", "unix:///does/not/exist", None).unwrap();
    Settings { grants, config: config.into(), ..Default::default() }
}

/// json-log first by its place, and the fixture behind it, which comes first all the same.
async fn start(line: &Line, settings: &Settings) -> BTreeMap<&'static str, Plugin> {
    let mut plugins = BTreeMap::new();
    let (json_log, member) = line.start(("json-log", 0), &plugin("json-log"), "{}", None).await.unwrap();
    line.join(member).await;
    plugins.insert("json-log", json_log);
    let (containers, member) = line.start_with(("containers", 1), &fixture(), settings, None).await.unwrap();
    line.join(member).await;
    plugins.insert("containers", containers);
    plugins
}

fn of_kind<'a>(lines: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["kind"] == kind)
}

/// The ids of the containers of exec events, in their order.
fn ids(outcome: &Outcome) -> Vec<String> {
    let id = |line: &Value| line["container"]["id"].as_str().unwrap_or_default().to_owned();
    of_kind(&outcome.json(), "exec").map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containers_first_event_says_so() {
    const CONTAINERS: u64 = 200;
    let line = Line::with(vec![cgroup(1, "/"), cgroup(2, "/box"), cgroup(3, "/box/early")], None, Only::default());
    let plugins = start(&line, &granted(r#"{"delay_ms": 1}"#)).await;
    let mut expected = vec!["early".to_owned(), String::new()];
    line.send(Columns { exec: vec![exec(1, 3), exec(2, 1)], ..Default::default() }).await;
    for number in 0..CONTAINERS {
        let (time, id) = (10 + 10 * number, 100 + 2 * number);
        // One whose processes have moved into a cgroup below, and one that is about no container.
        line.send(Columns {
            cgroup_created: vec![
                created(time, id, &format!("/box/{number}")),
                created(time + 1, id + 1, &format!("/box/{number}/below")),
            ],
            exec: vec![exec(time + 2, id), exec(time + 3, id + 1), exec(time + 4, 1)],
            ..Default::default()
        })
        .await;
        expected.extend([number.to_string(), number.to_string(), String::new()]);
    }
    let outcome = line.finish(plugins).await;
    assert_eq!(ids(&outcome), expected);
    let lines = outcome.json();
    let first = of_kind(&lines, "exec").next().unwrap();
    let whole = json!({"id": "early", "engine": "docker", "name": "name-early", "image": "image",
        "pod": "pod", "namespace": "space"});
    assert_eq!(first["container"], whole);
    assert!(of_kind(&lines, "exec").nth(1).unwrap().get("container").is_none(), "nothing is said where there is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_container_is_known_to_events_on_their_way() {
    let line = Line::new();
    let plugins = start(&line, &granted("{}")).await;
    let task = exec(0, 1).task;
    let removed = CgroupRemoved { time: 3, task, id: 9, path: "/box/a".into(), level: 2, hierarchy: 0 };
    line.send(Columns {
        cgroup_created: vec![created(1, 9, "/box/a")],
        exec: vec![exec(2, 9)],
        cgroup_removed: vec![removed],
        ..Default::default()
    })
    .await;
    line.send(Columns { exec: vec![exec(4, 9)], ..Default::default() }).await;
    assert_eq!(ids(&line.finish(plugins).await), ["a", "a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_too_long_keeps_events_back_once() {
    let line = Line::new();
    let plugins = start(&line, &granted(r#"{"delay_ms": 1500}"#)).await;
    let start = Instant::now();
    for number in 0..5 {
        let time = 10 * number;
        line.send(Columns {
            cgroup_created: vec![created(time, 100 + number, &format!("/box/{number}"))],
            exec: vec![exec(time + 1, 100 + number)],
            ..Default::default()
        })
        .await;
    }
    let deadline = start + Duration::from_secs(3);
    while plugins["json-log"].queue.counts().get(&Kind::Exec).is_none_or(|counts| counts.delivered < 5) {
        assert!(Instant::now() < deadline, "the others get their events while this one is still asleep");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let outcome = line.finish(plugins).await;
    assert_eq!(ids(&outcome), [""; 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_narrowed_to_a_container_shows_its_cgroups_alone_and_tells_the_kernel() {
    let told: Arc<Mutex<Vec<Told>>> = Arc::default();
    let into = told.clone();
    let tell = Box::new(move |cgroup, wanted| into.lock().unwrap().push((cgroup, wanted)));
    let watch = Watch { names: vec!["name-b".into()], tell };
    let line = Line::with(
        vec![cgroup(1, "/"), cgroup(2, "/box")],
        Some(watch),
        Only { containers: true, ..Default::default() },
    );
    let plugins = start(&line, &granted("{}")).await;
    let paths = ["/box/a", "/box/b", "/box/b/below", "/elsewhere"];
    let cgroup_created = paths.iter().zip(10..).map(|(path, id)| created(id, id, path)).collect();
    // Those of cgroups so new that the kernel let them pass are among the first.
    let exec = vec![exec(20, 10), exec(21, 11), exec(22, 12), exec(23, 13), exec(24, 1)];
    line.send(Columns { cgroup_created, exec, ..Default::default() }).await;
    let outcome = line.finish(plugins).await;
    let lines = outcome.json();
    let shown: Vec<_> = of_kind(&lines, "cgroup-created").map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(shown, ["/box/b", "/box/b/below"]);
    assert_eq!(of_kind(&lines, "exec").map(|line| line["cgroup"].as_u64().unwrap()).collect::<Vec<_>>(), [11, 12]);
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(*told.lock().unwrap(), [(10, no), (11, yes), (12, no), (13, no)]);
    assert_eq!(outcome.kinds["containers"][&Kind::CgroupCreated].delivered, 4, "it sees all");
    assert_eq!(outcome.kinds["json-log"][&Kind::CgroupCreated].filtered, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn cgroups_are_told_of_even_where_only_other_kinds_were_asked_for() {
    let line = Line::new();
    let settings = Settings { events: Some([Kind::Exec].into_iter().collect()), ..granted("{}") };
    let plugins = start(&line, &settings).await;
    assert!(plugins["containers"].queue.wanted().has(Kind::CgroupCreated));
    line.send(Columns { cgroup_created: vec![created(1, 9, "/box/a")], exec: vec![exec(2, 9)], ..Default::default() })
        .await;
    assert_eq!(ids(&line.finish(plugins).await), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_from_a_container_is_stamped() {
    let line = Line::new();
    let (alerts, member) = line.start(("alerts", 2), &plugin("alerts"), "{}", None).await.unwrap();
    line.join(member).await;
    let mut plugins = start(&line, &granted("{}")).await;
    plugins.insert("alerts", alerts);
    let mut suspicious = exec(2, 9);
    (suspicious.exe, suspicious.filename) = ("/tmp/x".into(), "/tmp/x".into());
    line.send(Columns { cgroup_created: vec![created(1, 9, "/box/a")], exec: vec![suspicious], ..Default::default() })
        .await;
    let lines = line.finish(plugins).await.json();
    let names: Vec<_> = of_kind(&lines, "alert").map(|line| line["container"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["name-a"; 2], "by the host and by json-log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_without_its_grants_is_refused_with_the_remedy() {
    let line = Line::new();
    let refusal = async |grants| {
        let settings = Settings { grants, ..Default::default() };
        line.start_with(("containers", 0), &fixture(), &settings, None).await.err().unwrap().to_string()
    };
    let error = refusal(Grants::default()).await;
    assert!(
        error.contains("container-registry@") && error.contains("container-registry = true below [grants]"),
        "{error}"
    );
    let error = refusal(Grants { container_registry: true, ..Default::default() }).await;
    assert!(error.contains("wasi:http/") && error.contains("[grants.http]"), "{error}");
}

/// Runs the fixture with a config once, and gives what it printed of each call, read and write.
async fn tries(settings: Settings) -> Vec<Value> {
    let line = Line::new();
    let (containers, member) = line.start_with(("containers", 0), &fixture(), &settings, None).await.unwrap();
    line.join(member).await;
    line.send(Columns { exec: vec![exec(1, 1)], ..Default::default() }).await;
    let outcome = line.finish(BTreeMap::from([("containers", containers)])).await;
    let faults = outcome.plugins["containers"].counts.faults.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(faults, 0, "a server's misdeeds are no fault of the plugin");
    outcome.json()
}

/// A server that answers every request with the same bytes, and with so many more after them.
fn server(folder: &Folder, answer: &'static str, more: usize) -> String {
    let socket = folder.0.join("up.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            _ = stream.read(&mut [0; 4096]);
            _ = stream.write_all(answer.as_bytes());
            let piece = vec![b'x'; 1 << 20];
            (0..more >> 20).take_while(|_| stream.write_all(&piece).is_ok()).for_each(drop);
            if answer.is_empty() {
                std::mem::forget(stream); // Neither a word nor an end.
            }
        }
    });
    format!("unix://{}", socket.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_calls_the_servers_it_was_granted_and_gets_errors_from_bad_ones() {
    for (name, answer, more, result, bytes) in [
        ("good", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 0, "200", 5),
        ("short", "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nhello", 0, "error reading a body from connection", 0),
        ("flood", "HTTP/1.1 200 OK\r\n\r\n", 100 << 20, "HTTP response body size exceeds limit", 0),
        ("hang", "", 0, "ConnectionReadTimeout", 0),
    ] {
        let folder = Folder::new(&format!("upstream-{name}"));
        let mut settings = granted(r#"{"calls": [["GET", "up", "/a"], ["POST", "up", "/a"], ["GET", "other", "/a"]]}"#);
        // Waiting for a server that hangs is not running.
        settings.grants.add_http("up", &server(&folder, answer, more), None).unwrap();
        let lines = tries(settings).await;
        let call = |at: usize| (lines[at]["result"].as_str().unwrap(), lines[at]["bytes"].as_u64().unwrap());
        assert!(call(0).0.contains(result) && call(0).1 == bytes, "{name}: {lines:#?}");
        for at in [1, 2] {
            assert!(call(at).0.contains("HttpRequestDenied"), "{name}: {lines:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_reads_the_folders_it_was_granted_and_writes_nothing() {
    let folder = Folder::new("granted");
    let (inside, outside) = (folder.0.join("in"), folder.0.join("out"));
    for path in [&inside, &outside] {
        std::fs::create_dir(path).unwrap();
        std::fs::write(path.join("file"), "text").unwrap();
    }
    std::os::unix::fs::symlink(outside.join("file"), inside.join("link")).unwrap();
    let text = |path: &Path| path.display().to_string();
    let files = [inside.join("file"), outside.join("file"), inside.join("../out/file"), inside.join("link")]
        .map(|path| text(&path));
    let config = json!({"read": files, "write": text(&inside.join("new"))}).to_string();
    let mut settings = granted(&config);
    settings.grants.add_folder(&inside).unwrap();
    // One that is not there is no reason to do without the plugin.
    settings.grants.add_folder(&folder.0.join("missing")).unwrap();
    let lines = tries(settings).await;
    let results: Vec<_> = lines.iter().map(|line| line["result"].as_str().unwrap()).collect();
    assert_eq!(results[0], "text");
    assert!(results[1..].iter().all(|result| *result != "text" && *result != "done"), "{lines:#?}");
    assert!(!inside.join("new").exists());
    let lines = tries(granted(&config)).await;
    assert!(lines.iter().all(|line| line["result"] != "text"), "nothing is granted by default: {lines:#?}");
}
