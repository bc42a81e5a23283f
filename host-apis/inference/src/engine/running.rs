//! The engine while it serves: who waits for what.

mod models;
mod waiting;

use super::changes::{Answer, Changes};
use super::workers::{Event, Workers};
use super::{Doors, Submission, Submissions};
use crate::error::Error;
use crate::handle::Shared;
use crate::models::Model;
use crate::plan::{DEPTH, RunError, Ticket};
use crate::request::{Explanation, ModelId, Terms};
use crate::scheduler::{
    Decision, Entry, Finished, Limits, RequestId, Run, Scheduler, Targets, TooLate,
};
use crate::worker::{Job, Ran, Report, Work};
use models::Leaving;
use rustc_hash::FxHashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use waiting::{Caller, Waiting};

/// Owned by the engine's task.
pub(super) struct Running<'a> {
    shared: &'a Shared,
    scheduler: Scheduler,
    /// Those of the catalogue, and those in `leaving`.
    models: FxHashMap<ModelId, Arc<Model>>,
    /// Gone from the catalogue, but a run of theirs may still be on a device.
    leaving: Vec<Leaving>,
    changes: Changes,
    waiting: Waiting,
}

/// What came of asking every device.
#[derive(Default)]
struct Asked {
    has_run: bool,
    /// When to ask again.
    wake: Option<Instant>,
}

impl<'a> Running<'a> {
    pub(super) fn new(shared: &'a Shared, depths: &[usize]) -> Self {
        let config = &shared.config;
        let limits = Limits {
            wait_max: config.wait_max,
            terms: Terms {
                weight: 1,
                priority: config.priority_for_all,
                rows_max: u64::from(config.tenant_rows_max),
                bytes_max: config.tenant_bytes_max,
                requests_max: u64::from(config.tenant_requests_max),
            },
            tenant_shapes_max: config.tenant_shapes_max,
            batch_bytes_max: config.tensor_bytes_max,
            targets: Targets {
                priority: config.target_priority,
                default: config.target_default,
            },
        };
        Self {
            shared,
            scheduler: Scheduler::new(limits, depths),
            models: FxHashMap::default(),
            leaving: Vec::new(),
            changes: Changes::default(),
            waiting: Waiting::default(),
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
                if let Ok(submitted) = submissions.try_recv() {
                    self.accept_all(submitted);
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
                submitted = submissions.recv() => match submitted {
                    Some(submitted) => self.accept_all(submitted),
                    None => return,
                },
                () = &mut timer, if armed.is_some() => armed = None,
            }
        }
    }

    fn accept_all(&mut self, submitted: Submissions) {
        match submitted {
            Submissions::One(submission) => self.accept(submission),
            Submissions::Many(submissions) => {
                for submission in submissions {
                    self.accept(submission);
                }
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
        let model = match self.models.get(&submission.model) {
            Some(model) if self.scheduler.has_model(submission.model) => Arc::clone(model),
            Some(_) | None => return caller.answer(Err(Error::NotLoaded)),
        };
        let inputs = &submission.inputs;
        let limit = self.scheduler.rows_max_of(submission.tenant);
        if u64::from(inputs.rows) > limit {
            self.shared.note_refusal("tenant_rows_max");
            return caller.answer(Err(Error::TooManyRows {
                key: "tenant_rows_max",
                rows: inputs.rows,
                limit: u32::try_from(limit).unwrap_or(u32::MAX),
            }));
        }
        let parts = self
            .waiting
            .insert(inputs, submission.deadline, &model, caller);
        let row_bytes = inputs.bytes / u64::from(inputs.rows.max(1));
        let now = Instant::now();
        for (id, rows) in parts {
            let entry = Entry {
                id,
                tenant: submission.tenant,
                model: submission.model,
                class: submission.class,
                shape: inputs.shape.clone(),
                rows,
                row_units: inputs.row_units,
                bytes: row_bytes * u64::from(rows),
                queued_at: submission.queued_at,
                deadline: submission.deadline,
            };
            if let Err(full) = self.scheduler.push(now, entry) {
                self.note_queue();
                let error = self.shared.refuse(full.limit, full.max);
                self.give_up(id, error);
                return;
            }
        }
    }

    /// Gives every device what it can take, and says when to look again. Idle devices first, then the second slots.
    fn dispatch(&mut self, workers: &Workers) -> Option<Instant> {
        let now = Instant::now();
        for id in self.scheduler.expire(now) {
            // The other parts have the same deadline.
            if self.waiting.give_up(id, Error::DeadlineExceeded).is_some() {
                self.shared.count(|stats| stats.expired += 1);
            }
        }
        let mut asked = self.ask_devices(workers, now);
        // What one takes may be what another gave way to.
        while asked.has_run && workers.len() > 1 {
            asked = self.ask_devices(workers, now);
        }
        for TooLate { id, needs, left } in self.scheduler.take_too_late() {
            if let Some(others) = self.waiting.give_up(id, Error::TooLate { needs, left }) {
                self.shared.count(|stats| stats.too_late += 1);
                self.scheduler.withdraw(&others);
            }
        }
        self.note_queue();
        let deadline = self.scheduler.next_deadline();
        asked.wake.into_iter().chain(deadline).min()
    }

    fn ask_devices(&mut self, workers: &Workers, now: Instant) -> Asked {
        let mut asked = Asked::default();
        for depth in 0..=DEPTH {
            for device in 0..workers.len() {
                if self.scheduler.in_flight(device) != depth {
                    continue;
                }
                let waiting = &mut self.waiting;
                let mut gone = |id| waiting.forget_if_gone(id);
                match self.scheduler.next(now, device, &mut gone) {
                    Decision::Run(run) => {
                        asked.has_run = true;
                        self.submit(workers, device, now, run);
                    }
                    Decision::Preempt(ticket) => {
                        workers.submit(device, Work::Cancel(ticket));
                        self.shared.count(|stats| stats.preempted += 1);
                    }
                    Decision::WaitUntil(at) => {
                        asked.wake = Some(asked.wake.map_or(at, |wake| wake.min(at)));
                    }
                    Decision::Idle => {}
                }
            }
        }
        asked
    }

    fn submit(&self, workers: &Workers, device: usize, now: Instant, run: Run) {
        let model = self.models.get(&run.model);
        let job = Job {
            ticket: run.ticket,
            model: Arc::clone(model.expect("a queued request has its model")),
            requests: run
                .requests
                .iter()
                .map(|id| self.waiting.rows(*id))
                .collect(),
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
                self.give_up_all(given_back, &Error::Device);
                self.change(workers, device, Answer::Left);
            }
        }
        self.see_off(workers);
    }

    fn finish(&mut self, device: usize, ticket: Ticket, ran: Ran) {
        let now = Instant::now();
        let finished = self.scheduler.finish(now, device, ticket, ran.device_ns);
        let Some(Finished { batch, shares }) = finished else {
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
        let batch_rows = batch.rows();
        for ((entry, outputs), device_share_ns) in batch.entries.iter().zip(ran.outputs).zip(shares)
        {
            let explanation = Explanation {
                class: entry.class,
                queue: batch.handed_at.saturating_duration_since(entry.queued_at),
                rows: entry.rows,
                batch_rows,
                runs: 1,
                device: Duration::from_nanos(ran.device_ns),
                device_share_ns,
            };
            self.waiting.answer(entry.id, model, outputs, explanation);
        }
    }

    fn fail(&mut self, device: usize, ticket: Ticket, error: &RunError, name: &str) {
        // What a tenant sends may be the reason, so it is counted, and only told to those who look closely.
        tracing::debug!(device = name, ticket = ticket.0, %error, "a run failed");
        if *error != RunError::Cancelled {
            self.shared.count(|stats| stats.failed_runs += 1);
        }
        let now = Instant::now();
        let given_back = match error {
            RunError::Cancelled => self.scheduler.cancelled(now, device, ticket),
            RunError::Failed(_) | RunError::OutOfMemory => self.scheduler.fail(now, device, ticket),
        };
        self.give_up_all(given_back, &Error::Device);
    }

    /// These will not be run, nor the other parts of what they are parts of.
    fn give_up_all(&mut self, ids: Vec<RequestId>, error: &Error) {
        for id in ids {
            self.give_up(id, error.clone());
        }
    }

    fn give_up(&mut self, id: RequestId, error: Error) {
        if let Some(others) = self.waiting.give_up(id, error) {
            self.scheduler.withdraw(&others);
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
