//! `wasi:nn@0.2.0-rc-2024-10-28`, asynchronous: a guest that waits for its batch parks its fiber, never an OS thread.
//!
//! The bindings are generated here because those of `wasmtime-wasi-nn` are synchronous; its [`Tensor`] is our host tensor,
//! so both worlds speak of the same thing. Who the guest is, which models it was granted and when its time is up are bound
//! into the [`Infer`] it was given; nothing a guest passes can name a tenant.

use shoal_inference::{DType, Error, ModelId, ModelSpec, NamedTensor, Tensor, TensorError};
use std::any::Any;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi_nn::Tensor as HostTensor;
use wasmtime_wasi_nn::wit::types::TensorType as HostType;

pub(crate) mod bindings {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated code: its documentation is the WIT"
    )]
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "wasi:nn/ml",
        require_store_data_send: true,
        imports: {
            "wasi:nn/inference.[method]graph-execution-context.compute": async | trappable,
            "wasi:nn/graph.load": async | trappable,
            "wasi:nn/graph.load-by-name": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:nn/graph.graph": super::Graph,
            "wasi:nn/tensor.tensor": wasmtime_wasi_nn::Tensor,
            "wasi:nn/inference.graph-execution-context": super::ExecutionContext,
            "wasi:nn/errors.error": super::NnError,
        },
    });
}
use bindings::wasi::nn::{errors, graph, inference, tensor};
pub use errors::ErrorCode;

/// A boxed future that may move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Answers a guest's model calls, with the guest's identity, grants and deadline bound into it.
pub trait Infer: Send + Sync {
    /// Finds a model by the name the guest gave.
    fn open(&self, name: String) -> BoxFuture<Result<ModelId, OpenError>>;

    /// What a model takes and gives, for guests that know inputs and outputs by their places.
    fn describe(&self, model: ModelId) -> BoxFuture<Result<ModelSpec, Error>>;

    /// Runs one request and waits for its rows.
    fn infer(
        &self,
        model: ModelId,
        inputs: Vec<NamedTensor>,
    ) -> BoxFuture<Result<Vec<NamedTensor>, Error>>;

    /// Runs many requests of one call, which reach the batcher together; the answer of each, in their order.
    fn infer_many(&self, model: ModelId, requests: Vec<Vec<NamedTensor>>) -> BoxFuture<Outcomes>;

    /// Makes vectors of texts: F32 `[texts, dimensions]`, in their order.
    fn embed(&self, model: ModelId, texts: Vec<String>) -> BoxFuture<Result<Tensor, Error>>;
}

/// What came of each request.
pub type Outcomes = Vec<Result<Vec<NamedTensor>, Error>>;

/// Why a model cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The node has no model of this name.
    #[error("no such model on this node")]
    Unknown,
    /// The model exists, but was not granted to this function at deploy.
    #[error("model was not granted to this function")]
    NotGranted,
    /// Whoever answers model calls is gone.
    #[error("inference has stopped")]
    Stopped,
}

impl OpenError {
    /// In words for whoever asked for `model`.
    pub(crate) fn of(self, model: &str) -> String {
        match self {
            Self::Unknown => format!("no model {model:?} on this node"),
            Self::NotGranted => format!("model {model:?} was not granted to this function"),
            Self::Stopped => self.to_string(),
        }
    }
}

/// What one store holds for `wasi:nn`.
pub struct NnCtx {
    host: Arc<dyn Infer>,
    tensor_bytes_held: u64,
    tensor_bytes_max: u64,
}

impl NnCtx {
    /// A context whose tensors may together hold `tensor_bytes_max` bytes of host memory at once.
    pub fn new(host: Arc<dyn Infer>, tensor_bytes_max: u64) -> Self {
        Self {
            host,
            tensor_bytes_held: 0,
            tensor_bytes_max,
        }
    }

    /// A call is over, and whoever answered it is let go. Its guest may hold no tensor any more.
    pub fn end_call(&mut self) {
        self.host = Arc::new(Nobody);
        self.tensor_bytes_held = 0;
    }

    /// Another call begins, and this answers it.
    pub fn begin_call(&mut self, host: Arc<dyn Infer>) {
        self.host = host;
    }
}

/// Whether what a guest holds a handle to may stay when the call that it was made in is over: it names a model and nothing else.
pub fn outlives_a_call(entry: &(dyn Any + Send)) -> bool {
    entry.is::<Graph>() || entry.is::<ExecutionContext>()
}

/// Who answers while no call runs, and no guest can ask.
struct Nobody;

impl Infer for Nobody {
    fn open(&self, _: String) -> BoxFuture<Result<ModelId, OpenError>> {
        Box::pin(ready(Err(OpenError::Stopped)))
    }

    fn describe(&self, _: ModelId) -> BoxFuture<Result<ModelSpec, Error>> {
        Box::pin(ready(Err(Error::Stopped)))
    }

    fn infer(&self, _: ModelId, _: Vec<NamedTensor>) -> BoxFuture<Result<Vec<NamedTensor>, Error>> {
        Box::pin(ready(Err(Error::Stopped)))
    }

    fn infer_many(&self, _: ModelId, requests: Vec<Vec<NamedTensor>>) -> BoxFuture<Outcomes> {
        let stopped = requests.iter().map(|_| Err(Error::Stopped));
        Box::pin(ready(stopped.collect()))
    }

    fn embed(&self, _: ModelId, _: Vec<String>) -> BoxFuture<Result<Tensor, Error>> {
        Box::pin(ready(Err(Error::Stopped)))
    }
}

/// A borrowed view on the store while a call runs.
pub struct NnView<'a> {
    /// Where the guest's handles live.
    pub table: &'a mut ResourceTable,
    /// This store's context.
    pub ctx: &'a mut NnCtx,
}

/// Implemented by the data of a store whose guests may call `wasi:nn`.
pub trait WithNn: Send + 'static {
    /// Borrows what the calls need.
    fn nn(&mut self) -> NnView<'_>;
}

pub(crate) struct HasNn;
impl HasData for HasNn {
    type Data<'a> = NnView<'a>;
}

/// Links the four interfaces of `wasi:nn`.
///
/// # Errors
/// If one of them is linked already.
pub fn add_to_linker<T: WithNn>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    graph::add_to_linker::<T, HasNn>(linker, T::nn)?;
    tensor::add_to_linker::<T, HasNn>(linker, T::nn)?;
    inference::add_to_linker::<T, HasNn>(linker, T::nn)?;
    errors::add_to_linker::<T, HasNn>(linker, T::nn)
}

/// Behind a guest's `graph` handle.
pub struct Graph(ModelId);

/// Behind a guest's `graph-execution-context` handle.
pub struct ExecutionContext(ModelId);

/// Behind a guest's `error` handle.
pub struct NnError {
    code: ErrorCode,
    data: String,
}

/// Longest text behind an error handle.
const ERROR_CHARS_MAX: usize = 500;

/// What a tensor takes of host memory: its dimensions too, since nothing else bounds their number.
fn host_bytes(tensor: &HostTensor) -> u64 {
    (size_of_val(tensor.dimensions.as_slice()) + tensor.data.len()) as u64
}

/// A call that may trap, or answer with an error the guest can read.
pub(crate) type Answer<T> = wasmtime::Result<Result<T, Resource<NnError>>>;

impl NnView<'_> {
    pub(crate) fn refuse<T>(&mut self, code: ErrorCode, why: impl ToString) -> Answer<T> {
        // It may repeat what the guest sent, and stays in host memory for as long as the guest likes.
        let data = why.to_string().chars().take(ERROR_CHARS_MAX).collect();
        Ok(Err(self.table.push(NnError { code, data })?))
    }

    /// Tensors live in host memory, outside the guest's own limit: over this one the guest is stopped, because the
    /// interface's constructor has no error to answer with.
    fn hold(&mut self, tensor: HostTensor) -> wasmtime::Result<Resource<HostTensor>> {
        let held = self.ctx.tensor_bytes_held + host_bytes(&tensor);
        wasmtime::ensure!(
            held <= self.ctx.tensor_bytes_max,
            "tensors hold {held} bytes, at most {} are allowed",
            self.ctx.tensor_bytes_max
        );
        let handle = self.table.push(tensor)?;
        self.ctx.tensor_bytes_held = held;
        Ok(handle)
    }

    fn release(&mut self, handle: Resource<HostTensor>) -> wasmtime::Result<HostTensor> {
        let tensor = self.table.delete(handle)?;
        self.ctx.tensor_bytes_held -= host_bytes(&tensor);
        Ok(tensor)
    }

    /// Who answers.
    pub(crate) fn host(&self) -> Arc<dyn Infer> {
        self.ctx.host.clone()
    }

    /// Takes every input out of the table, valid or not, so that no handle outlives the call; then checks them all.
    pub(crate) fn take_inputs(
        &mut self,
        inputs: Vec<(String, Resource<HostTensor>)>,
    ) -> wasmtime::Result<Result<Vec<NamedTensor>, TensorError>> {
        let mut taken = Vec::with_capacity(inputs.len());
        for (name, handle) in inputs {
            taken.push((name, self.release(handle)?));
        }
        Ok(taken
            .into_iter()
            .map(|(name, t)| {
                let tensor = Tensor::new(dtype(t.ty), t.dimensions, t.data)?;
                Ok((name, tensor))
            })
            .collect())
    }

    /// Asks a model; nothing is submitted before the answer is awaited.
    pub(crate) fn infer(
        &self,
        context: &Resource<ExecutionContext>,
        inputs: Vec<NamedTensor>,
    ) -> wasmtime::Result<BoxFuture<Result<Vec<NamedTensor>, Error>>> {
        let model = self.table.get(context)?.0;
        Ok(self.ctx.host.infer(model, inputs))
    }

    /// Asks for many of one call.
    pub(crate) fn ask_many(
        &self,
        context: &Resource<ExecutionContext>,
        requests: Vec<Vec<NamedTensor>>,
    ) -> wasmtime::Result<BoxFuture<Outcomes>> {
        let model = self.table.get(context)?.0;
        Ok(self.ctx.host.infer_many(model, requests))
    }

    /// What a guest gets of an outcome: outputs in its table, or an error with a code.
    pub(crate) fn answer(
        &mut self,
        outcome: Result<Vec<NamedTensor>, Error>,
    ) -> Answer<Vec<(String, Resource<HostTensor>)>> {
        let outputs = match outcome {
            Ok(outputs) => outputs,
            Err(why) => return self.refuse(error_code(&why), why),
        };
        let mut held = Vec::with_capacity(outputs.len());
        for (name, output) in outputs {
            let (dtype, dims, data) = output.into_parts();
            held.push((
                name,
                self.hold(HostTensor::new(dims, host_type(dtype), data))?,
            ));
        }
        Ok(Ok(held))
    }
}

impl graph::Host for NnView<'_> {
    async fn load(
        &mut self,
        _builder: Vec<Vec<u8>>,
        _encoding: graph::GraphEncoding,
        _target: graph::ExecutionTarget,
    ) -> Answer<Resource<Graph>> {
        self.refuse(
            ErrorCode::UnsupportedOperation,
            "models are added by their owner and opened with load-by-name",
        )
    }

    async fn load_by_name(&mut self, name: String) -> Answer<Resource<Graph>> {
        match self.ctx.host.open(name.clone()).await {
            Ok(model) => Ok(Ok(self.table.push(Graph(model))?)),
            Err(why) => self.refuse(open_code(why), why.of(&name)),
        }
    }
}

impl graph::HostGraph for NnView<'_> {
    fn init_execution_context(
        &mut self,
        graph: Resource<Graph>,
    ) -> Answer<Resource<ExecutionContext>> {
        let model = self.table.get(&graph)?.0;
        Ok(Ok(self.table.push(ExecutionContext(model))?))
    }

    fn drop(&mut self, graph: Resource<Graph>) -> wasmtime::Result<()> {
        self.table.delete(graph)?;
        Ok(())
    }
}

impl inference::Host for NnView<'_> {}

impl inference::HostGraphExecutionContext for NnView<'_> {
    async fn compute(
        &mut self,
        context: Resource<ExecutionContext>,
        inputs: Vec<(String, Resource<HostTensor>)>,
    ) -> Answer<Vec<(String, Resource<HostTensor>)>> {
        let inputs = match self.take_inputs(inputs)? {
            Ok(inputs) => inputs,
            Err(why) => return self.refuse(tensor_code(&why), why),
        };
        let outcome = self.infer(&context, inputs)?.await;
        self.answer(outcome)
    }

    fn drop(&mut self, context: Resource<ExecutionContext>) -> wasmtime::Result<()> {
        self.table.delete(context)?;
        Ok(())
    }
}

impl tensor::Host for NnView<'_> {}

impl tensor::HostTensor for NnView<'_> {
    /// The interface gives a constructor no way to refuse, so a tensor is kept as it came and checked when it is used,
    /// where the guest gets a code it can act on.
    fn new(
        &mut self,
        dims: Vec<u32>,
        ty: tensor::TensorType,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<HostTensor>> {
        self.hold(HostTensor::new(dims, from_guest(ty), data))
    }

    fn dimensions(&mut self, tensor: Resource<HostTensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(self.table.get(&tensor)?.dimensions.clone())
    }

    fn ty(&mut self, tensor: Resource<HostTensor>) -> wasmtime::Result<tensor::TensorType> {
        Ok(to_guest(self.table.get(&tensor)?.ty))
    }

    fn data(&mut self, tensor: Resource<HostTensor>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&tensor)?.data.clone())
    }

    fn drop(&mut self, tensor: Resource<HostTensor>) -> wasmtime::Result<()> {
        self.release(tensor)?;
        Ok(())
    }
}

impl errors::Host for NnView<'_> {}

impl errors::HostError for NnView<'_> {
    fn code(&mut self, error: Resource<NnError>) -> wasmtime::Result<ErrorCode> {
        Ok(self.table.get(&error)?.code)
    }

    fn data(&mut self, error: Resource<NnError>) -> wasmtime::Result<String> {
        Ok(self.table.get(&error)?.data.clone())
    }

    fn drop(&mut self, error: Resource<NnError>) -> wasmtime::Result<()> {
        self.table.delete(error)?;
        Ok(())
    }
}

pub(crate) fn open_code(error: OpenError) -> ErrorCode {
    match error {
        OpenError::Unknown => ErrorCode::NotFound,
        OpenError::NotGranted => ErrorCode::Security,
        OpenError::Stopped => ErrorCode::RuntimeError,
    }
}

fn tensor_code(error: &TensorError) -> ErrorCode {
    match error {
        TensorError::TooLarge { .. } => ErrorCode::TooLarge,
        TensorError::Rank { .. } | TensorError::Overflow { .. } | TensorError::Length { .. } => {
            ErrorCode::InvalidArgument
        }
    }
}

/// The WIT code of every way a request can fail.
pub fn error_code(error: &Error) -> ErrorCode {
    match error {
        Error::Invalid(_) => ErrorCode::InvalidArgument,
        Error::NotLoaded => ErrorCode::NotFound,
        Error::Tensor(error) => tensor_code(error),
        Error::TooManyRows { .. } | Error::TooMuchText(_) => ErrorCode::TooLarge,
        Error::QueueFull { .. } | Error::TooLate { .. } | Error::DeadlineExceeded => {
            ErrorCode::Timeout
        }
        Error::Device | Error::Stopped => ErrorCode::RuntimeError,
    }
}

fn dtype(ty: HostType) -> DType {
    match ty {
        HostType::Fp16 => DType::F16,
        HostType::Bf16 => DType::BF16,
        HostType::Fp32 => DType::F32,
        HostType::Fp64 => DType::F64,
        HostType::U8 => DType::U8,
        HostType::I32 => DType::I32,
        HostType::I64 => DType::I64,
    }
}

fn host_type(dtype: DType) -> HostType {
    match dtype {
        DType::F16 => HostType::Fp16,
        DType::BF16 => HostType::Bf16,
        DType::F32 => HostType::Fp32,
        DType::F64 => HostType::Fp64,
        DType::U8 => HostType::U8,
        DType::I32 => HostType::I32,
        DType::I64 => HostType::I64,
    }
}

/// Our generated enum and that of `wasmtime-wasi-nn` are different types with the same cases: theirs is in a private module.
fn from_guest(ty: tensor::TensorType) -> HostType {
    match ty {
        tensor::TensorType::Fp16 => HostType::Fp16,
        tensor::TensorType::Bf16 => HostType::Bf16,
        tensor::TensorType::Fp32 => HostType::Fp32,
        tensor::TensorType::Fp64 => HostType::Fp64,
        tensor::TensorType::U8 => HostType::U8,
        tensor::TensorType::I32 => HostType::I32,
        tensor::TensorType::I64 => HostType::I64,
    }
}

fn to_guest(ty: HostType) -> tensor::TensorType {
    match ty {
        HostType::Fp16 => tensor::TensorType::Fp16,
        HostType::Bf16 => tensor::TensorType::Bf16,
        HostType::Fp32 => tensor::TensorType::Fp32,
        HostType::Fp64 => tensor::TensorType::Fp64,
        HostType::U8 => tensor::TensorType::U8,
        HostType::I32 => tensor::TensorType::I32,
        HostType::I64 => tensor::TensorType::I64,
    }
}
