//! Parses, runs, and turns the outcome into an exit code.

use std::process::ExitCode;

use clap::Parser;
use eunomia_host::{config::Cli, output, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    output::start_log(log::LevelFilter::Info);
    match cli.into_config().and_then(run::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
