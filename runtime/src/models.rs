//! Admission of models: each file is checked in a child process with limits before anything else is done with it. Knows no
//! device and no catalogue.

use crate::child::{self, Failure};
use crate::config::Config;
use anyhow::Context as _;
use bytes::Bytes;
use shoal_inference::ModelReport;
use std::io::Write as _;
use std::time::Duration;
use tempfile::NamedTempFile;

/// A model as it is uploaded.
#[derive(Debug)]
pub struct ModelFiles {
    /// An ONNX file.
    pub onnx: Bytes,
    /// Its `tokenizer.json`.
    pub tokenizer: Option<Bytes>,
}

/// Why a model was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// More bytes than the limit.
    #[error("{what} has {bytes} bytes, at most {limit} are allowed ({what}_bytes_max)")]
    TooLarge {
        /// Of which file.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The configured limit.
        limit: u64,
    },
    /// It is no model, or one that does not run here; in words for its owner.
    #[error("model is refused: {0}")]
    Refused(String),
    /// The check was stopped at its CPU or memory limit.
    #[error(
        "model needs more than {cpu:?} of CPU time or {memory_bytes} bytes of memory to load and run (model_check_cpu_max, model_check_memory_bytes_max)"
    )]
    OverLimit {
        /// The configured CPU limit.
        cpu: Duration,
        /// The configured memory limit.
        memory_bytes: u64,
    },
    /// The check took longer than `model_check_timeout`.
    #[error("model took longer than {0:?} to check (model_check_timeout)")]
    Timeout(Duration),
    /// The node's fault.
    #[error("model could not be checked")]
    Host(#[source] anyhow::Error),
}

/// Checks a model in a child process. Cancel safe: the child is killed with the future.
///
/// # Errors
/// See [`AdmitError`]; each names what was expected and the limit.
pub async fn check(config: &Config, files: &ModelFiles) -> Result<ModelReport, AdmitError> {
    check_size("model", &files.onnx, config.model_bytes_max)?;
    let file = write(files.onnx.clone()).await.map_err(AdmitError::Host)?;
    let mut arguments = vec![
        "check-model".into(),
        file.path().into(),
        "--model-bytes".into(),
        config.model_bytes_max.to_string().into(),
        "--tensor-bytes".into(),
        config.inference.tensor_bytes_max.to_string().into(),
    ];
    let mut tokenizer_file = None;
    if let Some(tokenizer) = &files.tokenizer {
        check_size("tokenizer", tokenizer, config.tokenizer_bytes_max)?;
        let file = write(tokenizer.clone()).await.map_err(AdmitError::Host)?;
        arguments.extend(["--tokenizer".into(), file.path().into()]);
        tokenizer_file = Some(file);
    }
    let task = child::Task {
        binary: &config.compiler,
        arguments,
        memory_bytes: config.model_check_memory_bytes_max,
        cpu_seconds: config.model_check_cpu_max.as_secs(),
        timeout: config.model_check_timeout,
    };
    let report = child::run(task).await;
    drop((file, tokenizer_file));
    let report = report.map_err(|failure| match failure {
        Failure::Refused(words) => AdmitError::Refused(words),
        Failure::OverLimit => AdmitError::OverLimit {
            cpu: config.model_check_cpu_max,
            memory_bytes: config.model_check_memory_bytes_max,
        },
        Failure::Timeout => AdmitError::Timeout(config.model_check_timeout),
        Failure::Host(error) => AdmitError::Host(error),
    })?;
    serde_json::from_slice(&report)
        .context("reading the report of a check")
        .map_err(AdmitError::Host)
}

fn check_size(what: &'static str, file: &Bytes, limit: u64) -> Result<(), AdmitError> {
    let bytes = file.len() as u64;
    if bytes > limit {
        return Err(AdmitError::TooLarge { what, bytes, limit });
    }
    Ok(())
}

/// A file that only this user can read, gone when it is dropped.
async fn write(bytes: Bytes) -> anyhow::Result<NamedTempFile> {
    let write = move || {
        let mut file = tempfile::Builder::new().prefix("shoal-model-").tempfile()?;
        file.write_all(&bytes)?;
        Ok::<_, std::io::Error>(file)
    };
    tokio::task::spawn_blocking(write)
        .await?
        .context("writing the model for its check")
}
