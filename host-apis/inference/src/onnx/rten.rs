//! The embedded ONNX engine, rten. It computes in f32, i32 and u8: 64-bit integers go in and come out through i32, and one
//! that does not fit is an error, not another number.

use super::Batched;
use crate::request::ModelSpec;
use crate::tensor::DType;
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::{Layout, Tensor};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// The threads runs are spread over.
#[derive(Clone, Debug)]
pub(crate) struct Threads(Arc<ThreadPool>);

impl Threads {
    pub(crate) fn new(threads: NonZeroUsize) -> Self {
        Self(Arc::new(ThreadPool::with_num_threads(threads.get())))
    }

    /// Does all of `work` on one of the threads. A run started there stays there: handing each one over would cost two
    /// thread switches, half of a small model's run.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.run(work)
    }
}

/// A loaded graph.
pub(super) struct Graph {
    model: Model,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
}

impl Graph {
    /// # Errors
    /// What rten says of the file.
    pub(super) fn load(file: &[u8], spec: &ModelSpec) -> Result<Self, String> {
        let model = ModelOptions::with_all_ops()
            .prepack_weights(true)
            .load(file.to_vec())
            .map_err(|error| error.to_string())?;
        let node = |name: &String| model.node_id(name).map_err(|error| error.to_string());
        let inputs = spec.inputs.iter().map(|port| node(&port.name));
        let outputs = spec.outputs.iter().map(|port| node(&port.name));
        Ok(Self {
            inputs: inputs.collect::<Result<_, _>>()?,
            outputs: outputs.collect::<Result<_, _>>()?,
            model,
        })
    }

    /// # Errors
    /// What rten says of the run, or an input or output that does not fit its type.
    pub(super) fn run(
        &self,
        spec: &ModelSpec,
        inputs: Vec<Batched<'_>>,
        threads: &Threads,
    ) -> Result<Vec<Batched<'static>>, String> {
        let inputs = self
            .inputs
            .iter()
            .zip(inputs)
            .map(|(node, input)| Ok((*node, ValueOrView::Value(value(&input)?))))
            .collect::<Result<Vec<_>, String>>()?;
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&threads.0)));
        let outputs = self
            .model
            .run(inputs, &self.outputs, Some(options))
            .map_err(|error| error.to_string())?;
        spec.outputs
            .iter()
            .zip(outputs)
            .map(|(port, output)| batched(port.dtype, output))
            .collect()
    }
}

/// Copies: rten wants aligned elements, and a byte buffer promises no alignment. At the memory's speed, which is nothing
/// beside a run.
fn value(input: &Batched<'_>) -> Result<Value, String> {
    let dims = input.dims.as_slice();
    let bytes: &[u8] = &input.bytes;
    let (fours, _) = bytes.as_chunks::<4>();
    let (eights, _) = bytes.as_chunks::<8>();
    Ok(match input.dtype {
        DType::F32 => {
            let values: Vec<f32> = fours.iter().copied().map(f32::from_le_bytes).collect();
            Tensor::from_data(dims, values).into()
        }
        DType::I32 => {
            let values: Vec<i32> = fours.iter().copied().map(i32::from_le_bytes).collect();
            Tensor::from_data(dims, values).into()
        }
        DType::I64 => {
            let narrow = |bytes: [u8; 8]| {
                let wide = i64::from_le_bytes(bytes);
                i32::try_from(wide).map_err(|_| "an integer does not fit in 32 bits".to_owned())
            };
            let values = eights.iter().copied().map(narrow);
            Tensor::from_data(dims, values.collect::<Result<Vec<i32>, _>>()?).into()
        }
        DType::U8 => Tensor::from_data(dims, bytes.to_vec()).into(),
        other @ (DType::F16 | DType::BF16 | DType::F64) => {
            return Err(format!("element type {other:?} is not supported"));
        }
    })
}

fn batched(dtype: DType, output: Value) -> Result<Batched<'static>, String> {
    let found = output.dtype();
    let (dims, bytes) = match (dtype, output) {
        (DType::F32, Value::FloatTensor(tensor)) => (
            tensor.shape().to_vec(),
            le_bytes(&tensor.into_data(), f32::to_le_bytes),
        ),
        (DType::I32, Value::Int32Tensor(tensor)) => (
            tensor.shape().to_vec(),
            le_bytes(&tensor.into_data(), i32::to_le_bytes),
        ),
        (DType::I64, Value::Int32Tensor(tensor)) => {
            let wide = |value: i32| i64::from(value).to_le_bytes();
            (tensor.shape().to_vec(), le_bytes(&tensor.into_data(), wide))
        }
        (DType::U8, Value::UInt8Tensor(tensor)) => (tensor.shape().to_vec(), tensor.into_data()),
        _ => return Err(format!("an output is {found}, expected {dtype:?}")),
    };
    Ok(Batched {
        dtype,
        dims,
        bytes: bytes.into(),
    })
}

fn le_bytes<T: Copy, const N: usize>(values: &[T], to_le_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * N];
    let (elements, _) = bytes.as_chunks_mut::<N>();
    for (element, value) in elements.iter_mut().zip(values) {
        *element = to_le_bytes(*value);
    }
    bytes
}
