//! Plugins of one host that are narrowed to different names and cgroups, on the running kernel.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use support::scrape::{host, scrape, sum, until};
use support::{Folder, Host, can_load_bpf, note_skipped, plugin, until_none_is_left_out};

/// Programs run with the name wanted, and in each of the cgroups wanted.
const NAMED: usize = 20;
const INSIDE: usize = 10;

#[test]
fn each_plugin_gets_the_events_of_its_own_name_or_cgroup_to_the_last_one() {
    if !can_load_bpf() {
        return;
    }
    until_none_is_left_out(narrowed);
}

fn narrowed() {
    let trees = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let tree = trees.iter().find(|tree| Path::new(tree).join("cgroup.procs").exists()).expect("a unified tree");
    let cgroup = format!("eunomia-narrow-own-{}", std::process::id());
    let outer = Path::new(tree).join(&cgroup);
    let (early, late) = (outer.join("early"), outer.join("late"));
    fs::create_dir_all(&early).unwrap();
    let folder = Folder::new("narrow");
    let name = format!("eun-{}", std::process::id());
    let program = folder.0.join(&name);
    fs::copy("/bin/true", &program).unwrap();
    let narrowed = |plugin_name: &str, narrow: &str| {
        let file = folder.0.join(plugin_name).with_extension("wasm");
        fs::copy(plugin("json-log"), &file).unwrap();
        fs::write(file.with_extension("toml"), format!("events = ['exec']\n[narrow]\n{narrow}\n")).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let by_name = narrowed("by-name", &format!("comms = ['{name}']"));
    let by_cgroup = narrowed("by-cgroup", &format!("cgroups = ['/{cgroup}']"));
    let by_both = narrowed("by-both", &format!("comms = ['{name}']\ncgroups = ['/{cgroup}']"));
    let host = Host::start(&["--plugin", &by_name, "--plugin", &by_cgroup, "--plugin", &by_both]);
    fs::create_dir(&late).unwrap();
    let run_in = |cgroup: &Path, program: &str| {
        let script = format!("echo $$ > {}/cgroup.procs; exec {program}", cgroup.display());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    };
    for _ in 0..INSIDE {
        run_in(&early, "/bin/true");
        run_in(&late, "/bin/true");
    }
    for _ in 0..NAMED {
        assert!(Command::new(&program).status().unwrap().success());
        Command::new("/bin/true").status().unwrap();
    }
    run_in(&early, program.to_str().unwrap());
    let (lines, summary) = host.stop();
    [&early, &late, &outer].into_iter().for_each(|cgroup| fs::remove_dir(cgroup).unwrap());
    let counts = |plugin: &str| {
        let plugin = &summary["plugins"][plugin];
        (plugin["seen"].as_u64().unwrap(), plugin["delivered"].as_u64().unwrap())
    };
    let (named, inside) = (NAMED as u64 + 1, 2 * INSIDE as u64 + 1);
    assert_eq!(counts("by-name"), (named, named));
    assert_eq!(counts("by-cgroup"), (inside, inside));
    assert_eq!(counts("by-both"), (1, 1));
    assert_eq!(lines.len() as u64, named + inside + 1);
    // What none of them wants does not leave the kernel; one event is of both the name and a cgroup wanted.
    assert_eq!(summary["sources"]["process"]["seen"], named + inside - 1);
}

/// Programs run of each name between two changes.
const BETWEEN: u64 = 10;

#[test]
fn the_kernel_sends_what_the_plugins_there_are_want_while_they_come_and_go() {
    if can_load_bpf() {
        until_none_is_left_out(come_and_go);
    }
}

fn come_and_go() {
    let (folder, programs) = (Folder::new("narrow-changes"), Folder::new("narrow-programs"));
    let program = |letter: char| programs.0.join(format!("eun{letter}-{}", std::process::id()));
    "abc".chars().for_each(|letter| _ = fs::copy("/bin/true", program(letter)).unwrap());
    let name = |letter: char| program(letter).file_name().unwrap().to_str().unwrap().to_owned();
    let of = |letter: char| format!("events = ['exec']\n[narrow]\ncomms = ['{}']\n", name(letter));
    let put = |plugin_name: &str, settings: &str| {
        folder.put(&format!("{plugin_name}.toml"), settings.as_bytes());
        folder.put(&format!("{plugin_name}.wasm"), &fs::read(plugin("count")).unwrap());
    };
    let run = |letter: char| assert!(Command::new(program(letter)).status().unwrap().success());
    let run_all = || "abc".chars().for_each(|letter| (0..BETWEEN).for_each(|_| run(letter)));
    put("first", &of('a'));
    put("wide", "events = ['exec']\n");
    let (mut host, address) = host(&["--plugin-dir", folder.0.to_str().unwrap()]);
    // How many events have left the kernel so far. Runs that it left out count as seen, whosever they were.
    let sent = || {
        let all = scrape(&address);
        let left_out = sum(&all, "eunomia_source_lost_events_total", &["source=\"process\"", "where=\"skipped\""]);
        note_skipped(left_out as u64);
        (sum(&all, "eunomia_source_seen_events_total", &["source=\"process\""]) - left_out) as u64
    };
    run_all();
    assert!(sent() >= 3 * BETWEEN, "while one wants all, all are sent");

    fs::remove_file(folder.0.join("wide.wasm")).unwrap();
    host.expect_log("plugin wide unloaded");
    let before = sent();
    run_all();
    assert_eq!(sent() - before, BETWEEN, "of the first name alone");

    put("second", &of('b'));
    host.expect_log("plugin second loaded");
    let before = sent();
    run_all();
    assert_eq!(sent() - before, 2 * BETWEEN, "of two names");

    // An exchange in the middle of what it wants.
    let before = sent();
    let (run_so_far, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let meanwhile = std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                run('a');
                run_so_far.fetch_add(1, Ordering::Relaxed);
            }
        });
        let running_on = || {
            let so_far = run_so_far.load(Ordering::Relaxed);
            until("they run on", || run_so_far.load(Ordering::Relaxed) > so_far + BETWEEN || runner.is_finished());
        };
        running_on();
        let bytes = fs::read(plugin("count")).unwrap();
        folder.put("first.wasm", &[&bytes[..], &[0, 2, 1, b'n']].concat());
        host.expect_log("plugin first exchanged");
        running_on();
        over.store(true, Ordering::Relaxed);
        runner.join().unwrap();
        run_so_far.load(Ordering::Relaxed)
    });
    assert_eq!(sent() - before, meanwhile, "all of the first name");

    // It wants others from now on.
    put("first", &of('c'));
    host.expect_log("plugin first exchanged");
    let before = sent();
    run_all();
    assert_eq!(sent() - before, 2 * BETWEEN, "of the second name and the third");

    fs::remove_file(folder.0.join("second.wasm")).unwrap();
    host.expect_log("plugin second unloaded");
    let before = sent();
    run_all();
    assert_eq!(sent() - before, BETWEEN, "of the third name alone");

    let (_, summary) = host.stop();
    let delivered = |plugin: &str| summary["plugins"][plugin]["delivered"].as_u64().unwrap();
    assert_eq!(delivered("first"), meanwhile + 5 * BETWEEN, "of all its versions");
    assert_eq!(delivered("second"), 2 * BETWEEN);
    assert!(delivered("wide") >= 3 * BETWEEN);
}
