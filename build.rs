//! Compiles every `bpf/NAME.bpf.c` to an object, and takes the C layouts that the host decodes from its BTF.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libbpf_cargo::SkeletonBuilder;

/// Compilers to look for when the environment's CLANG names none, best first.
const CLANGS: &[&str] = &["clang-19", "clang", "clang-18", "clang-17", "clang-16", "clang-15", "clang-14"];

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let clang = clang();
    let sources = fs::read_dir("bpf").expect("the folder bpf is part of the package");
    for source in sources.map(|entry| entry.expect("the folder can be read").path()) {
        let name = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(name) = name.strip_suffix(".bpf.c") {
            build(&clang, &source, &out, name);
        }
    }
}

fn build(clang: &str, source: &Path, out: &Path, name: &str) {
    let skeleton = out.join(format!("{name}.skel.rs"));
    SkeletonBuilder::new()
        .source(source)
        .obj(out.join(format!("{name}.bpf.o")))
        .clang(clang)
        .clang_args([format!("-D__TARGET_ARCH_{}", target()).as_str(), "-Wall", "-Werror", "-I", "bpf"])
        .reference_obj(true)
        .build_and_generate(&skeleton)
        .unwrap_or_else(|error| panic!("{}: {error:#}", source.display()));
    let skeleton = fs::read_to_string(skeleton).expect("it was just written");
    fs::write(out.join(format!("{name}.types.rs")), types(&skeleton)).expect("OUT_DIR can be written");
}

/// The body of the skeleton's module `types`: layouts alone, for a decoder that is to know nothing of libbpf.
fn types(skeleton: &str) -> &str {
    const START: &str = "pub mod types {";
    let start = skeleton.find(START).expect("a skeleton has a module of types") + START.len();
    let mut depth = 1;
    let length = skeleton[start..].find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0
    });
    let body = &skeleton[start..start + length.expect("braces are balanced")];
    body.trim_start().trim_start_matches("#[allow(unused_imports)]").trim_start().trim_start_matches("use super::*;")
}

/// The target's name as libbpf's headers spell it.
fn target() -> String {
    match env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it").as_str() {
        "x86_64" => "x86".into(),
        "aarch64" => "arm64".into(),
        "powerpc64" => "powerpc".into(),
        "riscv64" => "riscv".into(),
        "s390x" => "s390".into(),
        other => other.into(),
    }
}

fn clang() -> String {
    if let Ok(clang) = env::var("CLANG") {
        return clang;
    }
    let works = |name: &&&str| {
        Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    let found = CLANGS.iter().find(works);
    found.map(|name| (*name).to_owned()).unwrap_or_else(|| {
        panic!(
            "no clang was found, which compiles the BPF programs: `make setup` installs it, or set CLANG to its path"
        )
    })
}
