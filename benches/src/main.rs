//! Bars and benches: what Shoal promises, measured. A bar holds or fails as a whole; a bench compares with a peer.
//!
//! Arguments to command; verdict to exit status. What a bar says is in `bar`, what each measures in `bars`; all of them load a
//! node (`node`) that runs in a process of its own.

mod bar;
mod bars;
mod client;
mod digits;
mod node;

use bar::Run;
use bars::Bar;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// As in `shoal` itself: the nodes that are measured run in this binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bars and benches of Shoal. A bar exits with 0 if it holds, 1 if not, 77 if it cannot be judged here.
#[derive(Debug, Parser)]
#[command(name = "shoal-benches", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what there is
    List,
    /// Measure a bar and judge it
    Bar {
        /// Which
        name: Bar,
        /// What varies from run to run follows from it
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// A tenth of the load: shows that the bar runs, not what it says
        #[arg(long)]
        quick: bool,
    },
    /// Compare with a peer
    Bench {
        /// Which
        name: String,
        /// Where the plot goes
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Be the node that a bar loads
    #[command(hide = true)]
    Node {
        /// What it is, in JSON
        spec: String,
    },
}

fn main() -> ExitCode {
    // A node compiles what it is given in a child of the binary that it runs in.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == "compile")
    {
        return shoal::cli::Arguments::parse().run();
    }
    let done = match Arguments::parse().command {
        Command::List => {
            print!("{}", list());
            Ok(ExitCode::SUCCESS)
        }
        Command::Bar { name, seed, quick } => judge(name, &Run { seed, quick }),
        Command::Bench { name, out: _ } => no_such_bench(&name).exit(),
        Command::Node { spec } => node::serve(&spec).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("shoal-benches: {error:#}");
        ExitCode::FAILURE
    })
}

fn judge(name: Bar, run: &Run) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(name.measure(run))?;
    print!("{}", outcome.report(name.name(), run.seed));
    Ok(outcome.exit_code())
}

fn list() -> String {
    let bars = Bar::value_variants().iter();
    let lines: String = bars
        .map(|bar| format!("  {:<12}{}\n", bar.name(), bar.about()))
        .collect();
    format!("bars\n{lines}benches\n  none yet\n")
}

fn no_such_bench(name: &str) -> clap::Error {
    let message = format!("there is no bench {name:?}: there are no benches yet");
    Arguments::command().error(ErrorKind::InvalidValue, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_unknown_name_is_a_wrong_call() {
        let unknown = Arguments::try_parse_from(["shoal-benches", "bar", "none"]);
        let error = unknown.expect_err("no bar has this name");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("possible values: waiting"));
        assert_eq!(no_such_bench("none").exit_code(), 2);
    }

    #[test]
    fn every_bar_is_listed() {
        for bar in Bar::value_variants() {
            assert!(list().contains(&format!("  {:<12}", bar.name())));
        }
    }
}
