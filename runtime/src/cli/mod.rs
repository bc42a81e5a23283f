//! The command line: one file for each command.

mod build;
mod check_model;
mod client;
mod compile;
mod demo;
mod deploy;
mod dev;
mod doctor;
mod functions;
mod invoke;
mod limits;
mod login;
mod logs;
mod manifest;
mod model_files;
mod models;
mod new;
mod profile;
mod progress;
mod projects;
mod routes;
mod serve;
mod table;

use crate::ConfigError;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// What the parser exits with too.
const WRONG_USAGE: u8 = 2;

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
    /// Run a node that keeps what it is told
    Serve(serve::Serve),
    /// Make a function project that builds as it stands
    New(new::New),
    /// Build a function project's component
    Build(build::Build),
    /// Run a function project here, and again after each change
    Dev(dev::Dev),
    /// Remember a node and a key
    Login(login::Login),
    /// Make a project's component, or any, the live version of a function
    Deploy(deploy::Deploy),
    /// Call a function
    Invoke(invoke::Invoke),
    /// List, show, roll back and delete functions
    Functions(functions::Functions),
    /// Print what a function wrote
    Logs(logs::Logs),
    /// Add, list, show and remove models
    Models(models::Models),
    /// Create and list projects
    Projects(projects::Projects),
    /// Create, list and revoke keys
    Keys(projects::Keys),
    /// Show what a project may use of the node's devices, or change it
    Limits(limits::Limits),
    /// Print every route of a node and the key it asks for
    Routes(routes::Routes),
    /// Say what this machine can do, what is missing and what each absence costs
    Doctor(doctor::Doctor),
    /// Compile a component within limits (what a node does with what tenants send)
    #[command(hide = true)]
    Compile(compile::Compile),
    /// Check a model within limits (what a node does with what is sent)
    #[command(hide = true)]
    CheckModel(check_model::CheckModel),
}

impl Arguments {
    /// Runs the command. 0: it worked; 1: it failed, and stderr says why; 2: it was called or configured wrongly.
    pub fn run(self) -> ExitCode {
        log_to_stderr();
        let outcome = match self.command {
            Command::Demo(demo) => demo.run(),
            Command::Serve(serve) => serve.run(),
            Command::New(new) => new.run(),
            Command::Build(build) => build.run(),
            Command::Dev(dev) => dev.run(),
            Command::Login(login) => login.run(),
            Command::Deploy(deploy) => deploy.run(),
            Command::Invoke(invoke) => invoke.run(),
            Command::Functions(functions) => functions.run(),
            Command::Logs(logs) => logs.run(),
            Command::Models(models) => models.run(),
            Command::Projects(projects) => projects.run(),
            Command::Keys(keys) => keys.run(),
            Command::Limits(limits) => limits.run(),
            Command::Routes(routes) => routes.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Compile(compile) => compile.run(),
            Command::CheckModel(check) => check.run(),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("shoal: {error:#}");
                if error.is::<ConfigError>() {
                    return ExitCode::from(WRONG_USAGE);
                }
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
