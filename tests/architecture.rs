//! Holds the host's rooms to what each may know, as drawn in docs/ARCHITECTURE.md: reads every path in host/, in `use` or
//! anywhere else, and fails where one reaches what the table does not allow.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A room, the rooms that it may use, and the guarded crates and modules that it may use.
struct Room(&'static str, &'static [&'static str], &'static [&'static str]);

/// Whatever stands for a kind of knowledge: the kernel, Wasm, the command line, files, input and output.
const GUARDED: &[&str] = &[
    "clap",
    "libbpf_rs",
    "libbpf_sys",
    "notify",
    "rustix",
    "seccompiler",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "tokio",
    "toml",
    "wasmtime",
    "wasmtime_wasi",
    "wasmtime_wasi_http",
];

const ROOMS: &[Room] = &[
    Room("main", &["config", "output", "run"], &["clap", "std::process::ExitCode"]),
    Room("lib", &[], &[]),
    Room(
        "run",
        &[
            "broker",
            "compile",
            "config",
            "confine",
            "directory",
            "dispatch",
            "event",
            "output",
            "plugin",
            "source",
            "wit",
        ],
        &[
            "rustix::io::Errno",
            "rustix::time",
            "std::env",
            "std::fs",
            "std::io",
            "std::os",
            "std::process",
            "std::thread",
            "tokio",
        ],
    ),
    Room("config", &["event", "output", "plugin"], &["clap", "std::fs", "std::net::SocketAddr", "toml"]),
    Room(
        "broker",
        &[],
        &["rustix", "std::env", "std::io", "std::net::Shutdown", "std::os", "std::process", "std::thread"],
    ),
    Room(
        "compile",
        &["broker", "confine"],
        &["rustix", "std::fs", "std::io", "std::os", "std::process", "std::thread"],
    ),
    Room("confine", &[], &["rustix", "seccompiler", "std::env", "std::fs"]),
    Room(
        "source",
        &["broker", "event", "wit"],
        &["libbpf_rs", "rustix", "std::fs", "std::io", "std::os", "std::thread"],
    ),
    // Addresses are text, not sockets.
    Room("event", &["wit"], &["std::net::IpAddr", "std::net::Ipv6Addr"]),
    Room("dispatch", &["event", "wit"], &["tokio"]),
    Room(
        "plugin",
        &["compile", "dispatch", "event", "output", "wit"],
        &["std::io", "std::thread", "tokio", "wasmtime", "wasmtime_wasi", "wasmtime_wasi_http"],
    ),
    Room("directory", &[], &["notify", "rustix", "std::env", "std::fs", "std::io", "std::os", "tokio"]),
    // Between tokio and hyper stands an adapter that the tree has anyway.
    Room(
        "output",
        &["wit"],
        &[
            "clap::ValueEnum",
            "std::env",
            "std::io",
            "std::net",
            "std::thread",
            "tokio",
            "wasmtime_wasi_http::io::TokioIo",
        ],
    ),
    // Types, and how they stand in a plugin's memory.
    Room("wit", &[], &["wasmtime::Result", "wasmtime::component"]),
];

/// Modules behind a room's front door, and who may use them all the same: the thread that reads the kernel's rings
/// decodes there and then, and flat records are lowered as they are laid out.
const INSIDE: &[(&str, &str)] = &[
    ("source", "event::clock"),
    ("source", "event::decode"),
    ("source", "event::layout"),
    ("plugin", "event::layout"),
];

/// The files with `unsafe`: reading raw bytes, reading rings that the kernel writes, lowering flat records, and taking machine
/// code of the host's own making into the engine, which cannot know whose it is.
const UNSAFE: &[&str] = &["event/layout.rs", "plugin/lower.rs", "plugin/machine_code.rs", "source/ring.rs"];

/// `main.rs` parses, runs and exits. What more it did could not be tested.
const MAIN_LINES: usize = 39;

/// Longer files hold more than one thing.
const MAX_LINES: usize = 450;

#[test]
fn every_room_keeps_to_what_it_may_know() {
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("host");
    let mut files = Vec::new();
    collect(&host, &mut files);
    assert!(files.len() > 10, "the host's files are in {}", host.display());
    let modules: Vec<String> = files.iter().map(|file| module(file.strip_prefix(&host).unwrap()).join("::")).collect();
    let mut faults = Vec::new();
    for file in &files {
        let name = file.strip_prefix(&host).unwrap();
        faults.extend(check(name, &fs::read_to_string(file).unwrap(), &modules));
    }
    assert!(faults.is_empty(), "docs/ARCHITECTURE.md says why:\n{}", faults.join("\n"));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
}

/// The module that a file is: `run/host.rs` is `run`, `host`.
fn module(name: &Path) -> Vec<String> {
    let path = name.with_extension("");
    path.iter().map(|part| part.to_str().unwrap().to_owned()).filter(|part| part != "mod").collect()
}

/// What a file does that it should not.
fn check(name: &Path, source: &str, modules: &[String]) -> Vec<String> {
    let module = module(name);
    let Some(Room(room, rooms, outside)) = ROOMS.iter().find(|room| room.0 == module[0]) else {
        return vec![format!("host/{}: its room is not in the table of tests/architecture.rs", name.display())];
    };
    let mut paths = Vec::new();
    let tokens: TokenStream = source.parse().unwrap_or_else(|error| panic!("host/{}: {error}", name.display()));
    read(tokens, &[], false, &mut paths);
    let mut faults = Vec::new();
    for (path, line) in paths {
        let mut fault = |what: String| faults.push(format!("host/{}:{line}: {what}", name.display()));
        if path == ["unsafe"] {
            if !UNSAFE.iter().any(|allowed| name == Path::new(allowed)) {
                fault(format!("`unsafe` is for {} only", UNSAFE.join(", ")));
            }
        } else if let Some(inner) = in_crate(&path, &module) {
            let text = inner.join("::");
            let is_room = ROOMS.iter().any(|room| Some(room.0) == inner.first().map(String::as_str));
            if !is_room || inner[0] == *room {
                continue;
            }
            if !rooms.contains(&inner[0].as_str()) {
                fault(format!("{room} must not know {}: {text}", inner[0]));
            }
            let behind = modules.iter().any(|module| module.contains("::") && covers(module, &text));
            if behind && !INSIDE.iter().any(|(who, what)| who == room && covers(what, &text)) {
                fault(format!("{room} reaches behind the front door of {}: {text}", inner[0]));
            }
        } else {
            let text = path.join("::");
            if GUARDED.iter().any(|guarded| covers(guarded, &text)) && !outside.iter().any(|may| covers(may, &text)) {
                fault(format!("{room} must not know {text}"));
            }
        }
    }
    let (lines, most) = (source.lines().count(), if *room == "main" { MAIN_LINES } else { MAX_LINES });
    if lines > most {
        faults.push(format!("host/{}: {lines} lines; at most {most}", name.display()));
    }
    faults
}

/// Whether a path is `prefix` or begins with it.
fn covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// A path of this crate, from its root; none for paths that lead out of it.
fn in_crate(path: &[String], module: &[String]) -> Option<Vec<String>> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    match path[0].as_str() {
        "crate" | "eunomia_host" => Some(path[1..].to_vec()),
        "super" => Some([&module[..module.len().saturating_sub(ups)], &path[ups..]].concat()),
        "self" => Some([module, &path[1..]].concat()),
        _ => None,
    }
}

/// Collects the paths of two or more names, and all of `use` declarations, each with its line. Tests are left out: they
/// may know more. A `super` in a module within a file is taken for one of the file.
fn read(tokens: TokenStream, prefix: &[String], is_use: bool, paths: &mut Vec<(Vec<String>, usize)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.to_string().replace(' ', "") == text);
    let mut in_use = is_use;
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Punct(punct) if punct.as_char() == '#' && is(at + 1, "[cfg(test)]") => {
                let ends = |token: &TokenTree| match token {
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    token => token.to_string() == ";",
                };
                at = tokens[at..].iter().position(ends).map_or(tokens.len(), |end| at + end);
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => in_use = is_use,
            TokenTree::Ident(ident) => {
                let line = ident.span().start().line;
                let mut path = prefix.to_vec();
                path.push(ident.to_string());
                while is(at + 1, ":") && is(at + 2, ":") && matches!(tokens.get(at + 3), Some(TokenTree::Ident(_))) {
                    path.push(tokens[at + 3].to_string());
                    at += 3;
                }
                if ident == "use" {
                    in_use = true;
                } else if in_use
                    && is(at + 1, ":")
                    && is(at + 2, ":")
                    && matches!(tokens.get(at + 3), Some(TokenTree::Group(_)))
                {
                    let TokenTree::Group(group) = &tokens[at + 3] else { unreachable!("it was just matched") };
                    read(group.stream(), &path, true, paths);
                    at += 3;
                } else if in_use || path.len() > 1 || ident == "unsafe" {
                    paths.push((path, line));
                }
            }
            TokenTree::Group(group) => read(group.stream(), prefix, in_use, paths),
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod can_fail {
    use super::*;

    fn faults(name: &str, source: &str) -> String {
        let modules = ["event", "event::decode", "plugin", "plugin::life"].map(String::from);
        check(Path::new(name), source, &modules).join("\n")
    }

    #[test]
    fn a_room_that_reaches_too_far_is_found() {
        for (name, source, fault) in [
            ("source/a.rs", "use wasmtime::Engine;", "host/source/a.rs:1: source must not know wasmtime::Engine"),
            ("source/a.rs", "\n\nuse crate::plugin;", ":3: source must not know plugin"),
            ("source/a.rs", "fn f() { g(crate::output::say); }", "source must not know output"),
            (
                "dispatch/a.rs",
                "use crate::{event::Kind, plugin::{self, Limits}};",
                "must not know plugin: plugin::Limits",
            ),
            ("dispatch/mod.rs", "use super::source::Poller;", "dispatch must not know source"),
            ("dispatch/a.rs", "use super::super::source::Poller;", "dispatch must not know source"),
            ("dispatch/a.rs", "type T = ::libbpf_rs::Map;", "dispatch must not know libbpf_rs::Map"),
            ("dispatch/a.rs", "use libbpf_rs as kernel;", "dispatch must not know libbpf_rs"),
            ("event/a.rs", "use {std::fs};", "event must not know std::fs"),
            ("event/a.rs", "fn f() { println!(\"{:?}\", std::io::stdin()) }", "event must not know std::io::stdin"),
            (
                "event/a.rs",
                "use wasmtime::component::{Lower, Linker};",
                "event must not know wasmtime::component::Linker",
            ),
            ("run/a.rs", "use crate::event::decode::decode;", "behind the front door of event"),
            ("directory.rs", "use crate::event::Kind;", "directory must not know event"),
            ("main.rs", "use eunomia_host::plugin;", "main must not know plugin"),
            (
                "plugin/a.rs",
                "fn f() { unsafe { g() } }",
                "`unsafe` is for event/layout.rs, plugin/lower.rs, plugin/machine_code.rs, source/ring.rs only",
            ),
            ("cellar/a.rs", "", "its room is not in the table"),
        ] {
            let found = faults(name, source);
            assert!(found.contains(fault), "{name}: {source}: {found:?}");
        }
        assert!(faults("main.rs", &"\n".repeat(40)).contains("40 lines; at most 39"));
        assert!(faults("run/a.rs", &"\n".repeat(500)).contains("at most 450"));
    }

    #[test]
    fn what_is_allowed_passes() {
        for (name, source) in [
            ("source/a.rs", "use crate::event::{Kind, decode::decode}; use super::load; use libbpf_rs::Map;"),
            (
                "source/a.rs",
                "// use wasmtime::Engine;\n/// crate::plugin\nfn f() -> &'static str { \"wasmtime::x unsafe\" }",
            ),
            ("source/a.rs", "fn f() { let wasmtime = 1; let plugin = wasmtime; }"),
            ("dispatch/a.rs", "#[cfg(test)]\nmod tests { use crate::plugin::Limits; }"),
            ("dispatch/a.rs", "#[cfg(test)] use crate::plugin::Limits;"),
            ("event/layout.rs", "fn f() { unsafe { g() } }"),
            ("wit/a.rs", "trait Canonical: wasmtime::component::Lower {}"),
            ("plugin/a.rs", "use super::life::Life; use self::life::Life; use crate::dispatch::Queue;"),
        ] {
            assert_eq!(faults(name, source), "", "{name}: {source}");
        }
    }
}
