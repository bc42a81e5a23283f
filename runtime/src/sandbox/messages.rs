//! The seam between the gateway (sockets, keys, scheduler) and a sandbox (guests): owned messages without Arc, closure,
//! channel or clock, so that a sandbox may live in another process. Bytes of bodies and tensors travel in the payload beside
//! a message; remaining time is a duration; credits bound what is in flight.
//!
//! No message names a tenant. The gateway binds each [`InvocationId`] to its tenant, version and grants when it starts one,
//! and a sandbox can only name ids it was given.

use http::{HeaderMap, Method, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use shoal_inference::plan::TensorRef;
use shoal_inference::{DType, ModelId, ModelSpec, NamedTensor, Tensor, TensorError};
use std::time::Duration;

/// Names one invocation, from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InvocationId(pub u64);

/// Names a component by the blake3 hash of its bytes as uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ComponentId(pub [u8; 32]);

/// Begins an invocation. Its body follows as [`BodyChunk`]s.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// Names the invocation from here on.
    pub invocation: InvocationId,
    /// What to run.
    pub component: ComponentId,
    /// The request's method.
    #[serde(with = "http_serde::method")]
    pub method: Method,
    /// The request's target as the guest sees it: path and query, the function's mount point removed.
    #[serde(with = "http_serde::uri")]
    pub uri: Uri,
    /// The request's headers as the guest sees them: keys of ours removed.
    #[serde(with = "http_serde::header_map")]
    pub headers: HeaderMap,
    /// Wall time left.
    pub remaining: Duration,
}

/// Part of a body, either way. Its bytes are the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyChunk {
    /// Whose body.
    pub invocation: InvocationId,
    /// Whether the body ends here.
    pub last: bool,
}

/// What a guest asks of the gateway while it runs. Answered by a [`HostReply`] of the same `call`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostCall {
    /// Who asks.
    pub invocation: InvocationId,
    /// Names this call among those of its invocation.
    pub call: u64,
    /// What is asked.
    pub ask: Ask,
}

/// The calls there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ask {
    /// Find a model by name.
    Open {
        /// The name the guest gave.
        model: String,
    },
    /// Run one request; the payload holds its tensors.
    Infer {
        /// A model that [`Ask::Open`] answered.
        model: ModelId,
        /// Inputs by name.
        inputs: Vec<(String, TensorRef)>,
    },
    /// Say what a model takes and gives.
    Describe {
        /// A model that [`Ask::Open`] answered.
        model: ModelId,
    },
    /// Make vectors of texts.
    Embed {
        /// A model that [`Ask::Open`] answered.
        model: ModelId,
        /// The texts.
        texts: Vec<String>,
    },
}

/// The answer to a [`HostCall`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostReply {
    /// Whose call.
    pub invocation: InvocationId,
    /// Which call.
    pub call: u64,
    /// What came of it.
    pub answer: Answer,
}

/// The answers there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The model was found and is granted.
    Opened(ModelId),
    /// The request ran; the payload holds the outputs.
    Inferred(Vec<(String, TensorRef)>),
    /// What the model takes and gives.
    Described(ModelSpec),
    /// The texts were embedded; the payload holds the vectors.
    Embedded(TensorRef),
    /// The call failed, with the code and the words a guest may read.
    Refused {
        /// Name of the WIT error code.
        code: String,
        /// What a guest may read.
        message: String,
    },
}

/// How an invocation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Which invocation.
    pub invocation: InvocationId,
    /// Whether the guest returned by itself.
    pub result: Result<(), Failure>,
    /// CPU time of the guest.
    pub cpu: Duration,
}

/// Why an invocation gave no whole answer. The words are the platform's own: nothing of the host is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// The guest trapped: unreachable code, a stack overflow, a refused resource.
    #[error("function failed while running")]
    Trap,
    /// The guest was stopped at its wall deadline.
    #[error("function did not finish in time")]
    Deadline,
    /// The guest was stopped at its CPU limit.
    #[error("function used up its CPU time")]
    CpuLimit,
    /// The guest returned, or gave its answer away, without answering.
    #[error("function ended without an answer")]
    NoResponse,
    /// The guest answered with an error code instead of a response.
    #[error("function answered with an error")]
    Errored,
    /// A command ended with an exit status other than 0.
    #[error("function ended with a status that says it failed")]
    Exited,
    /// No instance could be had.
    #[error("no sandbox is free")]
    Exhausted,
    /// The component could not be had: neither its compiled code nor, to compile it again, its bytes.
    #[error("function's code cannot be loaded")]
    Unavailable,
    /// The component has to be compiled again, and its tenant has as many compiles as it may.
    #[error("project has too many components compiling (tenant_compiles_max)")]
    CompilesBusy,
}

/// What the gateway sends a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToSandbox {
    /// Begin.
    Start(Box<Start>),
    /// More of the request's body.
    Body(BodyChunk),
    /// The answer to a host call.
    Reply(HostReply),
    /// The answer's reader took this many bytes: as many more may be sent.
    Credit {
        /// Whose answer.
        invocation: InvocationId,
        /// Bytes.
        bytes: u64,
    },
    /// The client is gone: stop.
    Cancel(InvocationId),
}

/// What a sandbox sends the gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromSandbox {
    /// The head of the answer.
    Head {
        /// Whose answer.
        invocation: InvocationId,
        /// Its status.
        #[serde(with = "http_serde::status_code")]
        status: StatusCode,
        /// Its headers.
        #[serde(with = "http_serde::header_map")]
        headers: HeaderMap,
    },
    /// More of the answer's body.
    Body(BodyChunk),
    /// A guest waits for this.
    Call(HostCall),
    /// The guest took this many bytes of its request's body: as many more may be sent.
    Credit {
        /// Whose request.
        invocation: InvocationId,
        /// Bytes.
        bytes: u64,
    },
    /// The invocation is over.
    End(End),
}

/// Lays tensors out in one payload.
pub fn pack(tensors: Vec<NamedTensor>, payload: &mut Vec<u8>) -> Vec<(String, TensorRef)> {
    tensors
        .into_iter()
        .map(|(name, tensor)| {
            let offset = payload.len() as u64;
            payload.extend_from_slice(tensor.data());
            let reference = TensorRef {
                dtype: tensor.dtype(),
                dims: tensor.dims().to_vec(),
                offset,
                len: tensor.data().len() as u64,
            };
            (name, reference)
        })
        .collect()
}

/// Reads tensors back out of a payload. The other side is not trusted: every reference is checked.
///
/// # Errors
/// A reference outside the payload, or a length that does not match its dimensions.
pub fn unpack(
    references: Vec<(String, TensorRef)>,
    payload: &[u8],
) -> Result<Vec<NamedTensor>, TensorError> {
    references
        .into_iter()
        .map(|(name, r)| {
            let tensor = unpack_one(r.dtype, r.dims, r.offset, r.len, payload)?;
            Ok((name, tensor))
        })
        .collect()
}

fn unpack_one(
    dtype: DType,
    dims: Vec<u32>,
    offset: u64,
    len: u64,
    payload: &[u8],
) -> Result<Tensor, TensorError> {
    let end = offset.checked_add(len);
    let bytes = usize::try_from(offset)
        .ok()
        .zip(end.and_then(|end| usize::try_from(end).ok()))
        .and_then(|(start, end)| payload.get(start..end));
    match bytes {
        Some(bytes) => Tensor::new(dtype, dims, bytes.to_vec()),
        None => Err(TensorError::Length {
            expected: len,
            actual: (payload.len() as u64).saturating_sub(offset),
        }),
    }
}
