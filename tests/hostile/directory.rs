//! A plugin directory that is changed carelessly, or by somebody who means harm.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eunomia_host::directory::{Change, Directory, Files, Operator};

use crate::beside::misbehave;
use crate::support::{Folder, Host, can_load_bpf, plugin};
use crate::wasm::renamed;

/// More than it takes for a change to be seen.
const A_WHILE: Duration = Duration::from_millis(1500);

const NOBODY: u32 = 65_534;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn json_log() -> Vec<u8> {
    fs::read(plugin("json-log")).unwrap()
}

fn start(folder: &Folder) -> Host {
    Host::start(&["--plugin-dir", folder.0.to_str().unwrap(), "--events", "exec"])
}

/// How many lines of the log hold a text.
fn count(host: &mut Host, text: &str) -> usize {
    host.log.extend(host.stderr.try_iter());
    host.log.iter().filter(|line| line.contains(text)).count()
}

fn sees_events(host: &mut Host) {
    Command::new("/bin/true").status().unwrap();
    host.expect("event of /bin/true", |event| event["filename"] == "/bin/true");
}

#[test]
fn a_file_that_is_no_plugin_of_the_operators_is_named_once_and_loaded_when_that_is_mended() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("foreign");
    let path = |name: &str| folder.0.join(name);
    folder.put("good.wasm", &json_log());
    let mut host = start(&folder);
    let elsewhere = Folder::new("foreign-elsewhere");
    let target = elsewhere.0.join("target.wasm");
    fs::write(&target, json_log()).unwrap();
    let mkfifo = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    type Case<'a> = (&'static str, Box<dyn Fn(&Path) + 'a>, &'static str, Option<Box<dyn Fn(&Path) + 'a>>);
    let cases: Vec<Case> = vec![
        ("link", Box::new(|at| symlink(&target, at).unwrap()), "no regular file", None),
        ("loop", Box::new(|at| symlink(at, at).unwrap()), "no regular file", None),
        ("fifo", Box::new(mkfifo), "no regular file", None),
        ("folder", Box::new(|at| fs::create_dir(at).unwrap()), "no regular file", None),
        (
            "device",
            Box::new(|at| assert!(Command::new("mknod").arg(at).args(["c", "1", "5"]).status().unwrap().success())),
            "no regular file",
            None,
        ),
        (
            "hard",
            Box::new(|at| fs::hard_link(&target, at).unwrap()),
            "2 names (hard links)",
            Some(Box::new(|_| fs::remove_file(&target).unwrap())),
        ),
        (
            "owner",
            Box::new(|at| {
                fs::write(at, json_log()).unwrap();
                chown(at, Some(NOBODY), None).unwrap();
            }),
            "belongs to user 65534",
            Some(Box::new(|at| chown(at, Some(0), None).unwrap())),
        ),
        (
            "writable",
            Box::new(|at| {
                fs::write(at, json_log()).unwrap();
                chmod(at, 0o666);
            }),
            "others than its owner can write it (mode 666); chmod go-w",
            Some(Box::new(|at| chmod(at, 0o644))),
        ),
        (
            "settings",
            Box::new(|at| {
                let settings = at.with_extension("toml");
                fs::write(&settings, "order = 1\n").unwrap();
                chmod(&settings, 0o622);
                fs::write(at, json_log()).unwrap();
            }),
            "they say what the plugin may do",
            Some(Box::new(|at| chmod(&at.with_extension("toml"), 0o600))),
        ),
        (
            "settings-link",
            Box::new(|at| {
                symlink("/etc/passwd", at.with_extension("toml")).unwrap();
                fs::write(at, json_log()).unwrap();
            }),
            "it is a link; copy the file itself there",
            Some(Box::new(|at| fs::remove_file(at.with_extension("toml")).unwrap())),
        ),
    ];
    for (name, make, why, mend) in cases {
        let file = path(&format!("{name}.wasm"));
        make(&file);
        let said = host.expect_log(&format!("{name}.wasm is not loaded"));
        assert!(said.contains(why), "{name}: {said}");
        std::thread::sleep(A_WHILE);
        assert_eq!(count(&mut host, &format!("{name}.wasm is not loaded")), 1, "{name}: it is said once");
        if let Some(mend) = mend {
            mend(&file);
            host.expect_log(&format!("plugin {name} loaded"));
        }
    }
    sees_events(&mut host);
    host.stop();
}

#[test]
fn names_that_editors_and_package_managers_use_meanwhile_are_left_alone() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("temporary");
    folder.put("good.wasm", &json_log());
    for name in [
        ".good.wasm.swp",
        ".#good.wasm",
        "#good.wasm#",
        "good.wasm~",
        "good.wasm.dpkg-new",
        "good.wasm;5f3759df",
        "good.wasm.part",
        ".good.wasm",
        ".wasm",
        "good.wasm.rpmnew",
        "4913",
    ] {
        fs::write(folder.0.join(name), b"half of").unwrap();
    }
    fs::write(folder.0.join("bad\nforged.wasm"), b"forged").unwrap();
    let mut host = start(&folder);
    std::thread::sleep(A_WHILE);
    assert_eq!(count(&mut host, "is not loaded"), 1, "{:#?}", host.log);
    assert_eq!(count(&mut host, "bad\\nforged.wasm is not loaded: its name"), 1, "{:#?}", host.log);
    assert_eq!(count(&mut host, "plugins: good"), 1, "{:#?}", host.log);
    host.stop();
}

#[test]
fn a_slow_copy_is_loaded_when_it_is_whole() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("slow");
    folder.put("good.wasm", &json_log());
    let mut host = start(&folder);
    let bytes = json_log();
    for name in ["renamed.wasm.new", "in-place.wasm"] {
        let mut file = fs::File::create(folder.0.join(name)).unwrap();
        for part in bytes.chunks(bytes.len() / 8) {
            file.write_all(part).unwrap();
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    fs::rename(folder.0.join("renamed.wasm.new"), folder.0.join("renamed.wasm")).unwrap();
    host.expect_log("plugin renamed loaded");
    if count(&mut host, "plugin in-place loaded") == 0 {
        host.expect_log("plugin in-place loaded");
    }
    assert_eq!(count(&mut host, "is not loaded"), 0, "{:#?}", host.log);
    host.stop();
}

#[test]
fn a_directory_that_others_can_change_is_refused_with_the_remedy() {
    let folder = Folder::new("parents");
    let inner = folder.0.join("a/plugins");
    fs::create_dir_all(&inner).unwrap();
    let refusal =
        |path: &Path| format!("{:#}", Directory::new(path, Operator::of_this_process()).err().expect("it is refused"));
    Directory::new(&inner, Operator::of_this_process()).unwrap();
    for (path, mode) in [(&inner, 0o777), (&inner, 0o1777), (&folder.0.join("a"), 0o777), (&folder.0, 0o757)] {
        chmod(path, mode);
        let said = refusal(&inner);
        assert!(said.contains("chmod go-w") && said.contains(path.to_str().unwrap()), "{said}");
        chmod(path, 0o755);
    }
    // As /tmp is, in which all these are: nobody can move what is another's.
    chmod(&folder.0, 0o1777);
    Directory::new(&inner, Operator::of_this_process()).unwrap();
    chmod(&folder.0, 0o755);
    if can_load_bpf() {
        chown(folder.0.join("a"), Some(NOBODY), None).unwrap();
        assert!(refusal(&inner).contains("belongs to user 65534"));
        // Nor by way of a link that is somebody else's, even to a good place.
        let link = folder.0.join("link");
        let good = folder.0.join("good");
        fs::create_dir(&good).unwrap();
        symlink(&good, &link).unwrap();
        Directory::new(&link, Operator::of_this_process()).unwrap();
        std::os::unix::fs::lchown(&link, Some(NOBODY), None).unwrap();
        let inside = link.join("plugins");
        fs::create_dir(good.join("plugins")).unwrap();
        assert!(refusal(&inside).contains("belongs to user 65534"), "{}", refusal(&inside));
        assert!(refusal(&link).contains("belongs to user 65534"), "{}", refusal(&link));
    }
}

#[test]
fn who_called_the_host_by_sudo_may_say_what_it_runs() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("sudo");
    folder.put("a.wasm", &json_log());
    for path in [folder.0.join("a.wasm"), folder.0.clone()] {
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        chmod(&path, 0o775); // As where each user has a group of their own.
    }
    let run = |caller: &str| {
        let mut host = Command::new(env!("CARGO_BIN_EXE_eunomia-host"));
        host.arg("--plugin-dir").arg(&folder.0).args(["--duration", "0.1"]).env("SUDO_UID", caller);
        let output = host.output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (ok, said) = run("65534");
    assert!(ok && said.contains("plugins: a"), "{said}");
    let (ok, said) = run("1000");
    assert!(!ok && said.contains("belongs to user 65534"), "{said}");
}

#[test]
fn what_was_looked_at_is_what_runs() {
    if !can_load_bpf() {
        return; // Needs files of another user.
    }
    let folder = Folder::new("exchange");
    let elsewhere = Folder::new("exchange-elsewhere");
    let file = folder.0.join("a.wasm");
    let evil = elsewhere.0.join("evil");
    fs::write(&evil, b"evil").unwrap();
    chown(&evil, Some(NOBODY), None).unwrap();
    folder.put("a.wasm", b"good");
    let mut directory = Directory::new(&folder.0, Operator::of_this_process()).unwrap();
    let found = loop {
        match directory.scan().pop() {
            Some(Change::Load(found)) => break found,
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, into, from) = (stop.clone(), file.clone(), folder.0.clone());
    let exchanging = std::thread::spawn(move || {
        let new = from.join(".new");
        for turn in 0.. {
            if stopped.load(Ordering::Relaxed) {
                return turn;
            }
            match turn % 4 {
                0 => symlink(&evil, &new).unwrap(),
                1 => fs::hard_link(&evil, &new).unwrap(),
                2 => {
                    fs::write(&new, b"evil").unwrap();
                    chown(&new, Some(NOBODY), None).unwrap();
                }
                _ => fs::write(&new, b"good").unwrap(),
            }
            fs::rename(&new, &into).unwrap();
        }
        0
    });
    let (mut good, mut refused) = (0, 0);
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        match found.read() {
            Ok(files) => {
                assert_eq!(files.plugin, b"good");
                good += 1;
            }
            Err(_) => refused += 1,
        }
    }
    stop.store(true, Ordering::Relaxed);
    let turns = exchanging.join().unwrap();
    assert!(good > 100 && refused > 100 && turns > 100, "{good} read, {refused} refused, {turns} exchanges");
}

#[test]
fn the_operators_word_counts_for_a_plugin_but_not_for_settings_that_were_not_named() {
    let folder = Folder::new("named");
    let (file, link) = (folder.0.join("a.wasm"), folder.0.join("b.wasm"));
    fs::write(&file, b"bytes").unwrap();
    symlink(&file, &link).unwrap();
    chmod(&file, 0o666);
    assert_eq!(
        Files::named(&link, Operator::of_this_process()).unwrap().plugin,
        b"bytes",
        "a link, and whoever may write"
    );
    assert!(Files::named(&link, Operator::of_this_process()).unwrap().settings.is_none());
    let settings = folder.0.join("b.toml");
    fs::write(&settings, "order = 1").unwrap();
    assert_eq!(Files::named(&link, Operator::of_this_process()).unwrap().settings.as_deref(), Some("order = 1"));
    chmod(&settings, 0o666);
    let refusal =
        |file: &Path| format!("{:#}", Files::named(file, Operator::of_this_process()).err().expect("it is refused"));
    assert!(refusal(&link).contains("b.toml") && refusal(&link).contains("chmod go-w"), "{}", refusal(&link));
    fs::remove_file(&settings).unwrap();
    assert!(refusal(&folder.0).contains("is a folder"), "{}", refusal(&folder.0));
    assert!(refusal(Path::new("/dev/zero")).contains("is a device"), "{}", refusal(Path::new("/dev/zero")));
    let fifo = folder.0.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(refusal(&fifo).contains("is a FIFO"), "nobody waits: {}", refusal(&fifo));
    let large = folder.0.join("large");
    fs::File::create(&large).unwrap().set_len(1 << 40).unwrap();
    assert!(refusal(&large).contains("the most that is read is 65 MiB"), "{}", refusal(&large));
}

#[test]
fn ten_thousand_renames_leave_the_last_version_running_and_no_file_open() {
    if !can_load_bpf() {
        return;
    }
    const RENAMES: usize = 10_000;
    let folder = Folder::new("renames");
    folder.put("10-beside.wasm", &json_log());
    let versions: Vec<Vec<u8>> = (0..4).map(|version| renamed(&json_log(), &format!("version {version}"))).collect();
    folder.put("20-often.wasm", &versions[0]);
    let mut host = start(&folder);
    sees_events(&mut host);
    let descriptors = |host: &Host| fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap().count();
    let before = descriptors(&host);
    for version in 0..RENAMES {
        folder.put("20-often.wasm", &versions[version % versions.len()]);
    }
    sees_events(&mut host);
    std::thread::sleep(A_WHILE);
    assert_eq!(count(&mut host, "20-often.wasm is not loaded"), 0, "{:#?}", host.log);
    assert!(count(&mut host, "20-often exchanged") > 0);
    let after = descriptors(&host);
    assert!(after <= before + 1, "{before} descriptors before, {after} after");
    // It has not lost its way: what comes now is followed as well.
    fs::remove_file(folder.0.join("20-often.wasm")).unwrap();
    host.expect_log("plugin 20-often unloaded");
    let (_, summary) = host.stop();
    assert_eq!(summary["plugins"]["10-beside"]["lost"], serde_json::json!({}), "{summary}");
    assert_eq!(summary["plugins"]["20-often"]["lost"], serde_json::json!({}), "{summary}");
}

#[test]
fn a_directory_that_goes_away_is_followed_when_it_is_there_again() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("goes");
    let path = folder.0.join("plugins");
    let put = |name: &str| {
        fs::write(folder.0.join(".new"), json_log()).unwrap();
        fs::rename(folder.0.join(".new"), path.join(name)).unwrap();
    };
    fs::create_dir(&path).unwrap();
    put("a.wasm");
    let mut host = Host::start(&["--plugin-dir", path.to_str().unwrap(), "--events", "exec"]);
    fs::rename(&path, folder.0.join("gone")).unwrap();
    host.expect_log("cannot read the plugin directory");
    sees_events(&mut host);
    std::thread::sleep(A_WHILE);
    assert_eq!(count(&mut host, "cannot read the plugin directory"), 1, "{:#?}", host.log);
    fs::create_dir(&path).unwrap();
    put("b.wasm");
    host.expect_log("plugin b loaded");
    // Another directory in its place, of which nothing was notified.
    fs::rename(&path, folder.0.join("old")).unwrap();
    fs::create_dir(&path).unwrap();
    put("c.wasm");
    host.expect_log("plugin c loaded");
    chmod(&path, 0o777);
    let said = host.expect_log("cannot read the plugin directory");
    assert!(said.contains("chmod go-w"), "{said}");
    put("d.wasm");
    std::thread::sleep(A_WHILE);
    assert_eq!(count(&mut host, "plugin d loaded"), 0, "{:#?}", host.log);
    chmod(&path, 0o755);
    host.expect_log("plugin d loaded");
    host.stop();
}

#[test]
fn a_new_version_that_cannot_run_leaves_the_old_one_running() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("versions");
    folder.put("a.wasm", &json_log());
    let mut host = start(&folder);
    let misbehave = fs::read(misbehave()).unwrap();
    folder.put("a.toml", b"[config]\ndeed = 'start-fails'\n");
    host.expect_log("a exchanged for its new version");
    for (bytes, why) in [
        (misbehave.as_slice(), "its start function says: it will not"),
        (&misbehave[..misbehave.len() / 2], "copy it whole"),
        (b"\0asm\x01\0\0\0", "core WebAssembly module"),
    ] {
        folder.put("a.wasm", bytes);
        let said = host.expect_log(why);
        assert!(said.contains("the version before it goes on"), "{said}");
        sees_events(&mut host);
    }
    fs::remove_file(folder.0.join("a.toml")).unwrap();
    folder.put("a.wasm", &renamed(&json_log(), "new"));
    host.expect_log("a exchanged for its new version");
    sees_events(&mut host);
    host.stop();
}

/// A new version that starts and then fails: the one before is back, with the events that it wants and the new one does not.
#[test]
fn a_new_version_that_fails_soon_gives_its_place_back() {
    if !can_load_bpf() {
        return;
    }
    let folder = Folder::new("follow-back");
    folder.put("p.wasm", &json_log());
    let mut host = Host::start(&["--plugin-dir", folder.0.to_str().unwrap(), "--comm", "true"]);
    sees_events(&mut host);
    folder.put("p.toml", b"[config]\ndeed = 'trap'\n");
    folder.put("p.wasm", &fs::read(misbehave()).unwrap());
    host.expect_log("exchanged");
    // It fails with the first system call of a program of that name, and wants to know of no ends.
    Command::new("/bin/true").status().unwrap();
    let line = host.expect_log("The version before is back");
    assert!(line.contains("plugin p: its new version fails") && line.contains("it trapped"), "{line}");
    host.expect_log("source tcp attached");
    sees_events(&mut host);
    let (_, summary) = host.stop();
    let p = &summary["plugins"]["p"];
    assert_eq!((&p["faults"], &p["state"]), (&1.into(), &"stopped".into()), "{summary}");
    let lost = p["lost"].as_object().unwrap();
    assert!(lost.keys().all(|place| place == "fault"), "only what the failed call had: {summary}");
}
