//! `wasi_ephemeral_nn`, as core modules of preview 1 import it: the interface from before components, over the same [`Infer`].
//! Asynchronous as the other: a guest that waits for its batch parks its fiber.
//!
//! Written by hand: of the six functions each reads and writes the guest's memory itself, and every address is checked. An
//! error is a number; its words go to [`WithWitxNn::complain`]. Handles are small numbers that are never freed, as the
//! interface has it, so their number is bounded.
//!
//! Source: `witx/wasi-nn.witx` of wasmtime-wasi-nn 48.0.8.

use crate::nn::{ErrorCode, Infer, error_code, open_code};
use shoal_inference::{DType, ModelId, ModelSpec, NamedTensor, RANK_MAX, Tensor};
use std::sync::Arc;
use wasmtime::{Caller, Extern, Linker};

const MODULE: &str = "wasi_ephemeral_nn";
/// Longest name of a model that is looked for.
const NAME_BYTES_MAX: u32 = 256;

/// What one store holds for `wasi_ephemeral_nn`.
pub struct WitxNn {
    host: Arc<dyn Infer>,
    graphs: Vec<Arc<Graph>>,
    contexts: Vec<Execution>,
    bytes_held: u64,
    bytes_max: u64,
    handles_max: usize,
}

/// Implemented by the data of a store whose guests may call `wasi_ephemeral_nn`.
pub trait WithWitxNn: Send + 'static {
    /// Borrows what the calls need.
    fn witx_nn(&mut self) -> &mut WitxNn;

    /// Takes what a guest cannot be told: the words of an error.
    fn complain(&mut self, words: &str);
}

struct Graph {
    model: ModelId,
    spec: ModelSpec,
}

struct Execution {
    graph: Arc<Graph>,
    inputs: Vec<Option<Tensor>>,
    outputs: Vec<Tensor>,
}

/// `nn_errno`, but for `success`.
#[derive(Clone, Copy)]
enum Errno {
    InvalidArgument = 1,
    MissingMemory = 3,
    Busy = 4,
    RuntimeError = 5,
    UnsupportedOperation = 6,
    TooLarge = 7,
    NotFound = 8,
}

/// Why a call failed, and what is to be said of it.
struct Refused(Errno, String);

type Outcome<T> = Result<T, Refused>;

impl WitxNn {
    /// A context whose tensors may together hold `bytes_max` bytes of host memory at once, with `handles_max` handles.
    pub fn new(host: Arc<dyn Infer>, bytes_max: u64, handles_max: usize) -> Self {
        Self {
            host,
            graphs: Vec::new(),
            contexts: Vec::new(),
            bytes_held: 0,
            bytes_max,
            handles_max,
        }
    }

    fn room(&self) -> Outcome<()> {
        if self.graphs.len() + self.contexts.len() < self.handles_max {
            return Ok(());
        }
        let words = format!("at most {} handles are allowed", self.handles_max);
        Err(Refused(Errno::TooLarge, words))
    }

    fn context(&mut self, handle: u32) -> Outcome<&mut Execution> {
        let context = self.contexts.get_mut(handle as usize);
        context.ok_or_else(|| invalid(format!("no execution context {handle}")))
    }

    /// Gives back what `before` held, and takes what comes in its place.
    fn hold(&mut self, before: u64, after: u64) -> Outcome<()> {
        let held = self.bytes_held - before + after;
        if held > self.bytes_max {
            let words = format!(
                "tensors hold {held} bytes, at most {} are allowed",
                self.bytes_max
            );
            return Err(Refused(Errno::TooLarge, words));
        }
        self.bytes_held = held;
        Ok(())
    }

    fn set_input(&mut self, context: u32, index: u32, tensor: Tensor) -> Outcome<()> {
        let execution = self.context(context)?;
        let count = execution.inputs.len();
        let slot = execution.inputs.get(index as usize);
        let slot =
            slot.ok_or_else(|| invalid(format!("no input {index}: the model has {count}")))?;
        let before = slot.as_ref().map_or(0, bytes);
        self.hold(before, bytes(&tensor))?;
        self.context(context)?.inputs[index as usize] = Some(tensor);
        Ok(())
    }

    /// The inputs of a context by name; they stay where they are, for a guest may compute again.
    fn inputs(&mut self, context: u32) -> Outcome<(ModelId, Vec<NamedTensor>)> {
        let execution = self.context(context)?;
        let ports = &execution.graph.spec.inputs;
        let given = ports.iter().zip(&execution.inputs);
        let named = given.filter_map(|(port, tensor)| Some((port.name.clone(), tensor.clone()?)));
        Ok((execution.graph.model, named.collect()))
    }

    fn set_outputs(&mut self, context: u32, outputs: Vec<Tensor>) -> Outcome<()> {
        let before = self.context(context)?.outputs.iter().map(bytes).sum();
        self.hold(before, outputs.iter().map(bytes).sum())?;
        self.context(context)?.outputs = outputs;
        Ok(())
    }
}

fn bytes(tensor: &Tensor) -> u64 {
    tensor.data().len() as u64
}

fn invalid(words: impl Into<String>) -> Refused {
    Refused(Errno::InvalidArgument, words.into())
}

/// Links the interface.
///
/// # Errors
/// If it is linked already.
pub fn add_to_linker<T: WithWitxNn>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "load",
        |mut caller: Caller<'_, T>,
         _builder: u32,
         _len: u32,
         _encoding: u32,
         _target: u32,
         _out: u32| {
            let words = "models are added by their owner and opened with load_by_name";
            errno(
                &mut caller,
                Err(Refused(Errno::UnsupportedOperation, words.to_owned())),
            )
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "load_by_name",
        |mut caller: Caller<'_, T>, (name, len, out): (u32, u32, u32)| {
            Box::new(async move {
                let loaded = load_by_name(&mut caller, name, len, out).await;
                errno(&mut caller, loaded)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "init_execution_context",
        |mut caller: Caller<'_, T>, graph: u32, out: u32| {
            let made = init_execution_context(&mut caller, graph, out);
            errno(&mut caller, made)
        },
    )?;
    linker.func_wrap(
        MODULE,
        "set_input",
        |mut caller: Caller<'_, T>, context: u32, index: u32, tensor: u32| {
            let set = read_tensor(&mut caller, tensor).and_then(|tensor| {
                caller
                    .data_mut()
                    .witx_nn()
                    .set_input(context, index, tensor)
            });
            errno(&mut caller, set)
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "compute",
        |mut caller: Caller<'_, T>, (context,): (u32,)| {
            Box::new(async move {
                let computed = compute(&mut caller, context).await;
                errno(&mut caller, computed)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "get_output",
        |mut caller: Caller<'_, T>, context: u32, index: u32, buffer: u32, size: u32, out: u32| {
            let got = get_output(&mut caller, context, index, (buffer, size), out);
            errno(&mut caller, got)
        },
    )?;
    Ok(())
}

fn errno<T: WithWitxNn>(caller: &mut Caller<'_, T>, outcome: Outcome<()>) -> i32 {
    match outcome {
        Ok(()) => 0,
        Err(Refused(errno, words)) => {
            caller.data_mut().complain(&words);
            errno as i32
        }
    }
}

async fn load_by_name<T: WithWitxNn>(
    caller: &mut Caller<'_, T>,
    name: u32,
    len: u32,
    out: u32,
) -> Outcome<()> {
    caller.data_mut().witx_nn().room()?;
    if len > NAME_BYTES_MAX {
        return Err(Refused(
            Errno::NotFound,
            "no model has so long a name".to_owned(),
        ));
    }
    let name = read(caller, name, len)?;
    let name = String::from_utf8(name).map_err(|_| invalid("a model's name is UTF-8"))?;
    let host = caller.data_mut().witx_nn().host.clone();
    let failed =
        |code, why: &dyn ToString| Refused(of_code(code), format!("{name}: {}", why.to_string()));
    let opened = host.open(name.clone()).await;
    let model = opened.map_err(|why| Refused(of_code(open_code(why)), why.of(&name)))?;
    let described = host.describe(model).await;
    let spec = described.map_err(|why| failed(error_code(&why), &why))?;
    let nn = caller.data_mut().witx_nn();
    let handle = nn.graphs.len() as u32;
    nn.graphs.push(Arc::new(Graph { model, spec }));
    write(caller, out, &handle.to_le_bytes())
}

fn init_execution_context<T: WithWitxNn>(
    caller: &mut Caller<'_, T>,
    graph: u32,
    out: u32,
) -> Outcome<()> {
    let nn = caller.data_mut().witx_nn();
    nn.room()?;
    let found = nn.graphs.get(graph as usize).cloned();
    let graph = found.ok_or_else(|| invalid(format!("no graph {graph}")))?;
    let handle = nn.contexts.len() as u32;
    nn.contexts.push(Execution {
        inputs: vec![None; graph.spec.inputs.len()],
        outputs: Vec::new(),
        graph,
    });
    write(caller, out, &handle.to_le_bytes())
}

async fn compute<T: WithWitxNn>(caller: &mut Caller<'_, T>, context: u32) -> Outcome<()> {
    let nn = caller.data_mut().witx_nn();
    let (model, inputs) = nn.inputs(context)?;
    let outcome = nn.host.clone().infer(model, inputs).await;
    let outputs = outcome.map_err(|why| Refused(of_code(error_code(&why)), why.to_string()))?;
    let outputs = outputs.into_iter().map(|(_, tensor)| tensor).collect();
    caller.data_mut().witx_nn().set_outputs(context, outputs)
}

fn get_output<T: WithWitxNn>(
    caller: &mut Caller<'_, T>,
    context: u32,
    index: u32,
    (buffer, size): (u32, u32),
    out: u32,
) -> Outcome<()> {
    let execution = caller.data_mut().witx_nn().context(context)?;
    let count = execution.outputs.len();
    let output = execution.outputs.get(index as usize);
    let output = output.ok_or_else(|| invalid(format!("no output {index}: there are {count}")))?;
    let len = output.data().len() as u32;
    if len > size {
        let words = format!("output {index} has {len} bytes, the buffer {size}");
        return Err(Refused(Errno::TooLarge, words));
    }
    // A copy: memory and handles belong to one store.
    let data = output.data().to_vec();
    write(caller, buffer, &data)?;
    write(caller, out, &len.to_le_bytes())
}

/// A record of `dimensions: list<u32>`, `type: u8`, `data: list<u8>`; a list is an address and a length.
fn read_tensor<T: WithWitxNn>(caller: &mut Caller<'_, T>, at: u32) -> Outcome<Tensor> {
    const RECORD_BYTES: u32 = 20;
    let record = read(caller, at, RECORD_BYTES)?;
    let word = |at: usize| {
        let bytes = record[at..at + 4].try_into();
        u32::from_le_bytes(bytes.expect("four bytes"))
    };
    let (dims, rank, data, len) = (word(0), word(4), word(12), word(16));
    if rank as usize > RANK_MAX {
        return Err(invalid(format!(
            "tensor has {rank} dimensions, at most {RANK_MAX} are allowed"
        )));
    }
    let dims = read(caller, dims, rank * 4)?;
    let dims = dims
        .chunks_exact(4)
        .map(|dim| u32::from_le_bytes(dim.try_into().expect("chunks of four")))
        .collect();
    let dtype = match record[8] {
        0 => DType::F16,
        1 => DType::F32,
        2 => DType::F64,
        3 => DType::U8,
        4 => DType::I32,
        5 => DType::I64,
        other => return Err(invalid(format!("no tensor type {other}"))),
    };
    let limit = caller.data_mut().witx_nn().bytes_max;
    if u64::from(len) > limit {
        let words = format!("tensor has {len} bytes, at most {limit} are allowed");
        return Err(Refused(Errno::TooLarge, words));
    }
    let data = read(caller, data, len)?;
    Tensor::new(dtype, dims, data).map_err(|why| invalid(why.to_string()))
}

/// Where and how much, if that is within `memory`.
fn place(memory: &[u8], at: u32, len: usize) -> Outcome<std::ops::Range<usize>> {
    let start = at as usize;
    let end = start.checked_add(len).filter(|end| *end <= memory.len());
    end.map(|end| start..end)
        .ok_or_else(|| invalid(format!("{len} bytes at {at} are not all in the memory")))
}

fn read<T: WithWitxNn>(caller: &mut Caller<'_, T>, at: u32, len: u32) -> Outcome<Vec<u8>> {
    let memory = memory(caller)?;
    let memory = memory.data(&*caller);
    Ok(memory[place(memory, at, len as usize)?].to_vec())
}

fn write<T: WithWitxNn>(caller: &mut Caller<'_, T>, at: u32, bytes: &[u8]) -> Outcome<()> {
    let memory = memory(caller)?;
    let memory = memory.data_mut(caller);
    let place = place(memory, at, bytes.len())?;
    memory[place].copy_from_slice(bytes);
    Ok(())
}

fn memory<T: WithWitxNn>(caller: &mut Caller<'_, T>) -> Outcome<wasmtime::Memory> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => Err(Refused(
            Errno::MissingMemory,
            "the module exports no memory".to_owned(),
        )),
    }
}

fn of_code(code: ErrorCode) -> Errno {
    match code {
        ErrorCode::NotFound => Errno::NotFound,
        ErrorCode::TooLarge => Errno::TooLarge,
        ErrorCode::Timeout => Errno::Busy,
        ErrorCode::UnsupportedOperation | ErrorCode::Security => Errno::UnsupportedOperation,
        ErrorCode::InvalidArgument | ErrorCode::InvalidEncoding => Errno::InvalidArgument,
        ErrorCode::RuntimeError | ErrorCode::Unknown => Errno::RuntimeError,
    }
}
