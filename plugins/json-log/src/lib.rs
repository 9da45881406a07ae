//! Prints a JSON line for every event of every kind, the kind first.

use std::io::Write;

use eunomia_plugin::prelude::*;
use serde::Serialize;

#[derive(Default)]
struct JsonLog {
    /// Kept from run to run, so that its memory is not asked for again.
    lines: Vec<u8>,
}

#[derive(Serialize)]
struct Line<'a, T> {
    kind: &'static str,
    #[serde(flatten)]
    event: &'a T,
}

impl JsonLog {
    /// Prints a run of events in one write.
    fn print<T: Serialize>(&mut self, kind: &'static str, events: &[T]) {
        self.lines.clear();
        for event in events {
            serde_json::to_writer(&mut self.lines, &Line { kind, event }).expect("writing to memory does not fail");
            self.lines.push(b'\n');
        }
        _ = std::io::stdout().lock().write_all(&self.lines);
    }
}

impl Plugin for JsonLog {}

impl OnExec for JsonLog {
    fn on_exec(&mut self, events: Vec<Exec>) {
        self.print("exec", &events);
    }
}

impl OnExit for JsonLog {
    fn on_exit(&mut self, events: Vec<Exit>) {
        self.print("exit", &events);
    }
}

impl OnFork for JsonLog {
    fn on_fork(&mut self, events: Vec<Fork>) {
        self.print("fork", &events);
    }
}

impl OnAlert for JsonLog {
    fn on_alert(&mut self, events: Vec<RaisedAlert>) {
        self.print("alert", &events);
    }
}

export!(JsonLog: OnExec, OnExit, OnFork, OnAlert);
