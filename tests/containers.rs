//! Which container an event happened in, told of real engines' containers.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use support::can_load_bpf;
use support::engines::{Containerd, Docker, Podman, Runc};
use support::ground::{IMAGE, Traces};
use support::mapped::{Granted, Mapped, with_word};

/// Containers in a row.
const IN_A_ROW: usize = 200;

/// How soon an engine that is back has to be used again.
const RECOVERY: Duration = Duration::from_secs(5);

/// A command that runs three programs with this word among their arguments.
fn three(word: &str) -> [String; 3] {
    ["sh".into(), "-c".into(), format!("/bin/true {word}; exec /bin/true {word}")]
}

/// A command that runs a program with this word ten times a second.
fn often(word: &str) -> [String; 3] {
    ["sh".into(), "-c".into(), format!("while true; do /bin/true {word}; sleep 0.1; done")]
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

/// An id as engines make them, for containers that a test names itself.
fn hex_id(number: u32) -> String {
    format!("{:08x}{number:056x}", std::process::id())
}

/// The id, the name and the image of an event's container.
fn container(event: &Value) -> (&str, &str, &str) {
    let text = |key: &str| event["container"][key].as_str().unwrap_or("none");
    (text("id"), text("name"), text("image"))
}

fn docker_alone(socket: String) -> Granted {
    Granted { docker: Some(socket), ..Default::default() }
}

#[test]
fn every_event_of_two_hundred_containers_of_docker_names_its_container() {
    if !can_load_bpf() {
        return;
    }
    let mut docker = Docker::start();
    let mapped = Mapped::start("row-docker", &docker_alone(docker.socket()), &[]);
    let ids: Vec<String> = (0..IN_A_ROW)
        .map(|number| docker.run(&["--name", &format!("c-{number}")], &words(&three(&format!("w-{number}")))))
        .collect();
    docker.call(&["wait", &format!("c-{}", IN_A_ROW - 1)]);
    let (printed, _) = mapped.stop();
    for (number, id) in ids.iter().enumerate() {
        let events = with_word(&printed, &format!("w-{number}"));
        assert_eq!(events.len(), 3, "three programs ran in container {number}: {events:?}");
        let name = format!("c-{number}");
        for event in events {
            assert_eq!(container(event), (id.as_str(), name.as_str(), IMAGE), "{event}");
        }
    }
    let others = printed.iter().filter(|event| event["exe"].as_str().is_some_and(|exe| exe.ends_with("/docker")));
    let (alone, within): (Vec<_>, Vec<_>) = others.partition(|event| event["container"].is_null());
    assert!(alone.len() >= IN_A_ROW && within.is_empty(), "the host's own programs are in none: {within:?}");
}

#[test]
fn every_event_of_two_hundred_containers_of_containerd_has_its_id() {
    if !can_load_bpf() {
        return;
    }
    let mut containerd = Containerd::start();
    // The folder has to be there for the plugin to be granted it.
    let granted = Granted { containerd: vec![containerd.state()], ..Default::default() };
    let mapped = Mapped::start("row-containerd", &granted, &[]);
    let id = |number: usize| format!("eunomia-{}-{number}", std::process::id());
    for number in 0..IN_A_ROW {
        containerd.run(&id(number), &words(&three(&format!("w-{number}"))));
    }
    containerd.wait(&id(IN_A_ROW - 1));
    let (printed, _) = mapped.stop();
    for number in 0..IN_A_ROW {
        let events = with_word(&printed, &format!("w-{number}"));
        assert_eq!(events.len(), 3, "three programs ran in container {number}: {events:?}");
        for event in events {
            assert_eq!(container(event), (id(number).as_str(), "", ""), "{event}");
            assert_eq!(event["container"]["engine"], "containerd", "{event}");
        }
    }
}

#[test]
fn narrowed_to_a_container_only_that_is_seen_also_when_it_starts_later() {
    if !can_load_bpf() {
        return;
    }
    let mut docker = Docker::start();
    let first = docker.run(&["--name", "web"], &words(&often("w-web")));
    docker.run(&["--name", "other"], &words(&often("w-other")));
    let mut mapped = Mapped::start("narrowed", &docker_alone(docker.socket()), &["--container", "web"]);
    mapped.expect("w-web", |event| container(event) == (&first, "web", IMAGE));
    docker.call(&["rm", "-f", "web"]);
    docker.run(&["--name", "third"], &words(&often("w-other")));
    let second = docker.run(&["--name", "web"], &words(&often("w-web")));
    mapped.expect("w-web", |event| container(event) == (&second, "web", IMAGE));
    std::thread::sleep(Duration::from_millis(500));
    let (printed, _) = mapped.stop();
    let of_second = with_word(&printed, "w-web").into_iter().filter(|event| container(event).0 == second);
    let first_of_second = of_second.map(|event| &event["args"][0]).next();
    assert_eq!(first_of_second, Some(&"sh".into()), "its very first program is seen, too");
    for event in printed.iter().filter(|event| event["kind"] == "exec") {
        assert_eq!(container(event).1, "web", "{event}");
    }
}

#[test]
fn containers_that_were_there_before_and_are_renamed_paused_and_restarted() {
    if !can_load_bpf() {
        return;
    }
    let mut docker = Docker::start();
    let id = docker.run(&["--name", "old", "--label", "team=a"], &words(&often("w-old")));
    let granted = Granted { containerd: vec![docker.state()], ..docker_alone(docker.socket()) };
    let mut mapped = Mapped::start_with_all("life", &granted);
    let (event, _) = mapped.expect("w-old", |_| true);
    assert_eq!(container(&event), (id.as_str(), "old", IMAGE), "known before its first event is seen");
    assert_eq!(event["container"]["labels"]["team"], "a", "{event}");
    let pid: u64 = docker.call(&["inspect", "-f", "{{.State.Pid}}", "old"]).parse().unwrap();
    mapped.expect("w-old", |event| event["container"]["pid"] == pid);

    docker.call(&["rename", "old", "new"]);
    let (_, took) = mapped.expect("w-old", |event| container(event).1 == "new");
    assert!(took < RECOVERY, "{took:?}");

    docker.call(&["pause", "new"]);
    std::thread::sleep(Duration::from_secs(3));
    docker.call(&["unpause", "new"]);
    mapped.expect("w-old", |event| event["container"]["state"] == "paused");
    mapped.expect("w-old", |event| event["container"]["state"] == "running");

    docker.call(&["restart", "-t", "0", "new"]);
    let cgroup = event["cgroup"].clone();
    assert_eq!(event["container"]["cgroup"], cgroup);
    let (again, _) = mapped.expect("w-old", |event| event["cgroup"] != cgroup);
    assert_eq!(container(&again), (id.as_str(), "new", IMAGE), "the first event after the restart");
    let (printed, _) = mapped.stop();
    for event in with_word(&printed, "w-old") {
        assert_eq!(container(event).0, id, "{event}");
    }
}

#[test]
fn containers_killed_while_they_start_are_not_taken_for_others() {
    if !can_load_bpf() {
        return;
    }
    let mut docker = Docker::start();
    let mapped = Mapped::start("killed", &docker_alone(docker.socket()), &[]);
    let mut ids = vec![];
    for number in 0..12 {
        let name = format!("c-{number}");
        let id = docker.create(&["--name", &name], &words(&often(&format!("w-{number}"))));
        let mut start = docker.client();
        let start = start.args(["start", &name]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        std::thread::sleep(Duration::from_millis(25 * number));
        // Its start fails or it is killed afterwards, as it happens; what counts is what events say.
        let killed = docker.client().args(["rm", "-f", &name]).output().unwrap();
        _ = start.unwrap().wait();
        assert!(killed.status.success(), "{killed:?}");
        ids.push(id);
    }
    let (printed, _) = mapped.stop();
    let mut seen = 0;
    for (number, id) in ids.iter().enumerate() {
        for event in with_word(&printed, &format!("w-{number}")) {
            seen += 1;
            assert_eq!(container(event).0, id, "{event}");
        }
    }
    assert!(seen > 0, "some lived long enough to run something");
}

#[test]
fn of_nested_containers_the_innermost_is_named_with_those_around_it() {
    if !can_load_bpf() {
        return;
    }
    let mut runc = Runc::new();
    let mut mapped = Mapped::start_with_all("nested", &Granted::default());
    let (outer, inner) = (hex_id(1), hex_id(2));
    let command = often("w-outer");
    runc.run(&outer, Some(&format!("/docker/{outer}")), &words(&command));
    runc.run(&inner, Some(&format!("/docker/{outer}/docker/{inner}")), &words(&often("w-inner")));
    runc.run("eunomia-below", Some(&format!("/docker/{outer}/init.scope")), &words(&often("w-below")));
    mapped.expect("w-below", |_| true);
    let (event, _) = mapped.expect("w-inner", |_| true);
    assert_eq!(event["container"]["parents"], serde_json::json!([outer]), "{event}");
    let (printed, _) = mapped.stop();
    for (word, id) in [("w-outer", &outer), ("w-inner", &inner), ("w-below", &outer)] {
        let events = with_word(&printed, word);
        assert!(!events.is_empty(), "{word}");
        for event in events {
            assert_eq!((container(event).0, &event["container"]["engine"]), (id.as_str(), &"docker".into()), "{event}");
        }
    }
}

#[test]
fn containers_of_podman_and_of_runc_alone() {
    if !can_load_bpf() {
        return;
    }
    let mut podman = Podman::start();
    let mut runc = Runc::new();
    std::fs::create_dir_all(runc.state()).unwrap();
    let granted = Granted {
        podman: Some(podman.socket()),
        runc: vec![runc.state()],
        storage: vec![podman.storage()],
        ..Default::default()
    };
    let mapped = Mapped::start("others", &granted, &[]);
    let ids: Vec<String> =
        (0..10).map(|number| podman.run(&format!("p-{number}"), &words(&three(&format!("w-{number}"))))).collect();
    let plain = format!("eunomia-plain-{}", std::process::id());
    runc.run(&plain, None, &words(&often("w-plain")));
    std::thread::sleep(Duration::from_millis(500));
    let (printed, _) = mapped.stop();
    for (number, id) in ids.iter().enumerate() {
        let events = with_word(&printed, &format!("w-{number}"));
        assert_eq!(events.len(), 3, "three programs ran in container {number}: {events:?}");
        for event in events {
            let (of, name, image) = container(event);
            assert_eq!((of, name), (id.as_str(), format!("p-{number}").as_str()), "{event}");
            assert!(image.ends_with(IMAGE), "{event}");
        }
    }
    let events = with_word(&printed, "w-plain");
    assert!(!events.is_empty());
    for event in events {
        assert_eq!((container(event).0, &event["container"]["engine"]), (plain.as_str(), &"runc".into()), "{event}");
    }
}

#[test]
fn a_daemon_that_is_killed_and_comes_back() {
    if !can_load_bpf() {
        return;
    }
    let mut docker = Docker::start();
    let mut runc = Runc::new();
    let web = docker.run(&["--name", "web"], &words(&often("w-web")));
    let mut mapped = Mapped::start("outage", &docker_alone(docker.socket()), &[]);
    mapped.expect("w-web", |event| container(event) == (&web, "web", IMAGE));

    docker.kill();
    mapped.said("docker cannot be asked");
    // What is known stays known, and what comes now is known by its path.
    mapped.expect("w-web", |event| container(event) == (&web, "web", IMAGE));
    let id = hex_id(3);
    runc.run(&id, Some(&format!("/docker/{id}")), &words(&three("w-new")));
    let (event, _) = mapped.expect("w-new", |_| true);
    assert_eq!(container(&event), (id.as_str(), "", ""), "{event}");
    // Long enough for a second warning, if there were one.
    std::thread::sleep(Duration::from_secs(3));

    docker.restart();
    let back = std::time::Instant::now();
    mapped.said("docker answers again");
    assert!(back.elapsed() < RECOVERY, "{:?}", back.elapsed());
    let next = docker.run(&["--name", "next"], &words(&three("w-next")));
    docker.call(&["wait", "next"]);
    let log = mapped.log();
    let (printed, _) = mapped.stop();
    let events = with_word(&printed, "w-next");
    assert_eq!(events.len(), 3);
    for event in events {
        assert_eq!(container(event), (next.as_str(), "next", IMAGE), "{event}");
    }
    for event in with_word(&printed, "w-web") {
        assert_eq!(container(event), (web.as_str(), "web", IMAGE), "{event}");
    }
    assert_eq!(log.iter().filter(|line| line.contains("cannot be asked")).count(), 1, "{log:#?}");
}

/// What stands in for an engine that misbehaves, which a real one cannot be made to do.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Engine {
    Absent,
    Hangs,
    CutsShort,
    Floods,
}

#[test]
fn engines_that_are_absent_hang_cut_short_or_flood_harm_nobody() {
    if !can_load_bpf() {
        return;
    }
    for engine in [Engine::Absent, Engine::Hangs, Engine::CutsShort, Engine::Floods] {
        let mut runc = Runc::new();
        let socket = runc.ground.text("docker.sock");
        if engine != Engine::Absent {
            misbehave(engine, UnixListener::bind(&socket).unwrap());
        }
        let mut mapped = Mapped::start("misbehaves", &docker_alone(socket), &[]);
        let ids: Vec<String> = (10..15).map(hex_id).collect();
        for (number, id) in ids.iter().enumerate() {
            runc.run(id, Some(&format!("/docker/{id}")), &words(&three(&format!("w-{number}"))));
        }
        mapped.said("docker cannot be asked");
        std::thread::sleep(Duration::from_secs(3));
        let log = mapped.log();
        let (printed, summary) = mapped.stop();
        for (number, id) in ids.iter().enumerate() {
            let events = with_word(&printed, &format!("w-{number}"));
            assert_eq!(events.len(), 3, "{engine:?}: {events:?}");
            for event in events {
                assert_eq!(container(event), (id.as_str(), "", ""), "{engine:?}: {event}");
            }
        }
        assert_eq!(log.iter().filter(|line| line.contains("cannot be asked")).count(), 1, "{engine:?}: {log:#?}");
        assert_eq!(summary["plugins"]["container-map"]["lost"], serde_json::json!({}), "{engine:?}: {summary}");
    }
}

/// Serves until the test's process ends.
fn misbehave(engine: Engine, listener: UnixListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut stream = stream;
                _ = stream.read(&mut [0; 4096]);
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 104857600\r\n\r\n[";
                match engine {
                    Engine::Absent | Engine::Hangs => std::thread::sleep(Duration::from_secs(60)),
                    Engine::CutsShort => _ = stream.write_all(head.as_bytes()),
                    Engine::Floods => {
                        _ = stream.write_all(head.as_bytes());
                        while stream.write_all(&[b' '; 65_536]).is_ok() {}
                    }
                }
            });
        }
    });
}

#[test]
fn engines_leave_nothing_behind_even_after_a_panic() {
    if !can_load_bpf() {
        return;
    }
    let mut traces: Vec<Traces> = vec![];
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut docker = Docker::start();
        docker.run(&["--name", "web"], &["sleep", "600"]);
        let mut containerd = Containerd::start();
        containerd.run("eunomia-left", &["sleep", "600"]);
        let mut podman = Podman::start();
        podman.run("web", &["sleep", "600"]);
        let mut runc = Runc::new();
        runc.run("eunomia-left-runc", None, &["sleep", "600"]);
        traces.extend([&docker.ground, &containerd.ground, &podman.ground, &runc.ground].map(|one| one.traces.clone()));
        for one in &traces {
            for kind in ["process", "cgroup"] {
                assert!(one.left().iter().any(|left| left.starts_with(kind)), "a {kind} is among {:?}", one.left());
            }
        }
        std::panic::resume_unwind(Box::new("as a failed test does"));
    }));
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"as a failed test does"), "the engines ran");
    for one in traces {
        assert_eq!(one.left(), Vec::<String>::new());
    }
}
