//! Plugins of one host that are narrowed to different names and cgroups, on the running kernel.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Folder, Host, can_load_bpf, plugin, until_none_is_left_out};

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
