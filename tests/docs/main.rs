//! The pages that repeat what stands elsewhere: docs/events.md is generated from the WIT package,
//! docs/sources.md from the host's table and what was tested in virtual machines, and the README's plugin
//! is the SDK's example, and works as printed. `UPDATE_DOCS=1 cargo test --release --test docs` writes the page anew.

mod events;
mod sources;

use std::fs;
use std::path::Path;
use std::process::Command;

use wit_parser::{Resolve, SourceMap};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The package in wit/.
fn package() -> Resolve {
    let mut sources = SourceMap::new();
    let entries = fs::read_dir(root().join("wit")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "wit")) {
        sources.push_str(&file.display().to_string(), fs::read_to_string(file).unwrap());
    }
    let mut resolve = Resolve::default();
    resolve
        .push_group(sources.parse().unwrap_or_else(|(sources, error)| panic!("{}", error.render(&sources))))
        .unwrap();
    resolve
}

#[test]
fn events_page_is_what_the_interface_says() {
    compare("docs/events.md", &events::page(package()));
}

#[test]
fn sources_page_is_what_the_host_says() {
    let found = fs::read_to_string(root().join("docs/sources.md")).unwrap_or_default();
    let covered = std::env::var_os("EUNOMIA_COVERED").map(|path| fs::read_to_string(path).unwrap());
    compare("docs/sources.md", &sources::page(&found, covered.as_deref()));
}

/// A page must be as it is made here.
fn compare(name: &str, made: &str) {
    let file = root().join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, made).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    let differs = made.lines().zip(found.lines()).position(|(made, found)| made != found);
    let line = differs.unwrap_or(made.lines().count().min(found.lines().count())) + 1;
    assert!(made == found, "{name} is out of date from line {line} on: UPDATE_DOCS=1 cargo test --release --test docs");
}

/// A block of the README in this language, of which there is one.
fn block(language: &str) -> String {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let begin = format!("\n```{language}\n");
    let mut blocks = readme.split(&begin).skip(1).filter_map(|rest| rest.split_once("```").map(|(block, _)| block));
    let (block, next) = (blocks.next(), blocks.next());
    assert!(block.is_some() && next.is_none(), "the README has one block of {language}");
    block.unwrap().to_owned()
}

#[test]
fn the_readmes_plugin_is_the_sdks_example() {
    let sdk = fs::read_to_string(root().join("sdk/rust/src/lib.rs")).unwrap();
    let page = sdk.lines().map_while(|line| line.strip_prefix("//!"));
    let example = page.skip_while(|line| *line != " ```no_run").skip(1).take_while(|line| *line != " ```");
    let example: String = example.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect();
    assert_eq!(block("rust"), example, "the README shows the first example of sdk/rust/src/lib.rs");
}

/// As the README says: a crate beside the repository.
#[test]
fn the_readmes_plugin_builds_and_runs_as_printed() {
    let beside = std::env::temp_dir().join(format!("eunomia-readme-{}", std::process::id()));
    let folder = beside.join("root-shells");
    fs::create_dir_all(folder.join("src")).unwrap();
    std::os::unix::fs::symlink(root(), beside.join("eunomia-host")).unwrap();
    let package = "[package]\nname = \"root-shells\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n";
    fs::write(folder.join("Cargo.toml"), package.to_owned() + &block("toml")).unwrap();
    fs::write(folder.join("src/lib.rs"), block("rust")).unwrap();
    // The versions that are here already.
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();

    let target = root().join("target");
    let build = Command::new(env!("CARGO"))
        .args(["build", "--release", "--target", "wasm32-wasip2"])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .unwrap();
    fs::remove_dir_all(&beside).unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));

    let plugin = target.join("wasm32-wasip2/release/root_shells.wasm");
    let inspect = Command::new(env!("CARGO_BIN_EXE_eunomia-host")).arg("inspect").arg(plugin).output().unwrap();
    let text = String::from_utf8(inspect.stdout).unwrap();
    assert!(text.contains("handles   exec") && text.contains("this host runs it"), "{text}");
}
