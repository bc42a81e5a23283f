//! Why a request was not answered. A variant exists only where some caller acts on it differently.

use crate::tensor::TensorError;
use std::time::Duration;

/// What [`crate::Inference::submit`] may answer instead of a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong: a missing or unknown input, a wrong shape, no rows.
    #[error("{0}")]
    Invalid(String),
    /// The model has been unloaded, or never was there.
    #[error("the model is not loaded")]
    NotLoaded,
    /// A tensor whose bytes do not match its dimensions, or too many of them.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// More rows than one request may have.
    #[error("request has {rows} rows, at most {limit} are allowed ({key})")]
    TooManyRows {
        /// Which limit: `request_rows_max`, or `tenant_rows_max` where that is less.
        key: &'static str,
        /// Rows of the request.
        rows: u32,
        /// The configured limit.
        limit: u32,
    },
    /// More texts than one request may have, or a longer one.
    #[error("{0}")]
    TooMuchText(String),
    /// A queue is full; try again later.
    #[error("queue is full: {limit} of {max}")]
    QueueFull {
        /// The configuration key of the limit that was hit.
        limit: &'static str,
        /// Its value.
        max: u64,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The request could not have ended before its deadline, so it was not begun.
    #[error("request needs {needs:.0?}, {left:.0?} are left until its deadline")]
    TooLate {
        /// What it would have taken, the run in progress included.
        needs: Duration,
        /// Until its deadline.
        left: Duration,
    },
    /// The deadline passed before there was an answer.
    #[error("deadline passed before the request was answered")]
    DeadlineExceeded,
    /// The device ran this request alone and failed.
    #[error("the device could not run this request")]
    Device,
    /// The engine or every device that holds the model is gone.
    #[error("inference has stopped")]
    Stopped,
}

/// What [`crate::Inference::load`] may answer instead of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A model of this name is there already.
    #[error("a model {model:?} is already loaded")]
    Duplicate {
        /// The model's name.
        model: String,
    },
    /// As many models as there may be.
    #[error("{limit} models are loaded, at most {limit} are allowed (models_max)")]
    TooMany {
        /// The configured limit.
        limit: usize,
    },
    /// A device cannot load it.
    #[error("model {model:?} cannot be loaded on device {device:?}: {reason}")]
    Model {
        /// The model's name.
        model: String,
        /// The device's name.
        device: String,
        /// What the device says.
        reason: String,
    },
    /// Its tokenizer cannot be read, or does not fit it.
    #[error("model {model:?}: {reason}")]
    Tokenizer {
        /// The model's name.
        model: String,
        /// What does not fit.
        reason: String,
    },
    /// Two devices read different inputs or outputs in the same file.
    #[error("devices disagree on what model {model:?} takes and gives")]
    Disagreement {
        /// The model's name.
        model: String,
    },
    /// A device ended while it was loading.
    #[error("device {device:?} ended while it loaded the model")]
    DeviceGone {
        /// The device's name.
        device: String,
    },
    /// The engine is not running.
    #[error("inference has stopped")]
    Stopped,
}

/// Why [`crate::Inference::unload`] did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnloadError {
    /// No model of this name.
    #[error("model {0:?} is not loaded")]
    NotLoaded(String),
    /// The engine is not running.
    #[error("inference has stopped")]
    Stopped,
}
