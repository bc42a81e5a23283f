//! The seam between the engine and a device: owned messages without closures, channels or clocks, so that a device may live
//! in this thread, in another process or on another machine, and so that a run can be recorded and played back.
//!
//! Tensors are an offset and a length into the one payload buffer that travels beside a message. No tenant is named here: a
//! device knows requests by their slot in the plan only.

use crate::request::{ModelId, ModelSpec};
use crate::tensor::{DType, TensorError, byte_len};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Names one submitted plan until its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// What a device is told. At most one [`Command::Load`] or [`Command::Unload`] is unanswered at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Make `model` ready to run; the payload holds its file. Answered by [`Event::Loaded`].
    Load {
        /// The model.
        model: ModelId,
    },
    /// Let go of `model` and free what it takes. Sent when no plan of it is in flight. Answered by [`Event::Unloaded`], also
    /// where it was not loaded.
    Unload {
        /// The model.
        model: ModelId,
    },
    /// Run a plan. At most [`DEPTH`] are in flight. Answered by [`Event::Outcome`].
    Submit {
        /// Names the run.
        ticket: Ticket,
        /// What to run.
        plan: Rows,
        /// Time left until the last deadline among its requests; a device may refuse to start a run later than that.
        remaining: Duration,
    },
    /// Forget a plan that has not begun. Its outcome still comes, as [`RunError::Cancelled`] if it had not begun.
    Cancel {
        /// The run.
        ticket: Ticket,
    },
}

/// What a device answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The answer to [`Command::Load`].
    Loaded {
        /// The model.
        model: ModelId,
        /// What it takes and gives, or why it cannot be loaded (for the operator's eyes).
        result: Result<ModelSpec, String>,
    },
    /// The answer to [`Command::Unload`].
    Unloaded {
        /// The model.
        model: ModelId,
    },
    /// The answer to [`Command::Submit`].
    Outcome {
        /// The run.
        ticket: Ticket,
        /// How it ended.
        result: Result<RowsDone, RunError>,
    },
}

/// Most plans a device holds at once: one running, one ready to start the moment the first ends.
pub const DEPTH: usize = 2;

/// One run of a one-shot model: the input tensors of several requests, one set for each, not concatenated.
///
/// The engine lays the sets out input by input, so that a device finds the rows of one input side by side in the payload
/// and may use them as the batch without copying.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// The model.
    pub model: ModelId,
    /// One set of inputs (in the model's order) for each request.
    pub requests: Vec<Vec<TensorRef>>,
}

impl Rows {
    /// Rows of the whole batch, where the first axis is the batch axis.
    pub fn rows(&self) -> u32 {
        self.requests
            .iter()
            .map(|inputs| first_axis(inputs))
            .fold(0, u32::saturating_add)
    }

    /// What every device checks before it runs a plan: each request has all inputs, of the model's types and shapes, with
    /// their bytes in the payload; requests of one batch differ in rows alone.
    ///
    /// # Errors
    /// The first thing that does not hold, for the log.
    pub fn check(&self, spec: &ModelSpec, payload: &[u8]) -> Result<(), String> {
        let Some(first) = self.requests.first() else {
            return Err("a plan without requests".to_owned());
        };
        if !spec.batchable && self.requests.len() > 1 {
            return Err("several requests for a model without a batch axis".to_owned());
        }
        for inputs in &self.requests {
            if inputs.len() != spec.inputs.len() {
                return Err(format!(
                    "a request has {} inputs, expected {}",
                    inputs.len(),
                    spec.inputs.len()
                ));
            }
            for ((tensor, port), first) in inputs.iter().zip(&spec.inputs).zip(first) {
                let same_rows = !spec.batchable || first_axis(inputs) == tensor.rows();
                let same_shape = tensor.dims.get(1..) == first.dims.get(1..);
                if !port.fits(tensor.dtype, &tensor.dims) || !same_rows || !same_shape {
                    return Err(format!(
                        "input {:?} came as {:?} {:?}",
                        port.name, tensor.dtype, tensor.dims
                    ));
                }
                tensor.bytes(payload).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

fn first_axis(inputs: &[TensorRef]) -> u32 {
    inputs.first().map_or(1, TensorRef::rows)
}

/// The result of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowsDone {
    /// One set of outputs (in the model's order) for each request of the plan, in the plan's order.
    pub requests: Vec<Vec<TensorRef>>,
    /// Time the device was busy with this run, in nanoseconds.
    pub device_ns: u64,
}

/// A tensor inside a payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorRef {
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub dims: Vec<u32>,
    /// First byte in the payload.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl TensorRef {
    /// Size of the first axis; 1 for a scalar.
    pub fn rows(&self) -> u32 {
        self.dims.first().copied().unwrap_or(1)
    }

    /// The tensor's bytes.
    ///
    /// # Errors
    /// The dimensions ask for another length than `len`, or the payload does not hold that many bytes at `offset`.
    pub fn bytes<'a>(&self, payload: &'a [u8]) -> Result<&'a [u8], TensorError> {
        let expected = byte_len(self.dtype, &self.dims)?;
        let within = |(offset, len): (usize, usize)| payload.get(offset..offset.checked_add(len)?);
        usize::try_from(self.offset)
            .ok()
            .zip(usize::try_from(self.len).ok())
            .and_then(within)
            .filter(|bytes| bytes.len() as u64 == expected)
            .ok_or(TensorError::Length {
                expected,
                actual: self.len.min(payload.len() as u64),
            })
    }
}

/// Why a run gave no outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RunError {
    /// The run failed; another run of other rows may succeed.
    #[error("run failed: {0}")]
    Failed(String),
    /// The plan does not fit in the device's memory.
    #[error("out of device memory")]
    OutOfMemory,
    /// Cancelled before it began.
    #[error("cancelled")]
    Cancelled,
}
