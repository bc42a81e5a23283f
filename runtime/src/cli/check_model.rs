//! `shoal check-model`: the process that a model's file is checked in. Its report goes to stdout as one line, its complaint
//! to stderr, where its parent reads it.

use crate::child::{ANSWER_BYTES_MAX, ChildLimits, limit_self};
use anyhow::{Context as _, ensure};
use shoal_inference::{CheckLimits, Encoder, check_model};
use std::path::PathBuf;
use std::time::Duration;

/// Checks one model.
#[derive(Debug, clap::Args)]
pub(super) struct CheckModel {
    /// The model
    file: PathBuf,
    /// Bytes the file may have
    #[arg(long)]
    model_bytes: u64,
    /// Bytes an input of one row may have
    #[arg(long)]
    tensor_bytes: u64,
    /// Its tokenizer
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    limits: ChildLimits,
}

impl CheckModel {
    pub(super) fn run(self) -> anyhow::Result<()> {
        limit_self(self.limits)?;
        // A panic of the engine is an answer; what it would print names places in sources.
        std::panic::set_hook(Box::new(|_| {}));
        let onnx = std::fs::read(&self.file).context("reading the model")?;
        let limits = CheckLimits {
            model_bytes_max: self.model_bytes,
            tensor_bytes_max: self.tensor_bytes,
            // The other half is for loading it.
            runs_time_max: Duration::from_secs(self.limits.cpu_seconds) / 2,
        };
        let report = check_model(&onnx, limits)?;
        if let Some(file) = &self.tokenizer {
            let tokenizer = std::fs::read(file).context("reading the tokenizer")?;
            Encoder::new(&tokenizer, &report.spec).map_err(anyhow::Error::msg)?;
        }
        let report = serde_json::to_string(&report)?;
        ensure!(
            report.len() as u64 <= ANSWER_BYTES_MAX,
            "inputs and outputs take {} bytes to describe, at most {ANSWER_BYTES_MAX} are allowed",
            report.len()
        );
        print!("{report}");
        Ok(())
    }
}
