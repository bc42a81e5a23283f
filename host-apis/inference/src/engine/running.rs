//! The engine while it serves: who waits for what.

mod models;

use super::changes::{Answer, Changes};
use super::workers::{Event, Workers};
use super::{Doors, Submission};
use crate::error::Error;
use crate::handle::Shared;
use crate::models::Model;
use crate::plan::{DEPTH, RunError, Ticket};
use crate::request::{Explanation, ModelId, Reply};
use crate::scheduler::{Batch, Decision, Entry, Limits, RequestId, Run, Scheduler};
use crate::share;
use crate::tensor::Tensor;
use crate::worker::{Job, Ran, Report, Work};
use models::Leaving;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, sleep_until};

/// Owned by the engine's task.
pub(super) struct Running<'a> {
    shared: &'a Shared,
    scheduler: Scheduler,
    /// Those of the catalogue, and those in `leaving`.
    models: HashMap<ModelId, Arc<Model>>,
    /// Gone from the catalogue, but a run of theirs may still be on a device.
    leaving: Vec<Leaving>,
    changes: Changes,
    /// Every request that is not answered.
    pending: HashMap<RequestId, Pending>,
    last_id: u64,
}

struct Pending {
    /// Kept until the answer, in case the run fails.
    inputs: Arc<[Tensor]>,
    caller: Caller,
}

/// Who waits, and the place it takes among all requests of the node.
struct Caller {
    reply: oneshot::Sender<Result<Reply, Error>>,
    permit: OwnedSemaphorePermit,
}

impl Caller {
    /// The place is free before the answer is seen: whoever was answered may ask again at once. One that has just left
    /// needs no answer.
    fn answer(self, result: Result<Reply, Error>) {
        drop(self.permit);
        drop(self.reply.send(result));
    }
}

impl<'a> Running<'a> {
    pub(super) fn new(shared: &'a Shared, devices: usize) -> Self {
        let config = &shared.config;
        let limits = Limits {
            wait_max: config.wait_max,
            tenant_rows_max: u64::from(config.tenant_rows_max),
            tenant_bytes_max: config.tenant_bytes_max,
            batch_bytes_max: config.tensor_bytes_max,
        };
        Self {
            shared,
            scheduler: Scheduler::new(limits, devices),
            models: HashMap::new(),
            leaving: Vec::new(),
            changes: Changes::default(),
            pending: HashMap::new(),
            last_id: 0,
        }
    }

    /// Until the last handle is gone, or the last device. Callers that still wait then are told by the end of their reply
    /// channel.
    pub(super) async fn serve(mut self, workers: &mut Workers, doors: &mut Doors) {
        let Doors {
            submissions,
            orders,
        } = doors;
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut armed: Option<Instant> = None;
        while self.scheduler.is_live() {
            // Everything that has already come is taken in before anything is decided, so that batches are as full as they
            // can be. At most what is there now: a stream of refused requests must not hold up the rest.
            while let Some((device, event)) = workers.try_next() {
                self.take_in(workers, device, event);
            }
            for _ in 0..submissions.len() {
                if let Ok(submission) = submissions.try_recv() {
                    self.accept(submission);
                }
            }
            // The timer is moved only to an earlier instant: waking once in vain is cheaper than moving it at every turn.
            if let Some(at) = self.dispatch(workers)
                && armed.is_none_or(|armed| at < armed)
            {
                timer.as_mut().reset(at);
                armed = Some(at);
            }
            tokio::select! {
                biased;
                (device, event) = workers.next() => self.take_in(workers, device, event),
                Some(order) = orders.recv() => self.follow(workers, order),
                submission = submissions.recv() => match submission {
                    Some(submission) => self.accept(submission),
                    None => return,
                },
                () = &mut timer, if armed.is_some() => armed = None,
            }
        }
    }

    fn accept(&mut self, submission: Submission) {
        if submission.reply.is_closed() {
            return;
        }
        let caller = Caller {
            reply: submission.reply,
            permit: submission.permit,
        };
        // Checked against a catalogue that had it, and the model has gone since.
        if !self.scheduler.has_model(submission.model) {
            caller.answer(Err(Error::NotLoaded));
            return;
        }
        self.last_id += 1;
        let id = RequestId(self.last_id);
        let pushed = self.scheduler.push(Entry {
            id,
            tenant: submission.tenant,
            model: submission.model,
            shape: submission.inputs.shape,
            rows: submission.inputs.rows,
            bytes: submission.inputs.bytes,
            queued_at: submission.queued_at,
            deadline: submission.deadline,
        });
        if let Err(full) = pushed {
            self.note_queue();
            caller.answer(Err(self.shared.refuse(full.limit, full.max)));
            return;
        }
        let inputs = submission.inputs.tensors;
        self.pending.insert(id, Pending { inputs, caller });
    }

    /// Gives every device what it can take, and says when to look again. Idle devices first, then the second slots.
    fn dispatch(&mut self, workers: &Workers) -> Option<Instant> {
        let now = Instant::now();
        let expired = self.scheduler.expire(now);
        if !expired.is_empty() {
            self.shared
                .count(|stats| stats.expired += expired.len() as u64);
        }
        for id in expired {
            self.give_up(id, Error::DeadlineExceeded);
        }
        let mut wake: Option<Instant> = None;
        for depth in 0..DEPTH {
            for device in 0..workers.len() {
                if self.scheduler.in_flight(device) != depth {
                    continue;
                }
                let pending = &mut self.pending;
                let mut gone = |id| forget_if_gone(pending, id);
                match self.scheduler.next(now, device, &mut gone) {
                    Decision::Run(run) => self.submit(workers, device, now, run),
                    Decision::WaitUntil(at) => wake = Some(wake.map_or(at, |wake| wake.min(at))),
                    Decision::Idle => {}
                }
            }
        }
        self.note_queue();
        let deadline = self.scheduler.next_deadline();
        wake.into_iter().chain(deadline).min()
    }

    fn submit(&self, workers: &Workers, device: usize, now: Instant, run: Run) {
        let inputs = |id| {
            let pending = self.pending.get(id);
            Arc::clone(&pending.expect("a request in a batch has its caller").inputs)
        };
        let model = self.models.get(&run.model);
        let job = Job {
            ticket: run.ticket,
            model: Arc::clone(model.expect("a queued request has its model")),
            requests: run.requests.iter().map(inputs).collect(),
            remaining: run.deadline.saturating_duration_since(now),
        };
        workers.submit(device, Work::Run(job));
    }

    fn take_in(&mut self, workers: &Workers, device: usize, event: Event) {
        let name = workers.name(device);
        match event {
            Event::Report(Report::Ran { ticket, result }) => match result {
                Ok(ran) => self.finish(device, ticket, ran),
                Err(error) => self.fail(device, ticket, &error, name),
            },
            Event::Report(Report::Loaded(result)) => {
                self.change(workers, device, Answer::Loaded(result));
            }
            Event::Report(Report::Unloaded) => self.change(workers, device, Answer::Unloaded),
            Event::Left => {
                tracing::error!(device = name, "the device is gone");
                self.shared.count(|stats| stats.lost_devices += 1);
                let given_back = self.scheduler.die(device);
                // Before anybody is answered: who was told that it stopped must not find it live.
                if !self.scheduler.is_live() {
                    self.shared.live.store(false, Ordering::Release);
                }
                for id in given_back {
                    self.give_up(id, Error::Device);
                }
                self.change(workers, device, Answer::Left);
            }
        }
        self.see_off(workers);
    }

    fn finish(&mut self, device: usize, ticket: Ticket, ran: Ran) {
        let now = Instant::now();
        let Some(batch) = self.scheduler.finish(now, device, ticket, ran.device_ns) else {
            return;
        };
        self.shared.count(|stats| {
            stats.runs += 1;
            stats.rows += u64::from(batch.rows());
            stats.requests += batch.entries.len() as u64;
            // What a device claims is outside data.
            stats.device_busy_ns = stats.device_busy_ns.saturating_add(ran.device_ns);
            stats.batch_rows.observe(u64::from(batch.rows()));
        });
        let model = self.models.get(&batch.model);
        let model = model.expect("a queued request has its model");
        assert_eq!(
            ran.outputs.len(),
            batch.entries.len(),
            "checked by the worker"
        );
        for ((entry, outputs), explanation) in batch
            .entries
            .iter()
            .zip(ran.outputs)
            .zip(explain(&batch, ran.device_ns))
        {
            // Who has left, or whose deadline has passed meanwhile, is not here any more.
            if let Some(pending) = self.pending.remove(&entry.id) {
                let outputs = name_outputs(model, outputs);
                pending.caller.answer(Ok(Reply {
                    outputs,
                    explanation,
                }));
            }
        }
    }

    fn fail(&mut self, device: usize, ticket: Ticket, error: &RunError, name: &str) {
        // What a tenant sends may be the reason, so it is counted, and only told to those who look closely.
        tracing::debug!(device = name, ticket = ticket.0, %error, "a run failed");
        if *error != RunError::Cancelled {
            self.shared.count(|stats| stats.failed_runs += 1);
        }
        for id in self.scheduler.fail(Instant::now(), device, ticket) {
            self.give_up(id, Error::Device);
        }
    }

    fn give_up(&mut self, id: RequestId, error: Error) {
        if let Some(pending) = self.pending.remove(&id) {
            pending.caller.answer(Err(error));
        }
    }

    fn note_queue(&self) {
        let retry_after = self.scheduler.drain_time();
        let retry_after = u64::try_from(retry_after.as_nanos()).unwrap_or(u64::MAX);
        self.shared
            .retry_after_ns
            .store(retry_after, Ordering::Relaxed);
        self.shared
            .queued_rows
            .store(self.scheduler.queued_rows(), Ordering::Relaxed);
    }
}

/// Whether nobody waits for this request any more; then it is forgotten.
fn forget_if_gone(pending: &mut HashMap<RequestId, Pending>, id: RequestId) -> bool {
    let gone = pending
        .get(&id)
        .is_none_or(|pending| pending.caller.reply.is_closed());
    if gone {
        pending.remove(&id);
    }
    gone
}

fn name_outputs(model: &Model, outputs: Vec<Tensor>) -> Vec<(String, Tensor)> {
    let names = model.spec.outputs.iter().map(|port| port.name.clone());
    names.zip(outputs).collect()
}

/// What each request of a batch waited and costs.
fn explain(batch: &Batch, device_ns: u64) -> impl Iterator<Item = Explanation> + '_ {
    let batch_rows = batch.rows();
    let rows: Vec<u32> = batch.entries.iter().map(|entry| entry.rows).collect();
    let shares = share::split(device_ns, &rows);
    batch
        .entries
        .iter()
        .zip(shares)
        .map(move |(entry, share)| Explanation {
            queue: batch.handed_at.saturating_duration_since(entry.queued_at),
            rows: entry.rows,
            batch_rows,
            device: Duration::from_nanos(device_ns),
            device_share_ns: share,
        })
}
