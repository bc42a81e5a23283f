//! A simulated accelerator: a cost model, a memory size and a script of faults, in the worker's own task and in tokio's time
//! alone, so that tests with a paused clock see exact times. What it answers can be real (the same ONNX engine as the CPU's).
//!
//! Like a real one it holds up to [`crate::plan::DEPTH`] runs, and the second begins the instant the first ends. Real time spent computing is
//! hidden in the modelled time: a run never ends before its modelled end. On a real clock its outcome is seen up to 1 ms
//! later, the grain of tokio's timers; the run after it begins at the modelled instant all the same.

use super::{Device, DeviceGone, DeviceInfo, Payload};
use crate::onnx::{Graphs, Outputs, Threads};
use crate::plan::{Command, Event, Rows, RowsDone, RunError, Ticket};
use crate::request::{ModelId, ModelSpec};
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What a simulated device is.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// For logs and metrics.
    pub name: String,
    /// Time of a run whatever its size.
    pub launch: Duration,
    /// Time of each row on top.
    pub per_row: Duration,
    /// Runs it holds at once, 1 to [`crate::plan::DEPTH`].
    pub depth: usize,
    /// Memory for models and for the inputs and outputs of runs; `None` for no limit.
    pub memory_bytes: Option<u64>,
    /// What it answers.
    pub compute: Compute,
    /// What goes wrong. Runs are counted from 1 in the order they begin.
    pub faults: Vec<Fault>,
}

/// What a simulated device computes.
#[derive(Clone, Debug)]
pub enum Compute {
    /// Outputs are the inputs, for every model; the models' files are not looked at.
    Echo(ModelSpec),
    /// The graph, really.
    Onnx,
}

/// One line of the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Run n fails.
    FailRun(u64),
    /// Every run fails that holds a request whose first input begins with an f32 that is not a number.
    FailPoison,
    /// The device dies in every run that holds such a request.
    DieOfPoison,
    /// Run n never ends, nor does anything behind it.
    HangRun(u64),
    /// Run n does not fit in memory.
    OutOfMemoryRun(u64),
    /// The device dies at the moment run n would have ended.
    DieRun(u64),
}

/// See the module's description.
#[derive(Debug)]
pub struct SimDevice {
    config: SimConfig,
    answers: Answers,
    models: HashMap<ModelId, Loaded>,
    /// Answers to loads and unloads.
    changed: VecDeque<Event>,
    runs: VecDeque<Run>,
    begun: u64,
    free_at: Option<Instant>,
}

/// [`Compute`] at work.
#[derive(Debug)]
enum Answers {
    Echo(ModelSpec),
    Onnx(Graphs),
}

/// A model on the device.
#[derive(Debug)]
struct Loaded {
    batchable: bool,
    bytes: u64,
}

/// A run that has been handed over.
#[derive(Debug)]
struct Run {
    ticket: Ticket,
    begins: Instant,
    end: End,
}

#[derive(Debug)]
enum End {
    At(Instant, Result<(RowsDone, Vec<u8>), RunError>),
    DeathAt(Instant),
    Never,
}

impl SimDevice {
    /// A device with nothing loaded.
    pub fn new(config: SimConfig) -> Self {
        let answers = match &config.compute {
            Compute::Echo(spec) => Answers::Echo(spec.clone()),
            Compute::Onnx => Answers::Onnx(Graphs::new(Threads::new(NonZeroUsize::MIN))),
        };
        Self {
            config,
            answers,
            models: HashMap::new(),
            changed: VecDeque::new(),
            runs: VecDeque::new(),
            begun: 0,
            free_at: None,
        }
    }

    fn load(&mut self, model: ModelId, file: &[u8]) {
        let bytes = file.len() as u64;
        let memory = self.model_bytes().saturating_add(bytes);
        let result = match &mut self.answers {
            _ if self.config.memory_bytes.is_some_and(|max| memory > max) => {
                Err(RunError::OutOfMemory.to_string())
            }
            Answers::Echo(spec) => Ok(spec.clone()),
            Answers::Onnx(graphs) => graphs.load(model, file),
        };
        if let Ok(spec) = &result {
            let batchable = spec.batchable;
            self.models.insert(model, Loaded { batchable, bytes });
        }
        self.changed.push_back(Event::Loaded { model, result });
    }

    fn unload(&mut self, model: ModelId) {
        if let Answers::Onnx(graphs) = &mut self.answers {
            graphs.unload(model);
        }
        self.models.remove(&model);
        self.changed.push_back(Event::Unloaded { model });
    }

    fn model_bytes(&self) -> u64 {
        self.models.values().map(|model| model.bytes).sum()
    }

    fn submit(&mut self, ticket: Ticket, plan: &Rows, payload: Payload, remaining: Duration) {
        let depth = self.config.depth;
        assert!(self.runs.len() < depth, "at most {depth} runs in flight");
        let now = Instant::now();
        let begins = self.free_at.map_or(now, |free| free.max(now));
        if begins > now + remaining {
            let end = End::At(begins, Err(RunError::Cancelled));
            self.runs.push_back(Run {
                ticket,
                begins,
                end,
            });
            return;
        }
        self.begun += 1;
        let busy = self.config.launch + self.config.per_row * self.rows(plan);
        let ends = begins + busy;
        let end = match self.fault(plan, &payload) {
            Some(Fault::HangRun(_)) => End::Never,
            Some(Fault::DieRun(_) | Fault::DieOfPoison) => End::DeathAt(ends),
            Some(Fault::OutOfMemoryRun(_)) => End::At(ends, Err(RunError::OutOfMemory)),
            Some(fault @ (Fault::FailRun(_) | Fault::FailPoison)) => {
                End::At(ends, Err(RunError::Failed(format!("scripted: {fault:?}"))))
            }
            None => {
                let result = self.compute(plan, &payload).map(|outputs| {
                    let done = RowsDone {
                        requests: outputs.requests,
                        device_ns: u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX),
                    };
                    (done, outputs.payload)
                });
                End::At(ends, result)
            }
        };
        self.free_at = Some(ends);
        self.runs.push_back(Run {
            ticket,
            begins,
            end,
        });
    }

    fn rows(&self, plan: &Rows) -> u32 {
        match self.models.get(&plan.model) {
            Some(model) if model.batchable => plan.rows(),
            Some(_) | None => 1,
        }
    }

    /// The first line of the script that concerns this run.
    fn fault(&self, plan: &Rows, payload: &[u8]) -> Option<Fault> {
        self.config
            .faults
            .iter()
            .copied()
            .find(|fault| match fault {
                Fault::FailRun(n)
                | Fault::HangRun(n)
                | Fault::OutOfMemoryRun(n)
                | Fault::DieRun(n) => *n == self.begun,
                Fault::FailPoison | Fault::DieOfPoison => is_poisoned(plan, payload),
            })
    }

    fn compute(&self, plan: &Rows, payload: &[u8]) -> Result<Outputs, RunError> {
        let outputs = match &self.answers {
            Answers::Onnx(graphs) => graphs.run(plan, payload)?,
            Answers::Echo(spec) => {
                if !self.models.contains_key(&plan.model) {
                    return Err(RunError::Failed("model is not loaded".to_owned()));
                }
                plan.check(spec, payload).map_err(RunError::Failed)?;
                Outputs {
                    requests: plan.requests.clone(),
                    payload: payload.to_vec(),
                }
            }
        };
        let memory = self.model_bytes() + (payload.len() + outputs.payload.len()) as u64;
        if self.config.memory_bytes.is_some_and(|max| memory > max) {
            return Err(RunError::OutOfMemory);
        }
        Ok(outputs)
    }

    /// Takes back a run that has not begun; its place in time is free again.
    fn cancel(&mut self, ticket: Ticket) {
        let now = Instant::now();
        let not_begun = |run: &&mut Run| run.ticket == ticket && run.begins > now;
        if let Some(run) = self.runs.iter_mut().find(not_begun) {
            self.free_at = Some(run.begins);
            run.end = End::At(run.begins, Err(RunError::Cancelled));
        }
    }
}

impl Device for SimDevice {
    fn describe(&self) -> DeviceInfo {
        DeviceInfo {
            name: self.config.name.clone(),
            memory_bytes: self.config.memory_bytes,
            simulated: true,
            depth: self.config.depth,
        }
    }

    fn send(&mut self, command: Command, payload: Payload) -> Result<(), DeviceGone> {
        match command {
            Command::Load { model } => self.load(model, &payload),
            Command::Unload { model } => self.unload(model),
            Command::Submit {
                ticket,
                plan,
                remaining,
            } => self.submit(ticket, &plan, payload, remaining),
            Command::Cancel { ticket } => self.cancel(ticket),
        }
        Ok(())
    }

    async fn recv(&mut self) -> Option<(Event, Payload)> {
        if let Some(event) = self.changed.pop_front() {
            return Some((event, Payload::empty()));
        }
        let Some(run) = self.runs.front() else {
            return std::future::pending().await;
        };
        match run.end {
            End::At(at, _) => sleep_until(at).await,
            End::DeathAt(at) => {
                sleep_until(at).await;
                return None;
            }
            End::Never => return std::future::pending().await,
        }
        // Nothing is awaited from here on, so a dropped call has taken nothing.
        let run = self.runs.pop_front()?;
        let ticket = run.ticket;
        let (result, payload) = match run.end {
            End::At(_, Ok((done, payload))) => (Ok(done), Payload::Owned(payload)),
            End::At(_, Err(error)) => (Err(error), Payload::empty()),
            End::DeathAt(_) | End::Never => return None,
        };
        Some((Event::Outcome { ticket, result }, payload))
    }
}

/// Whether a request's first input begins with an f32 that is not a number.
fn is_poisoned(plan: &Rows, payload: &[u8]) -> bool {
    plan.requests.iter().any(|inputs| {
        let first = inputs.first().and_then(|tensor| tensor.bytes(payload).ok());
        first
            .and_then(|bytes| bytes.first_chunk::<4>())
            .is_some_and(|bytes| f32::from_le_bytes(*bytes).is_nan())
    })
}
