//! Why a request was not answered. A variant exists only where some caller acts on it differently.

use crate::tensor::TensorError;
use std::time::Duration;

/// What [`crate::Inference::submit`] may answer instead of a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong: a missing or unknown input, a wrong shape, no rows.
    #[error("{0}")]
    Invalid(String),
    /// A tensor whose bytes do not match its dimensions, or too many of them.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// More rows than one batch may hold.
    #[error("request has {rows} rows, at most {limit} are allowed (rows_max)")]
    TooManyRows {
        /// Rows of the request.
        rows: u32,
        /// The configured limit.
        limit: u32,
    },
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

/// Why the engine does not serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A device cannot load a model.
    #[error("model {model:?} cannot be loaded on device {device:?}: {reason}")]
    Model {
        /// The model's name.
        model: String,
        /// The device's name.
        device: String,
        /// What the device says.
        reason: String,
    },
    /// Two devices read different inputs or outputs in the same file.
    #[error("devices disagree on what model {model:?} takes and gives")]
    Disagreement {
        /// The model's name.
        model: String,
    },
    /// A device ended while it was loading.
    #[error("device {device:?} ended while loading models")]
    DeviceGone {
        /// The device's name.
        device: String,
    },
    /// The engine is not running.
    #[error("inference has stopped")]
    Stopped,
}
