//! One worker for each device: puts the tensors of a batch into one buffer, keeps the device's two slots filled with what the
//! engine sends, and gives each request its rows of the answer. Checks every answer: a device may live in another process.
//! Knows no tenants, no callers and no queue.

use crate::device::{Device, DeviceGone, Payload};
use crate::models::Model;
use crate::plan::{self, Command, Event, RowsDone, RunError, TensorRef, Ticket};
use crate::request::{ModelId, ModelSpec};
use crate::tensor::{DType, Tensor};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// What a worker is given. At most one load or unload is unanswered.
#[derive(Debug)]
pub(crate) enum Work {
    Run(Job),
    /// Make a model ready to run; with its file.
    Load(ModelId, Arc<[u8]>),
    /// Let go of a model.
    Unload(ModelId),
    /// Ask a batch back that may not have begun; its report comes in any case.
    Cancel(Ticket),
}

/// A batch to run.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) ticket: Ticket,
    pub(crate) model: Arc<Model>,
    /// The inputs of each request.
    pub(crate) requests: Vec<Rows>,
    /// Time until the last deadline among them.
    pub(crate) remaining: Duration,
}

/// A request's inputs, or some rows of them.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) tensors: Arc<[Tensor]>,
    /// The rows, where the first axis is the batch axis; all there is, where there is none.
    pub(crate) range: Option<Range<u32>>,
}

impl Rows {
    fn len(&self) -> u32 {
        self.range
            .as_ref()
            .map_or(1, |range| range.end - range.start)
    }

    fn dims(&self, at: usize) -> Vec<u32> {
        let mut dims = self.tensors[at].dims().to_vec();
        if let (Some(_), Some(rows)) = (&self.range, dims.first_mut()) {
            *rows = self.len();
        }
        dims
    }

    fn bytes(&self, at: usize) -> &[u8] {
        let tensor = &self.tensors[at];
        let (Some(range), Some(rows)) = (&self.range, tensor.dims().first()) else {
            return tensor.data();
        };
        let row = tensor.data().len() / (*rows).max(1) as usize;
        &tensor.data()[range.start as usize * row..range.end as usize * row]
    }
}

/// What a worker tells the engine. That it has ended, the engine sees by its task.
#[derive(Debug)]
pub(crate) enum Report {
    /// What the model takes and gives, or why it cannot be loaded.
    Loaded(Result<ModelSpec, String>),
    /// The model has been let go of.
    Unloaded,
    /// A batch has ended.
    Ran {
        ticket: Ticket,
        result: Result<Ran, RunError>,
    },
}

/// The outputs of a batch.
#[derive(Debug)]
pub(crate) struct Ran {
    /// A set for each request, in the job's order.
    pub(crate) outputs: Vec<Vec<Tensor>>,
    pub(crate) device_ns: u64,
}

pub(crate) struct Worker<D> {
    pub(crate) index: usize,
    pub(crate) device: D,
    pub(crate) work: mpsc::Receiver<Work>,
    pub(crate) reports: mpsc::Sender<(usize, Report)>,
}

/// What the device has been told and has not answered.
#[derive(Default)]
struct Asked {
    runs: HashMap<Ticket, Expected>,
    change: Option<Change>,
}

/// What is remembered of a batch until its outcome.
struct Expected {
    model: Arc<Model>,
    /// Rows of each request.
    rows: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq)]
enum Change {
    Load(ModelId),
    Unload(ModelId),
}

impl<D: Device> Worker<D> {
    /// Does what comes. Ends when the engine is gone or the device is.
    pub(crate) async fn run(mut self) {
        let mut asked = Asked::default();
        loop {
            // Both branches are cancel safe: the device's by its contract, the channel's by tokio's.
            tokio::select! {
                biased;
                answer = self.device.recv() => {
                    let Some((event, payload)) = answer else {
                        return;
                    };
                    let Some(report) = asked.report(event, &payload) else {
                        continue;
                    };
                    if self.reports.send((self.index, report)).await.is_err() {
                        return;
                    }
                }
                work = self.work.recv() => {
                    let Some(work) = work else {
                        return;
                    };
                    if self.tell(&mut asked, work).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn tell(&mut self, asked: &mut Asked, work: Work) -> Result<(), DeviceGone> {
        let (command, payload) = match work {
            Work::Run(job) => asked.submit(job),
            Work::Load(model, file) => {
                asked.change = Some(Change::Load(model));
                (Command::Load { model }, Payload::Shared(file))
            }
            Work::Cancel(ticket) => (Command::Cancel { ticket }, Payload::empty()),
            Work::Unload(model) => {
                asked.change = Some(Change::Unload(model));
                (Command::Unload { model }, Payload::empty())
            }
        };
        self.device.send(command, payload)
    }
}

impl Asked {
    fn submit(&mut self, job: Job) -> (Command, Payload) {
        self.runs.insert(
            job.ticket,
            Expected {
                rows: job.requests.iter().map(Rows::len).collect(),
                model: Arc::clone(&job.model),
            },
        );
        let (requests, payload) = gather(&job.requests);
        let command = Command::Submit {
            ticket: job.ticket,
            plan: plan::Rows {
                model: job.model.id,
                requests,
            },
            remaining: job.remaining,
        };
        (command, Payload::Owned(payload))
    }

    /// What an answer means; `None` for one to nothing that was asked.
    fn report(&mut self, event: Event, payload: &[u8]) -> Option<Report> {
        match event {
            Event::Loaded { model, result } => {
                self.changed(Change::Load(model))?;
                Some(Report::Loaded(result))
            }
            Event::Unloaded { model } => {
                self.changed(Change::Unload(model))?;
                Some(Report::Unloaded)
            }
            Event::Outcome { ticket, result } => self.outcome(ticket, result, payload),
        }
    }

    fn changed(&mut self, change: Change) -> Option<Change> {
        let asked = self.change.take_if(|asked| *asked == change);
        if asked.is_none() {
            tracing::warn!("a device answered a load or unload that nobody asked for");
        }
        asked
    }

    fn outcome(
        &mut self,
        ticket: Ticket,
        result: Result<RowsDone, RunError>,
        payload: &[u8],
    ) -> Option<Report> {
        let Some(expected) = self.runs.remove(&ticket) else {
            tracing::warn!(
                ticket = ticket.0,
                "a device answered a run it was not given"
            );
            return None;
        };
        let result = result.and_then(|done| {
            let device_ns = done.device_ns;
            let outputs = scatter(&expected, &done, payload).map_err(RunError::Failed)?;
            Ok(Ran { outputs, device_ns })
        });
        Some(Report::Ran { ticket, result })
    }
}

/// Puts the inputs of all requests into one buffer, input by input, so that the rows of one input lie side by side.
fn gather(requests: &[Rows]) -> (Vec<Vec<TensorRef>>, Vec<u8>) {
    let inputs = requests.first().map_or(0, |rows| rows.tensors.len());
    let bytes_of = |rows: &Rows| (0..inputs).map(|at| rows.bytes(at).len()).sum::<usize>();
    let mut payload = Vec::with_capacity(requests.iter().map(bytes_of).sum());
    let mut refs: Vec<Vec<TensorRef>> = requests
        .iter()
        .map(|_| Vec::with_capacity(inputs))
        .collect();
    for at in 0..inputs {
        for (rows, refs) in requests.iter().zip(&mut refs) {
            let bytes = rows.bytes(at);
            refs.push(TensorRef {
                dtype: rows.tensors[at].dtype(),
                dims: rows.dims(at),
                offset: payload.len() as u64,
                len: bytes.len() as u64,
            });
            payload.extend_from_slice(bytes);
        }
    }
    (refs, payload)
}

/// Takes an answer apart. Every set must be complete, of the model's types and shapes, and have its request's rows.
fn scatter(
    expected: &Expected,
    done: &RowsDone,
    payload: &[u8],
) -> Result<Vec<Vec<Tensor>>, String> {
    let spec = &expected.model.spec;
    if done.requests.len() != expected.rows.len() {
        return Err(format!(
            "the device answered {} requests, expected {}",
            done.requests.len(),
            expected.rows.len()
        ));
    }
    let mut outputs = Vec::with_capacity(done.requests.len());
    for (refs, rows) in done.requests.iter().zip(&expected.rows) {
        if refs.len() != spec.outputs.len() {
            return Err(format!(
                "the device gave {} outputs, expected {}",
                refs.len(),
                spec.outputs.len()
            ));
        }
        let mut set = Vec::with_capacity(refs.len());
        for (tensor, port) in refs.iter().zip(&spec.outputs) {
            let right_rows = !spec.batchable || tensor.dims.first() == Some(rows);
            if tensor.dtype != port.dtype || !right_rows {
                return Err(wrong_output(tensor.dtype, &tensor.dims, &port.name));
            }
            let bytes = tensor.bytes(payload).map_err(|error| error.to_string())?;
            let tensor = Tensor::new(tensor.dtype, tensor.dims.clone(), bytes.to_vec());
            set.push(tensor.map_err(|error| error.to_string())?);
        }
        outputs.push(set);
    }
    Ok(outputs)
}

fn wrong_output(dtype: DType, dims: &[u32], name: &str) -> String {
    format!("output {name:?} came as {dtype:?} {dims:?}")
}
