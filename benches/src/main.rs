//! Bars and benches: what Shoal promises, measured. A bar holds or fails as a whole; a bench compares with a peer.
//!
//! Arguments to command; verdict to exit status. What a bar says is in `bar`, what each measures in `bars`, and what is compared
//! in `benches`; nearly all of them load a node (`node`) that runs in a process of its own.

mod bar;
mod bars;
mod benches;
mod client;
mod closed_loop;
mod digits;
mod exchange;
mod greetings;
mod machine;
mod native;
mod node;
mod open_loop;
mod plot;
mod random;
mod samples;
mod simulated;

use bar::Run;
use bars::Bar;
use benches::Bench;
use clap::{Parser, Subcommand, ValueEnum as _};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// As in `shoal` itself: the nodes that are measured run in this binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What makes this binary `shoal`: a node that is served, what a node starts of the binary that it runs in, and what a bar
/// asks of it.
const SHOAL: [&str; 4] = ["serve", "compile", "check-model", "routes"];

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
        name: Bench,
        /// Folder for the plot
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Be a server that only answers
    #[command(hide = true)]
    Native {
        /// Of HTTP
        version: native::Version,
        /// How connections come to its threads
        #[arg(default_value = "shared")]
        accept: native::Accept,
    },
    /// Be a server whose guests block a thread for each call of a model
    #[command(hide = true)]
    Blocking {
        /// What it is, in JSON
        spec: String,
    },
    /// Be the node that a bar loads
    #[command(hide = true)]
    Node {
        /// What it is, in JSON
        spec: String,
    },
}

fn main() -> ExitCode {
    if let Some(first) = std::env::args_os().nth(1)
        && SHOAL.iter().any(|command| first == *command)
    {
        return shoal();
    }
    let done = match Arguments::parse().command {
        Command::List => {
            print!("{}", list());
            Ok(ExitCode::SUCCESS)
        }
        Command::Bar { name, seed, quick } => judge(name, &Run { seed, quick }),
        Command::Bench { name, out } => compare(name, out.as_deref()).map(|()| ExitCode::SUCCESS),
        Command::Native { version, accept } => {
            native::serve(version, accept).map(|()| ExitCode::SUCCESS)
        }
        Command::Blocking { spec } => benches::blocking(&spec).map(|()| ExitCode::SUCCESS),
        Command::Node { spec } => node::serve(&spec).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("shoal-benches: {error:#}");
        ExitCode::FAILURE
    })
}

/// Is `shoal`, for as long as whoever started it is there.
fn shoal() -> ExitCode {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("shoal-benches: {error}");
        return ExitCode::FAILURE;
    }
    shoal::cli::Arguments::parse().run()
}

fn judge(name: Bar, run: &Run) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    eprintln!("{}: load average {}", name.name(), machine::load_average()?);
    let outcome = runtime.block_on(name.measure(run))?;
    print!("{}", outcome.report(name.name(), run.seed));
    Ok(outcome.exit_code())
}

fn compare(name: Bench, out: Option<&Path>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(name.compare(out))
}

fn list() -> String {
    let line = |name: &str, about: &str| format!("  {name:<15}{about}\n");
    let bars = Bar::value_variants().iter();
    let bars: String = bars.map(|bar| line(bar.name(), bar.about())).collect();
    let benches = Bench::value_variants().iter();
    let benches: String = benches
        .map(|bench| line(bench.name(), bench.about()))
        .collect();
    format!("bars\n{bars}benches\n{benches}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn no_command_of_ours_is_one_of_shoals() {
        let own = Arguments::command();
        let names: Vec<&str> = own.get_subcommands().map(|own| own.get_name()).collect();
        assert!(names.contains(&"bar"));
        assert!(SHOAL.iter().all(|command| !names.contains(command)));
    }

    #[test]
    fn an_unknown_name_is_a_wrong_call() {
        for (kind, known) in [("bar", "waiting"), ("bench", "acceptors")] {
            let unknown = Arguments::try_parse_from(["shoal-benches", kind, "none"]);
            let error = unknown.expect_err("nothing has this name");
            assert_eq!(error.exit_code(), 2);
            let words = format!("possible values: {known}");
            assert!(error.to_string().contains(&words), "{error}");
        }
    }

    #[test]
    fn every_bar_and_every_bench_is_listed() {
        let bars = Bar::value_variants().iter().map(|bar| bar.name());
        let benches = Bench::value_variants().iter().map(|bench| bench.name());
        for name in bars.chain(benches) {
            assert!(list().contains(&format!("  {name:<15}")), "{name}");
        }
    }
}
