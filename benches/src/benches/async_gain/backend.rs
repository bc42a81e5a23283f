//! Our engine behind the traits of `wasmtime-wasi-nn`, whose `compute` is synchronous: it blocks a thread for each call.

use shoal_inference::{
    Class, DType, Inference, Model, ModelId, ModelSpec, NamedTensor, Request, TenantId,
};
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;
use tokio::time::Instant;
use wasmtime_wasi_nn::backend::{
    BackendError, BackendExecutionContext, BackendFromDir, BackendGraph, BackendInner, Id,
    NamedTensor as HostNamedTensor,
};
use wasmtime_wasi_nn::wit::WasiNnCtx;
use wasmtime_wasi_nn::wit::types::{ExecutionTarget, GraphEncoding, TensorType};
use wasmtime_wasi_nn::{Backend, ExecutionContext, Graph, GraphRegistry, Registry, Tensor};

const TENANT: TenantId = TenantId(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// What a store of `wasmtime-wasi-nn` holds so that its guest runs `model` on our engine.
pub(super) fn context(inference: &Inference, model: &Model) -> WasiNnCtx {
    let graph: Box<dyn BackendGraph> = Box::new(PeerGraph {
        inference: inference.clone(),
        model: model.id,
        spec: Arc::new(model.spec.clone()),
    });
    let graphs = HashMap::from([(model.name.clone(), Graph::from(graph))]);
    WasiNnCtx::new(
        [Backend::from(NoLoading)],
        Registry::from(ByName { graphs }),
    )
}

/// Models are opened by name only.
struct NoLoading;

impl BackendInner for NoLoading {
    fn encoding(&self) -> GraphEncoding {
        GraphEncoding::Onnx
    }

    fn load(&mut self, _: &[&[u8]], _: ExecutionTarget) -> Result<Graph, BackendError> {
        let why = wasmtime::format_err!("models are opened with load-by-name");
        Err(BackendError::BackendAccess(why))
    }

    fn as_dir_loadable(&mut self) -> Option<&mut dyn BackendFromDir> {
        None
    }
}

struct ByName {
    graphs: HashMap<String, Graph>,
}

impl GraphRegistry for ByName {
    fn get(&self, name: &str) -> Option<&Graph> {
        self.graphs.get(name)
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Graph> {
        self.graphs.get_mut(name)
    }
}

struct PeerGraph {
    inference: Inference,
    model: ModelId,
    spec: Arc<ModelSpec>,
}

impl BackendGraph for PeerGraph {
    fn init_execution_context(&self) -> Result<ExecutionContext, BackendError> {
        let context: Box<dyn BackendExecutionContext> = Box::new(PeerContext {
            inference: self.inference.clone(),
            model: self.model,
            spec: self.spec.clone(),
            inputs: HashMap::new(),
            outputs: Vec::new(),
        });
        Ok(context.into())
    }
}

struct PeerContext {
    inference: Inference,
    model: ModelId,
    spec: Arc<ModelSpec>,
    /// Set one by one, as WITX guests do.
    inputs: HashMap<String, Tensor>,
    outputs: Vec<HostNamedTensor>,
}

impl BackendExecutionContext for PeerContext {
    fn set_input(&mut self, id: Id, tensor: &Tensor) -> Result<(), BackendError> {
        let names = self.spec.inputs.iter().map(|port| port.name.as_str());
        let name = find(&id, names).ok_or_else(|| absent("input", &id))?;
        self.inputs.insert(name, tensor.clone());
        Ok(())
    }

    fn get_output(&mut self, id: Id) -> Result<Tensor, BackendError> {
        let names = self.outputs.iter().map(|output| output.name.as_str());
        let name = find(&id, names).ok_or_else(|| absent("output", &id))?;
        let output = self.outputs.iter().find(|output| output.name == name);
        output
            .map(|output| output.tensor.clone())
            .ok_or_else(|| absent("output", &id))
    }

    /// Inputs come with the call (WIT) or were set before (WITX); outputs go back the same way.
    fn compute(
        &mut self,
        inputs: Option<Vec<HostNamedTensor>>,
    ) -> Result<Option<Vec<HostNamedTensor>>, BackendError> {
        let with_call = inputs.is_some();
        let inputs = match inputs {
            Some(inputs) => inputs.into_iter().map(|i| (i.name, i.tensor)).collect(),
            None => std::mem::take(&mut self.inputs),
        };
        let inputs = inputs.into_iter().map(ours).collect::<Result<_, _>>()?;
        let request = Request {
            tenant: TENANT,
            model: self.model,
            class: Class::Default,
            deadline: Instant::now() + PATIENCE,
            inputs,
        };
        let reply = block_on(self.inference.submit(request))
            .map_err(|error| BackendError::BackendAccess(error.into()))?;
        let outputs = reply.outputs.into_iter().map(theirs).collect();
        if with_call {
            return Ok(Some(outputs));
        }
        self.outputs = outputs;
        Ok(None)
    }
}

fn find<'a>(id: &Id, mut names: impl Iterator<Item = &'a str>) -> Option<String> {
    match id {
        Id::Index(index) => names.nth(*index as usize),
        Id::Name(name) => names.find(|known| known == name),
    }
    .map(str::to_owned)
}

fn absent(what: &str, id: &Id) -> BackendError {
    BackendError::BackendAccess(wasmtime::format_err!("the model has no {what} {id:?}"))
}

fn ours((name, tensor): (String, Tensor)) -> Result<NamedTensor, BackendError> {
    shoal_inference::Tensor::new(dtype(tensor.ty), tensor.dimensions, tensor.data)
        .map(|tensor| (name, tensor))
        .map_err(|error| BackendError::BackendAccess(error.into()))
}

fn theirs((name, tensor): NamedTensor) -> HostNamedTensor {
    let (dtype, dims, data) = tensor.into_parts();
    HostNamedTensor {
        name,
        tensor: Tensor::new(dims, tensor_type(dtype), data),
    }
}

fn dtype(ty: TensorType) -> DType {
    match ty {
        TensorType::Fp16 => DType::F16,
        TensorType::Bf16 => DType::BF16,
        TensorType::Fp32 => DType::F32,
        TensorType::Fp64 => DType::F64,
        TensorType::U8 => DType::U8,
        TensorType::I32 => DType::I32,
        TensorType::I64 => DType::I64,
    }
}

fn tensor_type(dtype: DType) -> TensorType {
    match dtype {
        DType::F16 => TensorType::Fp16,
        DType::BF16 => TensorType::Bf16,
        DType::F32 => TensorType::Fp32,
        DType::F64 => TensorType::Fp64,
        DType::U8 => TensorType::U8,
        DType::I32 => TensorType::I32,
        DType::I64 => TensorType::I64,
    }
}

/// What the synchronous interface asks for: this thread waits.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}
