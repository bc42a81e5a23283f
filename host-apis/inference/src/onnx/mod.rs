//! One-shot ONNX graphs: the engine behind the CPU's device and behind a simulated one that gives real answers. Turns a plan
//! into one batch, runs it and takes the outputs apart again. Nothing a file or a plan contains makes it panic.

mod inspect;
mod proto;
mod rten;

pub(crate) use rten::Threads;

use crate::plan::{Rows, RunError, TensorRef};
use crate::request::{ModelId, ModelSpec};
use crate::tensor::DType;
use rten::Graph;
use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The graphs that one device has loaded.
pub(crate) struct Graphs {
    threads: Threads,
    loaded: HashMap<ModelId, (ModelSpec, Graph)>,
}

/// The outputs of one run: a set for each request, and the buffer they point into.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) requests: Vec<Vec<TensorRef>>,
    pub(crate) payload: Vec<u8>,
}

/// One input or output of a whole batch.
#[derive(Debug, PartialEq)]
struct Batched<'a> {
    dtype: DType,
    dims: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl std::fmt::Debug for Graphs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graphs")
            .field("loaded", &self.loaded.keys())
            .finish_non_exhaustive()
    }
}

impl Graphs {
    pub(crate) fn new(threads: Threads) -> Self {
        Self {
            threads,
            loaded: HashMap::new(),
        }
    }

    /// # Errors
    /// Why the file is not run here, for the operator's eyes.
    pub(crate) fn load(&mut self, model: ModelId, file: &[u8]) -> Result<ModelSpec, String> {
        let spec = inspect::inspect(file).map_err(|refusal| refusal.to_string())?;
        let graph = guarded(|| Graph::load(file, &spec))?;
        self.loaded.insert(model, (spec.clone(), graph));
        Ok(spec)
    }

    pub(crate) fn unload(&mut self, model: ModelId) {
        self.loaded.remove(&model);
    }

    /// # Errors
    /// [`RunError::Failed`] for a plan that does not fit the model, and for whatever goes wrong inside the graph.
    pub(crate) fn run(&self, plan: &Rows, payload: &[u8]) -> Result<Outputs, RunError> {
        let Some((spec, graph)) = self.loaded.get(&plan.model) else {
            return Err(RunError::Failed("model is not loaded".to_owned()));
        };
        let inputs = gather(spec, plan, payload).map_err(RunError::Failed)?;
        let outputs =
            guarded(|| graph.run(spec, inputs, &self.threads)).map_err(RunError::Failed)?;
        take_apart(spec, plan, outputs).map_err(RunError::Failed)
    }
}

/// Turns a panic of the engine into an error: it ends one load or one run, not the device.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(|message| (*message).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Err(format!("the engine panicked: {message}"))
    })
}

/// Puts the sets of a plan together, input by input.
fn gather<'a>(
    spec: &ModelSpec,
    plan: &Rows,
    payload: &'a [u8],
) -> Result<Vec<Batched<'a>>, String> {
    plan.check(spec, payload)?;
    (0..)
        .zip(&spec.inputs)
        .map(|(at, port)| {
            let tensors: Vec<&TensorRef> = plan.requests.iter().map(|set| &set[at]).collect();
            let mut dims: Vec<usize> = tensors[0].dims.iter().map(|dim| *dim as usize).collect();
            if let Some(rows) = dims.first_mut() {
                *rows = tensors.iter().map(|tensor| tensor.rows() as usize).sum();
            }
            Ok(Batched {
                dtype: port.dtype,
                dims,
                bytes: side_by_side(&tensors, payload)?,
            })
        })
        .collect()
}

/// The bytes of these tensors, one after the other; without a copy where they lie like that already.
fn side_by_side<'a>(tensors: &[&TensorRef], payload: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
    let mut parts = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        parts.push(tensor.bytes(payload).map_err(|error| error.to_string())?);
    }
    let whole_len: usize = parts.iter().map(|part| part.len()).sum();
    let adjoining = tensors
        .iter()
        .zip(&tensors[1..])
        .all(|(left, right)| left.offset + left.len == right.offset);
    let whole = usize::try_from(tensors[0].offset)
        .ok()
        .and_then(|begin| payload.get(begin..)?.get(..whole_len));
    Ok(match whole {
        Some(whole) if adjoining => Cow::Borrowed(whole),
        _ => Cow::Owned(parts.concat()),
    })
}

/// Gives each request its rows of every output.
fn take_apart(spec: &ModelSpec, plan: &Rows, outputs: Vec<Batched<'_>>) -> Result<Outputs, String> {
    let mut requests: Vec<Vec<TensorRef>> = plan
        .requests
        .iter()
        .map(|_| Vec::with_capacity(outputs.len()))
        .collect();
    let mut payload = Vec::with_capacity(outputs.iter().map(|output| output.bytes.len()).sum());
    for (port, output) in spec.outputs.iter().zip(outputs) {
        let narrow = |dim: &usize| u32::try_from(*dim).map_err(|_| "an output is too large");
        let dims = output
            .dims
            .iter()
            .map(narrow)
            .collect::<Result<Vec<_>, _>>()?;
        let rows = plan.rows();
        if spec.batchable && dims.first() != Some(&rows) {
            return Err(format!(
                "output {:?} has dimensions {dims:?}, expected {rows} rows",
                port.name
            ));
        }
        let mut offset = payload.len() as u64;
        payload.extend_from_slice(&output.bytes);
        for (set, inputs) in requests.iter_mut().zip(&plan.requests) {
            let mut dims = dims.clone();
            let mut len = output.bytes.len() as u64;
            // Without a batch axis the one request gets all.
            if spec.batchable {
                dims[0] = inputs.first().map_or(1, TensorRef::rows);
                len = len / u64::from(rows) * u64::from(dims[0]);
            }
            set.push(TensorRef {
                dtype: output.dtype,
                dims,
                offset,
                len,
            });
            offset += len;
        }
    }
    Ok(Outputs { requests, payload })
}
