//! A batcher as most are: rows are collected until there are enough, or until the first has waited for long enough, then run.
//! Knows no tenants and no costs. On the same devices as ours, and as ours with a second run ready when the first ends.

use super::super::batching::rows::Rows;
use anyhow::Context as _;
use shoal_inference::plan::{Command, DEPTH, Event, Rows as Plan, TensorRef, Ticket};
use shoal_inference::{AnyDevice, Device as _, ModelId, ModelSpec, NamedTensor, Payload};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

const WAIT: Duration = Duration::from_millis(5);
const MODEL: ModelId = ModelId(1);
const WAITING_MAX: usize = 4_096;

/// A handle; the batcher ends with the last.
#[derive(Clone)]
pub(super) struct Window {
    rows: mpsc::Sender<Row>,
}

struct Row {
    inputs: Vec<NamedTensor>,
    at: Instant,
    answer: oneshot::Sender<()>,
}

struct Batcher {
    device: AnyDevice,
    spec: ModelSpec,
    rows_max: usize,
    arriving: mpsc::Receiver<Row>,
    waiting: VecDeque<Row>,
    in_flight: HashMap<Ticket, Vec<oneshot::Sender<()>>>,
    last: u64,
}

impl Window {
    /// Loads the model, and starts a thread as our engine has one.
    pub(super) async fn start(
        mut device: AnyDevice,
        rows_max: u32,
        rows: &Rows,
    ) -> anyhow::Result<Self> {
        device.send(
            Command::Load { model: MODEL },
            Payload::Shared(rows.onnx.clone()),
        )?;
        let loaded = device.recv().await.context("loading the model")?;
        let Event::Loaded { result, .. } = loaded.0 else {
            anyhow::bail!("a device answered a load with {:?}", loaded.0);
        };
        let spec = result.map_err(anyhow::Error::msg)?;
        let (rows, arriving) = mpsc::channel(WAITING_MAX);
        let batcher = Batcher {
            device,
            spec,
            rows_max: rows_max as usize,
            arriving,
            waiting: VecDeque::new(),
            in_flight: HashMap::new(),
            last: 0,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        std::thread::Builder::new()
            .name("window".to_owned())
            .spawn(move || runtime.block_on(batcher.serve()))?;
        Ok(Self { rows })
    }

    pub(super) async fn ask(&self, inputs: Vec<NamedTensor>) -> anyhow::Result<()> {
        let (answer, answered) = oneshot::channel();
        let at = Instant::now();
        let row = Row { inputs, at, answer };
        self.rows.send(row).await.context("the batcher has ended")?;
        answered.await.context("the batcher has ended")
    }
}

impl Batcher {
    async fn serve(mut self) {
        loop {
            while let Ok(row) = self.arriving.try_recv() {
                self.waiting.push_back(row);
            }
            let due = self.waiting.front().map(|row| row.at + WAIT);
            let is_due = due.is_some_and(|due| due <= Instant::now());
            let has_room = self.in_flight.len() < DEPTH;
            if has_room && (self.waiting.len() >= self.rows_max || is_due) {
                self.submit();
                continue;
            }
            let wake = due.filter(|_| has_room).unwrap_or_else(far);
            tokio::select! {
                biased;
                answer = self.device.recv() => match answer {
                    Some((Event::Outcome { ticket, .. }, _)) => self.answer(ticket),
                    Some(_) => {}
                    None => return,
                },
                row = self.arriving.recv() => match row {
                    Some(row) => self.waiting.push_back(row),
                    None => return,
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    fn submit(&mut self) {
        let count = self.waiting.len().min(self.rows_max);
        let rows: Vec<Row> = self.waiting.drain(..count).collect();
        let mut requests = vec![Vec::new(); count];
        let mut payload = Vec::new();
        for port in &self.spec.inputs {
            for (row, refs) in rows.iter().zip(&mut requests) {
                let Some((_, tensor)) = row.inputs.iter().find(|(name, _)| *name == port.name)
                else {
                    continue;
                };
                refs.push(TensorRef {
                    dtype: tensor.dtype(),
                    dims: tensor.dims().to_vec(),
                    offset: payload.len() as u64,
                    len: tensor.data().len() as u64,
                });
                payload.extend_from_slice(tensor.data());
            }
        }
        self.last += 1;
        let ticket = Ticket(self.last);
        let answers = rows.into_iter().map(|row| row.answer).collect();
        self.in_flight.insert(ticket, answers);
        let plan = Plan {
            model: MODEL,
            requests,
        };
        let remaining = Duration::from_secs(60);
        let command = Command::Submit {
            ticket,
            plan,
            remaining,
        };
        // A device that is gone says so in its next answer.
        let _ = self.device.send(command, Payload::Owned(payload));
    }

    fn answer(&mut self, ticket: Ticket) {
        for answer in self.in_flight.remove(&ticket).unwrap_or_default() {
            let _ = answer.send(());
        }
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}
