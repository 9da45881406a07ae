//! The cache of machine code: whatever is wrong with a file there, its plugin is compiled anew.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use eunomia_host::compile::{Cache, Compiler};
use eunomia_host::plugin::{Compiled, Limits, Runtime};

use crate::support::{Folder, plugin};
use crate::wasm::renamed;

const HOST: &str = env!("CARGO_BIN_EXE_eunomia-host");

/// A program that compiles nothing, so that what is loaded with it has come from the cache.
const NOTHING: &str = "/bin/false";

fn load(program: &str, folder: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let runtime = Runtime::new(Compiler::new(Path::new(program), Some(Cache::open(folder)?)))?;
    Compiled::new(&runtime, bytes, &Limits::default()).map(|_| ())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t")
}

#[test]
fn a_plugin_is_compiled_once() {
    let folder = Folder::new("cache-once");
    let cache = folder.0.join("cache");
    let bytes = fs::read(plugin("quiet")).unwrap();
    assert!(load(NOTHING, &cache, &bytes).is_err(), "nothing compiles and nothing is kept");
    load(HOST, &cache, &bytes).unwrap();
    load(NOTHING, &cache, &bytes).unwrap();
    assert_eq!(files(&cache).len(), 1);
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o7777, 0o700);
    assert!(load(NOTHING, &cache, &renamed(&bytes, "other")).is_err(), "other bytes are another plugin");
}

#[test]
fn what_is_damaged_or_anothers_is_thrown_away_and_compiled_anew() {
    let folder = Folder::new("cache-damage");
    let cache = folder.0.join("cache");
    let bytes = fs::read(plugin("quiet")).unwrap();
    let other = fs::read(plugin("exec-stats")).unwrap();
    load(HOST, &cache, &other).unwrap();
    let others = files(&cache).remove(0);
    load(HOST, &cache, &bytes).unwrap();
    let file = files(&cache).into_iter().find(|file| *file != others).unwrap();
    let whole = fs::read(&file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        move |file: &Path| fs::write(file, &bytes).unwrap()
    };
    type Damage<'a> = (&'static str, Box<dyn Fn(&Path) + 'a>);
    let mut damages: Vec<Damage> = vec![
        ("a bit of the code", Box::new(flipped(whole.len() / 2))),
        ("a bit of the digest", Box::new(flipped(20))),
        ("a bit of the magic", Box::new(flipped(0))),
        ("nothing in it", Box::new(|file| fs::write(file, b"").unwrap())),
        ("cut off", Box::new(|file| fs::write(file, &whole[..whole.len() - 1]).unwrap())),
        ("longer", Box::new(|file| fs::write(file, [whole.as_slice(), b"x"].concat()).unwrap())),
        ("another plugin's code", Box::new(|file| _ = fs::copy(&others, file).unwrap())),
        ("a mode that lets others write", Box::new(|file| chmod(file, 0o666))),
        (
            "a link to a good file",
            Box::new(|file| {
                let target = folder.0.join("target");
                fs::rename(file, &target).unwrap();
                symlink(target, file).unwrap();
            }),
        ),
        (
            "a FIFO",
            Box::new(|file| {
                fs::remove_file(file).unwrap();
                assert!(std::process::Command::new("mkfifo").arg(file).status().unwrap().success());
            }),
        ),
    ];
    if is_root() {
        damages.push(("another owner", Box::new(|file| chown(file, Some(65_534), None).unwrap())));
    }
    for (what, damage) in damages {
        load(NOTHING, &cache, &bytes).unwrap_or_else(|error| panic!("before {what}: {error:#}"));
        damage(&file);
        assert!(load(NOTHING, &cache, &bytes).is_err(), "{what}: it is not run");
        load(HOST, &cache, &bytes).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert_eq!(fs::read(&file).unwrap(), whole, "{what}: it is kept anew, and the same");
    }
}

#[test]
fn a_folder_that_others_can_write_is_refused_with_the_remedy() {
    let folder = Folder::new("cache-folder");
    let cache = folder.0.join("cache");
    let refusal = || format!("{:#}", Cache::open(&cache).err().expect("it is refused"));
    fs::create_dir(&cache).unwrap();
    for mode in [0o777, 0o770, 0o702, 0o1777] {
        chmod(&cache, mode);
        assert!(refusal().contains("chmod go-w"), "{mode:o}: {}", refusal());
    }
    chmod(&cache, 0o755);
    Cache::open(&cache).unwrap();
    if is_root() {
        chown(&cache, Some(65_534), None).unwrap();
        assert!(refusal().contains("belongs to user 65534"), "{}", refusal());
        chown(&cache, Some(0), None).unwrap();
    }
    let target = folder.0.join("target");
    fs::rename(&cache, &target).unwrap();
    symlink(&target, &cache).unwrap();
    assert!(refusal().contains("no link"), "{}", refusal());
    fs::remove_file(&cache).unwrap();
    fs::write(&cache, "").unwrap();
    assert!(refusal().contains("must be a folder"), "{}", refusal());
}
