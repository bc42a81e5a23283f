//! Admission of models: each file is checked in a child process with limits before anything else is done with it. Knows no
//! device and no catalogue.

use crate::child::{self, Failure};
use crate::config::Config;
use anyhow::Context as _;
use shoal_inference::ModelReport;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tempfile::NamedTempFile;

/// Why a model was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// More bytes than the limit.
    #[error("model has {bytes} bytes, at most {limit} are allowed (model_bytes_max)")]
    TooLarge {
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
pub async fn check(config: &Config, onnx: &Arc<[u8]>) -> Result<ModelReport, AdmitError> {
    let bytes = onnx.len() as u64;
    let limit = config.model_bytes_max;
    if bytes > limit {
        return Err(AdmitError::TooLarge { bytes, limit });
    }
    let file = write(onnx.clone()).await.map_err(AdmitError::Host)?;
    let task = child::Task {
        binary: &config.compiler,
        arguments: vec![
            "check-model".into(),
            file.path().into(),
            "--model-bytes".into(),
            limit.to_string().into(),
            "--tensor-bytes".into(),
            config.inference.tensor_bytes_max.to_string().into(),
        ],
        memory_bytes: config.model_check_memory_bytes_max,
        cpu_seconds: config.model_check_cpu_max.as_secs(),
        timeout: config.model_check_timeout,
    };
    let report = child::run(task).await.map_err(|failure| match failure {
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

/// A file that only this user can read, gone when it is dropped.
async fn write(onnx: Arc<[u8]>) -> anyhow::Result<NamedTempFile> {
    let write = move || {
        let mut file = tempfile::Builder::new().prefix("shoal-model-").tempfile()?;
        file.write_all(&onnx)?;
        Ok::<_, std::io::Error>(file)
    };
    tokio::task::spawn_blocking(write)
        .await?
        .context("writing the model for its check")
}
