//! The command line: one file for each command.

mod compile;
mod demo;
mod doctor;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Shoal: a WebAssembly-sandboxed serverless AI function platform.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, about, propagate_version = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a node with throwaway data, show batching on a burst of load, then keep serving
    Demo(demo::Demo),
    /// Say what this machine can do, what is missing and what each absence costs
    Doctor(doctor::Doctor),
    /// Compile a component within limits (what a node does with what tenants send)
    #[command(hide = true)]
    Compile(compile::Compile),
}

impl Arguments {
    /// Runs the command. 0: it worked; 1: it failed, and stderr says why; 2 (from the parser): it was called wrongly.
    pub fn run(self) -> ExitCode {
        log_to_stderr();
        let outcome = match self.command {
            Command::Demo(demo) => demo.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Compile(compile) => compile.run(),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("shoal: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Structured lines, as `SHOAL_LOG` asks (`info` shows one for each invocation; the default is `warn`).
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("SHOAL_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
