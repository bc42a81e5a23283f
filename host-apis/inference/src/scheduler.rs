//! Decides what runs next, and where. Pure: no clock, no I/O, no async; time comes in as `now`. Knows requests by their id,
//! size and deadline only: their tensors and callers are the engine's (`engine`).
//!
//! A request is here from [`Scheduler::push`] until it has been answered: queued, in a batch on a device, or waiting to run
//! again after a failure. Its deadline holds in each of these places.
//!
//! An idle device runs what there is as soon as a batch is full or its oldest request has waited `wait_max`. A busy one has a
//! second slot, so that its next run begins the moment this one ends; a full batch goes there at once, anything less only
//! shortly before that moment, because a batch that is closed early is closed small.

mod loads;
mod queue;
mod slots;

pub(crate) use slots::Batch;

use crate::plan::Ticket;
use crate::request::{ModelId, TenantId};
use loads::Loads;
use queue::{ModelQueue, Room};
use slots::{DeviceSlots, Suspect};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Names one request from its submission to its answer; later ones are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestId(pub(crate) u64);

/// The sizes a model leaves open, beyond the batch axis: only requests that agree in them can share a batch.
pub(crate) type Shape = Box<[u32]>;

/// All the scheduler knows of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) id: RequestId,
    pub(crate) tenant: TenantId,
    pub(crate) model: ModelId,
    pub(crate) shape: Shape,
    pub(crate) rows: u32,
    pub(crate) bytes: u64,
    pub(crate) queued_at: Instant,
    pub(crate) deadline: Instant,
}

/// What bounds queues and batches.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) wait_max: Duration,
    pub(crate) tenant_rows_max: u64,
    pub(crate) tenant_bytes_max: u64,
    pub(crate) batch_bytes_max: u64,
}

/// A queue of the tenant is full: which limit, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueFull {
    pub(crate) limit: &'static str,
    pub(crate) max: u64,
}

/// What one device should do now.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    /// Submit this.
    Run(Run),
    /// Ask again at this instant, or when anything changes.
    WaitUntil(Instant),
    /// Ask again when anything changes.
    Idle,
}

/// A batch that has just been put on a device.
#[derive(Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) ticket: Ticket,
    pub(crate) model: ModelId,
    pub(crate) requests: Vec<RequestId>,
    /// The last deadline among them.
    pub(crate) deadline: Instant,
}

/// Part of a batch that failed, to be run again.
#[derive(Debug)]
struct Retry {
    entries: Vec<Entry>,
    suspect: Suspect,
}

impl Retry {
    fn is_of(&self, model: ModelId) -> bool {
        self.entries.iter().any(|entry| entry.model == model)
    }
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    queues: BTreeMap<ModelId, ModelQueue>,
    /// Of models that are here.
    retries: VecDeque<Retry>,
    devices: Vec<DeviceSlots>,
    loads: Loads,
    /// Every request that is not answered, by deadline, and the queue it may be in.
    deadlines: BTreeMap<(Instant, RequestId), (ModelId, TenantId)>,
    last_ticket: u64,
    /// Moving average of device time by row, over all models and devices: for [`Scheduler::drain_time`] alone.
    row_ns: Option<u64>,
}

impl Scheduler {
    /// For so many devices, each of which holds every model.
    pub(crate) fn new(limits: Limits, devices: usize) -> Self {
        Self {
            limits,
            queues: BTreeMap::new(),
            retries: VecDeque::new(),
            devices: (0..devices).map(|_| DeviceSlots::default()).collect(),
            loads: Loads::default(),
            deadlines: BTreeMap::new(),
            last_ticket: 0,
            row_ns: None,
        }
    }

    /// A model has come, on every device: batches of at most so many rows, 1 if it cannot be batched.
    pub(crate) fn add_model(&mut self, model: ModelId, rows_max: u32) {
        let before = self.queues.insert(model, ModelQueue::new(rows_max));
        assert!(before.is_none(), "the id of a model is used once");
    }

    /// A model goes: no run of it begins any more. Gives back the requests that were queued or waited to run again; what is
    /// on a device ends there (see [`Scheduler::is_running`]), and is not run again if it fails.
    pub(crate) fn remove_model(&mut self, model: ModelId) -> Vec<RequestId> {
        let mut entries = Vec::new();
        if let Some(mut queue) = self.queues.remove(&model) {
            while let Some(entry) = queue.pop(None) {
                self.loads.release(&entry);
                entries.push(entry);
            }
        }
        let retries = std::mem::take(&mut self.retries).into_iter();
        let (gone, kept): (VecDeque<Retry>, _) = retries.partition(|retry| retry.is_of(model));
        self.retries = kept;
        entries.extend(gone.into_iter().flat_map(|retry| retry.entries));
        for device in &mut self.devices {
            device.costs.forget(model);
        }
        self.give_back(entries)
    }

    /// Whether requests of this model can be queued.
    pub(crate) fn has_model(&self, model: ModelId) -> bool {
        self.queues.contains_key(&model)
    }

    /// Whether a run of this model is on a device.
    pub(crate) fn is_running(&self, model: ModelId) -> bool {
        self.devices.iter().any(|device| device.is_running(model))
    }

    /// Queues a request behind the others of its tenant and model, which is here.
    ///
    /// # Errors
    /// The tenant's queue is full.
    pub(crate) fn push(&mut self, entry: Entry) -> Result<(), QueueFull> {
        self.loads.admit(&entry, &self.limits)?;
        self.deadlines
            .insert((entry.deadline, entry.id), (entry.model, entry.tenant));
        self.queue(entry.model).push(entry);
        Ok(())
    }

    /// What `device` should do now. A request for which `gone` is true has no caller any more: it is dropped, uncharged.
    /// Call [`Scheduler::expire`] with the same `now` first.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        device: usize,
        gone: &mut impl FnMut(RequestId) -> bool,
    ) -> Decision {
        if !self.devices[device].has_room() {
            return Decision::Idle;
        }
        while let Some(retry) = self.retries.pop_front() {
            let entries = self.still_wanted(retry.entries, now, gone);
            if !entries.is_empty() {
                return Decision::Run(self.start(now, device, entries, retry.suspect));
            }
        }
        loop {
            let model = match self.soonest(now, device) {
                Soonest::Now(model) => model,
                Soonest::At(at) => return Decision::WaitUntil(at),
                Soonest::Never => return Decision::Idle,
            };
            let entries = self.take(model, gone);
            if !entries.is_empty() {
                return Decision::Run(self.start(now, device, entries, Suspect::No));
            }
        }
    }

    /// A run ended well: its batch, for the engine to answer.
    pub(crate) fn finish(
        &mut self,
        now: Instant,
        device: usize,
        ticket: Ticket,
        device_ns: u64,
    ) -> Option<Batch> {
        let slots = &mut self.devices[device];
        let batch = slots.remove(now, ticket)?;
        let rows = batch.rows();
        // What a model cost that has gone meanwhile would be remembered for ever.
        if self.queues.contains_key(&batch.model) {
            slots.costs.observe(batch.model, rows, device_ns);
        }
        let row_ns = device_ns / u64::from(rows.max(1));
        self.row_ns = Some(
            self.row_ns
                .map_or(row_ns, |mean| mean - mean / 4 + row_ns / 4),
        );
        for entry in &batch.entries {
            self.deadlines.remove(&(entry.deadline, entry.id));
        }
        Some(batch)
    }

    /// A run failed. Its halves run again. Given back are those that do not: a request that ran alone, which is the culprit,
    /// and all of a model that has gone.
    pub(crate) fn fail(&mut self, now: Instant, device: usize, ticket: Ticket) -> Vec<RequestId> {
        let Some(batch) = self.devices[device].remove(now, ticket) else {
            return Vec::new();
        };
        let (mut entries, suspect) = (batch.entries, batch.suspect);
        if entries.len() == 1 || !self.has_model(batch.model) {
            return self.give_back(entries);
        }
        let second = entries.split_off(entries.len() / 2);
        for entries in [second, entries] {
            self.retries.push_front(Retry { entries, suspect });
        }
        Vec::new()
    }

    /// A device is gone. What it held runs again one by one elsewhere. Given back are those that do not: a request that was
    /// running alone because a device had died before, which is the poison, and all of a model that has gone.
    pub(crate) fn die(&mut self, device: usize) -> Vec<RequestId> {
        let mut given_back = Vec::new();
        for batch in self.devices[device].close().into_iter().rev() {
            let was_running = batch.has_begun();
            let is_poison =
                was_running && batch.suspect == Suspect::OfADeath && batch.entries.len() == 1;
            if is_poison || !self.has_model(batch.model) {
                given_back.extend(self.give_back(batch.entries));
                continue;
            }
            let suspect = if was_running {
                Suspect::OfADeath
            } else {
                batch.suspect
            };
            for entry in batch.entries.into_iter().rev() {
                let entries = vec![entry];
                self.retries.push_front(Retry { entries, suspect });
            }
        }
        given_back
    }

    /// Takes out every request whose deadline has passed, wherever it is. One that is on a device goes on running there,
    /// unanswered.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<RequestId> {
        let mut expired = Vec::new();
        let mut queues = BTreeSet::new();
        while let Some(first) = self.deadlines.first_entry()
            && first.key().0 <= now
        {
            let ((_, id), queue) = first.remove_entry();
            expired.push(id);
            queues.insert(queue);
        }
        for (model, tenant) in queues {
            // A request on a device may outlive its model's queue.
            let Some(queue) = self.queues.get_mut(&model) else {
                continue;
            };
            for entry in queue.expire(tenant, now) {
                self.loads.release(&entry);
            }
        }
        expired
    }

    /// The next deadline of any request that is not answered.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first_key_value().map(|((at, _), _)| *at)
    }

    /// Runs on this device, at most [`crate::plan::DEPTH`].
    pub(crate) fn in_flight(&self, device: usize) -> usize {
        self.devices[device].len()
    }

    /// Whether any device is left.
    pub(crate) fn is_live(&self) -> bool {
        self.devices.iter().any(DeviceSlots::is_live)
    }

    /// Rows waiting in queues.
    pub(crate) fn queued_rows(&self) -> u64 {
        self.loads.rows()
    }

    /// How long the devices take for all that is queued; at least 10 ms, at most 30 s, 1 s while nothing has run yet.
    pub(crate) fn drain_time(&self) -> Duration {
        let live = self.devices.iter().filter(|slots| slots.is_live()).count();
        let Some(row_ns) = self.row_ns else {
            return Duration::from_secs(1);
        };
        let ns = row_ns.saturating_mul(self.loads.rows()) / (live.max(1) as u64);
        Duration::from_nanos(ns).clamp(Duration::from_millis(10), Duration::from_secs(30))
    }

    /// Of the models that may run now the one that has not run for longest, so that a flood on one does not hold up another;
    /// else the instant from which the first of them may. A full batch of any model opens a second slot for all: else the
    /// full batches of a flood would take every slot before a small one's time has come.
    fn soonest(&self, now: Instant, device: usize) -> Soonest {
        let opens = if self.queues.values().any(ModelQueue::is_full) {
            Some(now)
        } else {
            self.devices[device].opens(now)
        };
        let mut ready: Option<(u64, ModelId)> = None;
        let mut wake: Option<Instant> = None;
        for (model, queue) in &self.queues {
            let Some(oldest) = queue.oldest() else {
                continue;
            };
            let from = if queue.is_full() {
                now
            } else if let Some(opens) = opens {
                opens.max(oldest + self.limits.wait_max)
            } else {
                continue;
            };
            if from > now {
                wake = Some(wake.map_or(from, |wake| wake.min(from)));
                continue;
            }
            let candidate = (queue.last_run(), *model);
            ready = Some(ready.map_or(candidate, |ready| ready.min(candidate)));
        }
        match (ready, wake) {
            (Some((_, model)), _) => Soonest::Now(model),
            (None, Some(at)) => Soonest::At(at),
            (None, None) => Soonest::Never,
        }
    }

    /// Takes a batch out of a queue: whole requests of one shape, up to the model's rows and the bytes of one batch, tenants
    /// in turn. Empty if nobody waits for any of them any more.
    fn take(&mut self, model: ModelId, gone: &mut impl FnMut(RequestId) -> bool) -> Vec<Entry> {
        let mut batch: Vec<Entry> = Vec::new();
        let mut room = Room {
            rows: self.queue(model).rows_max(),
            bytes: self.limits.batch_bytes_max,
        };
        loop {
            let rest_of = batch.first().map(|first| (&first.shape, room));
            let Some(entry) = self.queue(model).pop(rest_of) else {
                return batch;
            };
            self.loads.release(&entry);
            if gone(entry.id) {
                self.deadlines.remove(&(entry.deadline, entry.id));
                continue;
            }
            self.queue(model).charge(entry.tenant, entry.rows);
            room.rows -= entry.rows;
            room.bytes = room.bytes.saturating_sub(entry.bytes);
            batch.push(entry);
            if room.rows == 0 {
                return batch;
            }
        }
    }

    /// What is left of a failed batch after those whose deadline has passed or whose caller has left.
    fn still_wanted(
        &mut self,
        entries: Vec<Entry>,
        now: Instant,
        gone: &mut impl FnMut(RequestId) -> bool,
    ) -> Vec<Entry> {
        let (wanted, left): (Vec<Entry>, Vec<Entry>) = entries
            .into_iter()
            .partition(|entry| entry.deadline > now && !gone(entry.id));
        for entry in left {
            self.deadlines.remove(&(entry.deadline, entry.id));
        }
        wanted
    }

    fn start(&mut self, now: Instant, device: usize, entries: Vec<Entry>, suspect: Suspect) -> Run {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let model = entries[0].model;
        self.queue(model).note_run(ticket.0);
        let run = Run {
            ticket,
            model,
            requests: entries.iter().map(|entry| entry.id).collect(),
            deadline: entries
                .iter()
                .map(|entry| entry.deadline)
                .max()
                .expect("a batch has a request"),
        };
        self.devices[device].start(now, Batch::new(now, ticket, entries, suspect));
        run
    }

    fn queue(&mut self, model: ModelId) -> &mut ModelQueue {
        self.queues
            .get_mut(&model)
            .expect("a request that waits has its model")
    }

    /// Forgets these requests. Those whose deadline has passed have had their answer by [`Scheduler::expire`].
    fn give_back(&mut self, entries: Vec<Entry>) -> Vec<RequestId> {
        let mut unanswered = |entry: &Entry| self.deadlines.remove(&(entry.deadline, entry.id));
        let ids = entries
            .iter()
            .filter(|entry| unanswered(entry).is_some())
            .map(|entry| entry.id);
        ids.collect()
    }
}

/// See [`Scheduler::soonest`].
enum Soonest {
    Now(ModelId),
    At(Instant),
    Never,
}

fn rows_of(entries: &[Entry]) -> u32 {
    entries.iter().map(|entry| entry.rows).sum()
}

#[cfg(test)]
mod tests;
