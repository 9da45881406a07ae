//! What it costs a plugin to know the containers of its events: `cargo bench --bench containers`, after `make build
//! fixtures`. Everything is measured in the plugin, in one run, to be read as ratios.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use eunomia_host::event::clock::Clock;
use eunomia_host::event::{Columns, decode};
use eunomia_host::plugin::{Grants, Limits, Settings};
use eunomia_host::wit::container_registry::Cgroup;
use eunomia_host::wit::process::Exec;
use support::line::Line;

/// Events of a run, and how often their containers are looked up.
const EVENTS: u64 = 256;
const ROUNDS: u32 = 4_000;

/// Asking the host without a cache takes long.
const DEADLINE_MS: u64 = 60_000;

fn exec() -> Exec {
    let bytes = include_bytes!("../tests/fixtures/process.records");
    let (mut rest, mut columns) = (&bytes[..], Columns::default());
    while columns.exec.is_empty() {
        let length = u32::from_le_bytes(rest[..4].try_into().expect("four bytes")) as usize;
        decode(&rest[4..4 + length], &Clock::new(0, 0), &mut columns).expect("it was recorded");
        rest = &rest[4 + length..];
    }
    columns.exec.remove(0)
}

/// A run of events that come, in turn, from so many containers.
async fn measure(containers: u64) -> BTreeMap<String, f64> {
    let cgroup = |id: u64| Cgroup { id: 10 + id, path: format!("/box/{id}") };
    let line = Line::with((0..containers).map(cgroup).collect(), None, Default::default());
    let mut grants = Grants { container_registry: true, ..Default::default() };
    grants.add_http("nobody", "unix:///does/not/exist", None).expect("it is a URL");
    let limits = Limits { deadline_ms: DEADLINE_MS, ..Default::default() };
    let settings = Settings { grants, limits, config: format!(r#"{{"rounds": {ROUNDS}}}"#), ..Default::default() };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures/containers.wasm");
    let (plugin, member) =
        line.start_with(("containers", 0), &file, &settings, None).await.expect("run `make fixtures`");
    line.join(member).await;
    let mut exec = vec![exec(); EVENTS as usize];
    exec.iter_mut().zip(0..).for_each(|(exec, number)| exec.task.cgroup = 10 + number % containers);
    line.send(Columns { exec, ..Default::default() }).await;
    let outcome = line.finish(BTreeMap::from([("containers", plugin)])).await;
    let mut measured = BTreeMap::new();
    for line in outcome.json() {
        let what = line["what"].as_str().unwrap_or_default().to_owned();
        assert_eq!(line["found"], EVENTS * u64::from(ROUNDS), "every event's container is found");
        measured.insert(what, line["ns"].as_f64().unwrap_or_default());
    }
    measured
}

fn main() {
    let tokio = tokio::runtime::Runtime::new().expect("a run time");
    println!(
        "{:<40}{:>10}{:>10}{:>10}{:>12}",
        "ns an event, in runs of 256", "none", "cached", "asked", "asked/cached"
    );
    for containers in [1, 16, 256] {
        let ns = tokio.block_on(measure(containers));
        let name = format!("events of {containers} containers in turn");
        println!(
            "{name:<40}{:>10.1}{:>10.1}{:>10.1}{:>12.1}",
            ns["none"],
            ns["cached"],
            ns["asked"],
            ns["asked"] / ns["cached"]
        );
    }
}
