//! The synchronous peer of [`crate::nn`]: `wasmtime-wasi-nn` itself, with our engine behind its backend traits. Tests run the
//! same guest on both and compare; benches show what a thread for each waiting guest costs. Not for tenants: its WITX side
//! panics on a bad guest pointer, and it blocks a thread for each call.

use crate::nn::{Infer, dtype, host_type};
use shoal_inference::{ModelId, ModelSpec, NamedTensor};
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use wasmtime_wasi_nn::backend::{
    BackendError, BackendExecutionContext, BackendFromDir, BackendGraph, BackendInner, Id,
    NamedTensor as HostNamedTensor,
};
use wasmtime_wasi_nn::wit::WasiNnCtx;
use wasmtime_wasi_nn::wit::types::{ExecutionTarget, GraphEncoding};
use wasmtime_wasi_nn::{Backend, ExecutionContext, Graph, GraphRegistry, Registry, Tensor};

/// What a store of `wasmtime-wasi-nn` holds so that its guests run `models` on our engine.
pub fn context(host: &Arc<dyn Infer>, models: &[Arc<shoal_inference::Model>]) -> WasiNnCtx {
    let graphs = models
        .iter()
        .map(|model| {
            let graph: Box<dyn BackendGraph> = Box::new(PeerGraph {
                host: host.clone(),
                model: model.id,
                spec: Arc::new(model.spec.clone()),
            });
            (model.name.clone(), Graph::from(graph))
        })
        .collect();
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
    host: Arc<dyn Infer>,
    model: ModelId,
    spec: Arc<ModelSpec>,
}

impl BackendGraph for PeerGraph {
    fn init_execution_context(&self) -> Result<ExecutionContext, BackendError> {
        let context: Box<dyn BackendExecutionContext> = Box::new(PeerContext {
            host: self.host.clone(),
            model: self.model,
            spec: self.spec.clone(),
            inputs: HashMap::new(),
            outputs: Vec::new(),
        });
        Ok(context.into())
    }
}

struct PeerContext {
    host: Arc<dyn Infer>,
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
        let outputs = block_on(self.host.infer(self.model, inputs))
            .map_err(|error| BackendError::BackendAccess(error.into()))?;
        let outputs = outputs.into_iter().map(theirs).collect();
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
        tensor: Tensor::new(dims, host_type(dtype), data),
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
