//! Compiles every `bpf/NAME.bpf.c` to an object, and takes the layouts of the records in `bpf/NAME.h` from their BTF.

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
    let mut headers = Vec::new();
    let mut files: Vec<PathBuf> = fs::read_dir("bpf")
        .expect("the folder bpf is part of the package")
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    files.sort();
    for file in &files {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name.split_once('.') {
            Some((name, "bpf.c")) => _ = build(&clang, file, &out, name),
            Some((name, "h")) if name != "kernel" => headers.push(file.clone()),
            _ => {}
        }
    }
    let layouts = out.join("layouts.bpf.c");
    fs::write(&layouts, keep_types(&headers)).expect("OUT_DIR can be written");
    let skeleton = build(&clang, &layouts, &out, "layouts");
    fs::write(out.join("layouts.rs"), types(&skeleton)).expect("OUT_DIR can be written");
}

/// Compiles a file to `OUT_DIR/NAME.bpf.o`. Returns its skeleton.
fn build(clang: &str, source: &Path, out: &Path, name: &str) -> String {
    let skeleton = out.join(format!("{name}.skel.rs"));
    SkeletonBuilder::new()
        .source(source)
        .obj(out.join(format!("{name}.bpf.o")))
        .clang(clang)
        // A flat record is filled by its fields, and sent by what every record begins with.
        .clang_args([
            format!("-D__TARGET_ARCH_{}", target()).as_str(),
            "-fno-strict-aliasing",
            "-Wall",
            "-Werror",
            "-I",
            "bpf",
        ])
        .reference_obj(true)
        .build_and_generate(&skeleton)
        .unwrap_or_else(|error| panic!("{}: {error:#}", source.display()));
    fs::read_to_string(skeleton).expect("it was just written")
}

/// A program that does nothing but name every struct and enum of the headers. A type that only a ring buffer's records
/// have is left out of a program's BTF, and the layouts are made from that.
fn keep_types(headers: &[PathBuf]) -> String {
    let mut text = String::from("#include \"kernel.h\"\n");
    let mut keeps = String::new();
    for header in headers {
        let name = header.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        text += &format!("#include \"{name}\"\n");
        let lines = fs::read_to_string(header).expect("it is there");
        for definition in lines.lines().filter_map(|line| line.strip_suffix(" {")) {
            if definition.starts_with("struct ") || definition.starts_with("enum ") {
                keeps += &format!("{definition} *keep_{};\n", definition.replace(' ', "_"));
            }
        }
    }
    text + &keeps
}

/// The body of a skeleton's module `types`: layouts alone, for a decoder that is to know nothing of libbpf.
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
        let run = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    };
    CLANGS.iter().find(works).map(|name| (*name).to_owned()).unwrap_or_else(|| {
        panic!(
            "no clang was found, which compiles the BPF programs: `make setup` installs it, or set CLANG to its path"
        )
    })
}
