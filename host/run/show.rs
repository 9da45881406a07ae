//! The subcommands that show something and end.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::compile::Compiler;
use crate::config::parse_settings;
use crate::directory::{Files, Operator};
use crate::event::{Kind, KindSet};
use crate::plugin::{Compiled, INTERFACE_VERSION, PACKAGE, Runtime, Settings};
use crate::source::{self, Narrowing, Refusal, State};

fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot write"),
        _ => Ok(()),
    }
}

/// Why hooks were not taken, in a line.
pub fn reasons(why: &[Refusal]) -> String {
    let reason = |Refusal { hook, reason, log: _ }: &Refusal| match hook.is_empty() {
        true => reason.clone(),
        false => format!("{hook}: {reason}"),
    };
    why.iter().map(reason).collect::<Vec<_>>().join("; ")
}

pub fn version() -> Result<()> {
    print(&format!("eunomia-host {}\nplugin interface {PACKAGE}@{INTERFACE_VERSION}\n", env!("CARGO_PKG_VERSION")))
}

pub fn sources(json: bool, verbose: bool, hooks: &[String]) -> Result<()> {
    let states = source::probe(&Narrowing { hooks: source::hooks(hooks)?, ..Default::default() });
    if json {
        let list: Vec<_> = states.iter().map(|state| serde_json::json!(state)).collect();
        return print(&format!("{}\n", serde_json::to_string_pretty(&list)?));
    }
    let mut text = format!("{:<10}{:<10}{:<24}{}\n", "SOURCE", "STATE", "HOOK", "KINDS");
    for state in &states {
        let kinds = names(Kind::ALL.iter().copied().filter(|kind| kind.source() == state.source).collect());
        let (word, hook, why, misses) = match &state.state {
            State::Attached { hook, misses, why_not_better } => ("works", *hook, why_not_better.as_slice(), *misses),
            State::Failed { why } => ("failed", "-", why.as_slice(), ""),
            State::Off => ("off", "-", [].as_slice(), ""),
        };
        _ = writeln!(text, "{:<10}{word:<10}{hook:<24}{kinds}", state.source);
        if !misses.is_empty() {
            _ = writeln!(text, "{:10}misses: {misses}", "");
        }
        for Refusal { hook, reason, log } in why {
            _ = writeln!(text, "{:10}not {hook}: {reason}", "");
            for line in log.iter().filter(|_| verbose) {
                _ = writeln!(text, "{:12}| {line}", "");
            }
        }
    }
    print(&text)
}

pub fn inspect(file: &Path) -> Result<()> {
    let files = Files::named(file, Operator::of_this_process())
        .with_context(|| format!("cannot inspect {}", file.display()))?;
    let runtime = Runtime::new(Compiler::of_this_program(None))?;
    let settings = file.with_extension("toml");
    let Settings { limits, grants, .. } = parse_settings(&settings, files.settings.as_deref())?;
    let compiled = Compiled::new(&runtime, &files.plugin, &limits).with_context(|| file.display().to_string())?;
    let description = &compiled.description;
    let mut text = format!("{}: a component of {} KiB\n", file.display(), files.plugin.len().div_ceil(1024));
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            _ = writeln!(text, "  {name:<10}{value}");
        }
    };
    line("handles", names(description.handles));
    line("filters", names(description.filters));
    let life = [
        (description.ticks, "ticks"),
        (description.lives, "start and stop"),
        (description.keeps_state, "its state kept"),
        (description.selects_calls, "some system calls alone"),
    ];
    line("wants", life.iter().filter(|(wants, _)| *wants).map(|(_, what)| *what).collect::<Vec<_>>().join(", "));
    line("services", description.services.join(", "));
    line(
        "WASI",
        if description.wasi.is_empty() {
            String::new()
        } else {
            format!("{} (no files, no network, no environment but what is granted)", description.wasi.join(", "))
        },
    );
    line("needs", description.needs.join(", "));
    line(
        "granted",
        format!(
            "{grants} (by {})",
            if files.settings.is_some() {
                settings.display().to_string()
            } else {
                format!("default; {} does not exist", settings.display())
            }
        ),
    );
    line("ignored", description.ignored.join(", "));
    line("versions", description.other_versions.join(", "));
    line("refused", description.refused.join(", "));
    line(
        "verdict",
        match compiled.check(&grants) {
            Ok(()) => "this host runs it".to_owned(),
            Err(error) => format!("this host refuses it: {error:#}"),
        },
    );
    print(&text)
}

fn names(kinds: KindSet) -> String {
    kinds.iter().map(Kind::name).collect::<Vec<_>>().join(", ")
}
