//! `shoal compile`: the compiler's process. Its complaint goes to stderr, where its parent reads it.

use crate::sandbox::{ChildLimits, compile_child};
use std::path::PathBuf;

/// Compiles one component.
#[derive(Debug, clap::Args)]
pub(super) struct Compile {
    /// The component
    input: PathBuf,
    /// Where the compiled code goes
    output: PathBuf,
    /// Address space this process may use
    #[arg(long)]
    memory_bytes: u64,
    /// CPU time this process may use
    #[arg(long)]
    cpu_seconds: u64,
    /// Whether memories will have 4 GiB of address space each
    #[arg(long, action = clap::ArgAction::Set)]
    reserve: bool,
}

impl Compile {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let limits = ChildLimits {
            memory_bytes: self.memory_bytes,
            cpu_seconds: self.cpu_seconds,
        };
        compile_child(&self.input, &self.output, self.reserve, limits)
    }
}
