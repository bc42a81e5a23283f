//! What a caller asks for and what it gets back. A request belongs to one tenant, names one model and carries its deadline
//! from here to the device.

use crate::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Who pays. Comes from a verified key or from the sandbox, never from anything a client can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TenantId(pub u64);

/// One model of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelId(pub u32);

/// A tensor with the name the model knows it by.
pub type NamedTensor = (String, Tensor);

/// How urgent a request is, beside others of its tenant and of all others.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Eight times the weight of `Default`, and batches made small enough for a shorter answer.
    Priority,
    /// Its turn, by what its tenant has been served.
    #[default]
    Default,
    /// What is idle: room that is left in others' batches, and runs only while nobody else waits. Gives way to others as
    /// long as its run has not begun.
    Flex,
}

impl Class {
    /// Its name, as in configuration, metrics and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Priority => "priority",
            Self::Default => "default",
            Self::Flex => "flex",
        }
    }
}

/// What holds for one tenant, see [`crate::Inference::set_terms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Device time it gets beside others that wait too, in proportion; 0 to 1,000. 0: what is idle, see [`Class::Flex`].
    pub weight: u32,
    /// Whether requests that ask for [`Class::Priority`] are served so; else as [`Class::Default`].
    pub priority: bool,
    /// Most queued rows.
    pub rows_max: u64,
    /// Most queued bytes.
    pub bytes_max: u64,
    /// Most requests that are not answered.
    pub requests_max: u64,
}

/// One call: all inputs of one model, 1 to `request_rows_max` rows along the batch axis. More than a batch holds are run in
/// parts.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who pays.
    pub tenant: TenantId,
    /// Which model, see [`crate::Inference::model`].
    pub model: ModelId,
    /// How urgent it is.
    pub class: Class,
    /// After this instant the answer is worth nothing: a request still queued then is refused.
    pub deadline: Instant,
    /// The model's inputs, each once, in any order.
    pub inputs: Vec<NamedTensor>,
}

/// The outputs and what they cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The model's outputs, in the model's order, with this request's rows only.
    pub outputs: Vec<NamedTensor>,
    /// Why it took as long as it did.
    pub explanation: Explanation,
}

/// Where the time of one request went, and its exact share of the run that answered it. Of one that was run in parts: of the
/// parts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The class it was served in: who weighs nothing is served as `Flex`, and who may not use `Priority` as `Default`.
    pub class: Class,
    /// From submission until its batch was handed to the device; of parts, until the last was.
    pub queue: Duration,
    /// This request's rows.
    pub rows: u32,
    /// Rows of the whole batch; of parts, of the largest. Shown as it is only to the operator; a tenant sees a bucket of it.
    pub batch_rows: u32,
    /// Runs that it was in: 1, but for a request of parts.
    pub runs: u32,
    /// Device time of the whole run, or runs.
    pub device: Duration,
    /// This request's part of `device` in nanoseconds; the parts of one run sum exactly to it.
    pub device_share_ns: u64,
}

impl Explanation {
    /// That of a request of which this and `other` are parts.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            class: self.class,
            queue: self.queue.max(other.queue),
            rows: self.rows.saturating_add(other.rows),
            batch_rows: self.batch_rows.max(other.batch_rows),
            runs: self.runs + other.runs,
            device: self.device.saturating_add(other.device),
            device_share_ns: self.device_share_ns.saturating_add(other.device_share_ns),
        }
    }
}

/// One input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The name callers use.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions; `None` where the model accepts any size (the batch axis, if it has one, is the first).
    pub dims: Vec<Option<u32>>,
}

impl Port {
    /// Whether a tensor of this element type and these dimensions can be used here; an open dimension is at least 1.
    pub fn fits(&self, dtype: DType, dims: &[u32]) -> bool {
        dtype == self.dtype
            && dims.len() == self.dims.len()
            && self
                .dims
                .iter()
                .zip(dims)
                .all(|(expected, given)| expected.map_or(*given > 0, |size| size == *given))
    }

    /// Its dimensions in words: `[?, 3]`.
    pub(crate) fn shape(&self) -> String {
        let size = |dim: &Option<u32>| dim.map_or("?".to_owned(), |size| size.to_string());
        let sizes: Vec<String> = self.dims.iter().map(size).collect();
        format!("[{}]", sizes.join(", "))
    }
}

/// What a loaded model takes and gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Inputs in the model's order.
    pub inputs: Vec<Port>,
    /// Outputs in the model's order.
    pub outputs: Vec<Port>,
    /// Whether the first axis of every input and output is one shared batch axis. If not, requests run one by one.
    pub batchable: bool,
}

/// A model as it comes from outside: a name and the bytes of its file.
#[derive(Clone, Debug)]
pub struct ModelSource {
    /// The name grants and guests use.
    pub name: String,
    /// An ONNX file, whole.
    pub onnx: Arc<[u8]>,
    /// Its `tokenizer.json`, if texts can be put to it.
    pub tokenizer: Option<Arc<[u8]>>,
    /// What is known of its cost before the first run: the units of dry runs (rows, times the size put for what it leaves
    /// open) and their nanoseconds, in rising order. May be empty.
    pub dry_runs: Vec<(u64, u64)>,
}
