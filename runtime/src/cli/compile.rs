//! `shoal compile`: the compiler's process. Its complaint goes to stderr, where its parent reads it.

use crate::child::ChildLimits;
use crate::sandbox::compile_child;
use std::path::PathBuf;

/// Compiles one component.
#[derive(Debug, clap::Args)]
pub(super) struct Compile {
    /// The component
    input: PathBuf,
    /// Where the compiled code goes
    output: PathBuf,
    #[command(flatten)]
    limits: ChildLimits,
    /// Whether memories will have 4 GiB of address space each
    #[arg(long, action = clap::ArgAction::Set)]
    reserve: bool,
}

impl Compile {
    pub(super) fn run(self) -> anyhow::Result<()> {
        compile_child(&self.input, &self.output, self.reserve, self.limits)
    }
}
