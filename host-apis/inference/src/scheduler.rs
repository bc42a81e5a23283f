//! Decides what runs next, and where. Pure: no clock, no I/O, no async; time comes in as `now`. Knows requests by their id,
//! size and deadline only: their tensors and callers are the engine's (`engine`).
//!
//! A request is here from [`Scheduler::push`] until it has been answered: queued, in a batch on a device, or waiting to run
//! again after a failure. Its deadline holds in each of these places.
//!
//! Tenants share the devices' time: each is charged what its rows are expected to take when they are handed over, and what
//! they really took when the run has ended. Whoever has been charged least, over its weight, goes next (`lanes`). Which of
//! what waits a device should run now, or whether it should wait a moment longer, is decided in `pick`.

mod echo;
mod lanes;
mod loads;
mod measure;
mod pick;
mod retries;
mod slots;
mod take;

pub use measure::scheduler_cost;
pub(crate) use slots::Batch;

use crate::cost::CostCurve;
use crate::mutant::{self, Mutant};
use crate::plan::Ticket;
use crate::request::{Class, ModelId, TenantId, Terms};
use crate::share;
use echo::Echo;
use lanes::{LaneId, Lanes, Tier};
use loads::Loads;
use pick::Pick;
use retries::Retry;
use slots::{DeviceSlots, Suspect};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// By how much two clocks may differ on the length of a run.
const CLOCK_GRAIN: Duration = Duration::from_millis(1);

/// Names one request from its submission to its answer; later ones are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestId(pub(crate) u64);

/// A request among all that are not answered: in the order of their deadlines.
pub(crate) type Key = (Instant, RequestId);

/// The sizes a model leaves open, beyond the batch axis: only requests that agree in them can share a batch.
pub(crate) type Shape = Box<[u32]>;

/// All the scheduler knows of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) id: RequestId,
    pub(crate) tenant: TenantId,
    pub(crate) model: ModelId,
    pub(crate) class: Class,
    pub(crate) shape: Shape,
    pub(crate) rows: u32,
    /// What one row counts, see [`crate::cost`].
    pub(crate) row_units: u64,
    pub(crate) bytes: u64,
    pub(crate) queued_at: Instant,
    pub(crate) deadline: Instant,
}

impl Entry {
    fn flow(&self) -> Flow {
        Flow {
            tenant: self.tenant,
            class: self.class,
        }
    }

    fn key(&self) -> Key {
        (self.deadline, self.id)
    }

    fn units(&self) -> u64 {
        self.row_units.saturating_mul(u64::from(self.rows))
    }
}

/// Whoever has turns: a tenant's requests of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Flow {
    tenant: TenantId,
    class: Class,
}

/// What bounds queues and batches.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) wait_max: Duration,
    /// Of a tenant without terms of its own.
    pub(crate) terms: Terms,
    /// Models and shapes, together, that one tenant's requests of a class may wait for at once.
    pub(crate) tenant_shapes_max: usize,
    pub(crate) batch_bytes_max: u64,
    pub(crate) targets: Targets,
}

/// How long the requests of a class may take from their arrival to their answer while the devices keep up. Batches are made
/// smaller for it, as far as that costs little throughput.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Targets {
    pub(crate) priority: Duration,
    pub(crate) default: Duration,
}

/// A queue of the tenant is full: which limit, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueFull {
    pub(crate) limit: &'static str,
    pub(crate) max: u64,
}

/// A request whose deadline would pass while it runs: it is not run at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLate {
    pub(crate) id: RequestId,
    /// What it would have taken from here.
    pub(crate) needs: Duration,
    /// What was left.
    pub(crate) left: Duration,
}

/// What one device should do now.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    /// Submit this.
    Run(Run),
    /// Ask this run back, which has not begun; what comes of it decides what happens to its requests.
    Preempt(Ticket),
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

/// A batch that has ended well, and what each of its requests has to pay of it.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) batch: Batch,
    /// Nanoseconds; they sum to the run's.
    pub(crate) shares: Vec<u64>,
}

#[derive(Debug)]
struct ModelState {
    rows_max: u32,
    /// Who comes back, by tier.
    echoes: [Echo; 2],
}

/// Where a request is, if it is queued.
#[derive(Clone, Copy, Debug)]
struct Location {
    lane: LaneId,
    flow: Flow,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    models: BTreeMap<ModelId, ModelState>,
    lanes: Lanes,
    /// Of models that are here.
    retries: VecDeque<Retry>,
    devices: Vec<DeviceSlots>,
    loads: Loads,
    /// Every request that is not answered, by deadline.
    deadlines: BTreeMap<Key, Location>,
    too_late: Vec<TooLate>,
    last_ticket: u64,
    /// Moving average of device time by row, over all models and devices: for [`Scheduler::drain_time`] alone.
    row_ns: Option<u64>,
}

impl Scheduler {
    /// For devices that hold so many runs each, without models.
    pub(crate) fn new(limits: Limits, depths: &[usize]) -> Self {
        Self {
            limits,
            models: BTreeMap::new(),
            lanes: Lanes::default(),
            retries: VecDeque::new(),
            devices: depths.iter().copied().map(DeviceSlots::new).collect(),
            loads: Loads::default(),
            deadlines: BTreeMap::new(),
            too_late: Vec::new(),
            last_ticket: 0,
            row_ns: None,
        }
    }

    /// A model has come, on these devices: batches of at most so many rows, 1 if it cannot be batched. `curve` is what is
    /// known of its cost.
    pub(crate) fn add_model(
        &mut self,
        model: ModelId,
        rows_max: u32,
        devices: impl IntoIterator<Item = usize>,
        curve: &CostCurve,
    ) {
        let echoes = Default::default();
        let state = ModelState { rows_max, echoes };
        let before = self.models.insert(model, state);
        assert!(before.is_none(), "the id of a model is used once");
        for device in devices {
            self.devices[device].add_model(model, curve.clone());
        }
    }

    /// A model goes: no run of it begins any more. Gives back the requests that were queued or waited to run again; what is
    /// on a device ends there (see [`Scheduler::is_running`]), and is not run again if it fails.
    pub(crate) fn remove_model(&mut self, model: ModelId) -> Vec<RequestId> {
        self.models.remove(&model);
        let mut entries = Vec::new();
        for lane in self.lanes.of_model(model) {
            for entry in self.lanes.drain(lane) {
                self.loads.left_queue(&entry);
                entries.push(entry);
            }
        }
        let retries = std::mem::take(&mut self.retries).into_iter();
        let (gone, kept): (VecDeque<Retry>, _) = retries.partition(|retry| retry.model() == model);
        self.retries = kept;
        entries.extend(gone.into_iter().flat_map(|retry| retry.entries));
        for device in &mut self.devices {
            device.remove_model(model);
        }
        self.give_back(entries)
    }

    /// What holds for a tenant from now on; `None`: what holds for all.
    pub(crate) fn set_terms(&mut self, tenant: TenantId, terms: Option<Terms>) {
        self.loads.set_terms(tenant, terms);
    }

    /// Most rows of a request of this tenant: more could never be queued.
    pub(crate) fn rows_max_of(&self, tenant: TenantId) -> u64 {
        self.loads.rows_max(tenant, &self.limits)
    }

    /// Whether requests of this model can be queued.
    pub(crate) fn has_model(&self, model: ModelId) -> bool {
        self.models.contains_key(&model)
    }

    /// Whether a run of this model is on a device.
    pub(crate) fn is_running(&self, model: ModelId) -> bool {
        self.devices.iter().any(|device| device.is_running(model))
    }

    /// Queues a request by its deadline among the others of its tenant, class and model, which is here.
    ///
    /// # Errors
    /// The tenant's queue is full.
    pub(crate) fn push(&mut self, now: Instant, mut entry: Entry) -> Result<(), QueueFull> {
        let state = self.models.get_mut(&entry.model);
        let state = state.expect("a request that is queued has its model");
        assert!(
            (1..=state.rows_max).contains(&entry.rows),
            "a request fits in a batch"
        );
        entry.class = self.loads.class(entry.tenant, entry.class, &self.limits);
        let max = self.limits.tenant_shapes_max;
        if self.lanes.lanes_with(&entry) > max {
            let (limit, max) = ("tenant_shapes_max", max as u64);
            return Err(QueueFull { limit, max });
        }
        self.loads.admit(&entry, &self.limits)?;
        let tier = Tier::of(entry.class);
        state.echoes[tier.at()].arrived(now, entry.rows, self.limits.wait_max);
        self.queue(now, entry);
        Ok(())
    }

    fn queue(&mut self, now: Instant, entry: Entry) {
        let (key, flow) = (entry.key(), entry.flow());
        let lane = self.lanes.push(now, entry);
        self.deadlines.insert(key, Location { lane, flow });
    }

    /// What `device` should do now. A request for which `gone` is true has no caller any more: it is dropped, uncharged.
    /// Call [`Scheduler::expire`] with the same `now` first, and [`Scheduler::take_too_late`] after.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        device: usize,
        gone: &mut impl FnMut(RequestId) -> bool,
    ) -> Decision {
        if !self.devices[device].has_room() {
            return self
                .preempt(device)
                .map_or(Decision::Idle, Decision::Preempt);
        }
        loop {
            // Again after each batch of which nobody was left: it may have been what a retry gave way to.
            if let Some(run) = self.next_retry(now, device, gone) {
                return Decision::Run(run);
            }
            let choice = match self.pick(now, device) {
                Pick::Now(choice) => choice,
                Pick::At(at) => return Decision::WaitUntil(at),
                Pick::Never => return Decision::Idle,
            };
            let (entries, charges) = self.take(now, device, choice, gone);
            if !entries.is_empty() {
                return Decision::Run(self.start(now, device, Start::first(entries, charges)));
            }
        }
    }

    /// Requests that were not run because they could not have ended in time, since this was last asked.
    pub(crate) fn take_too_late(&mut self) -> Vec<TooLate> {
        std::mem::take(&mut self.too_late)
    }

    /// What is content with idle capacity makes room for what is not, as long as it has not begun.
    fn preempt(&mut self, device: usize) -> Option<Ticket> {
        if !self.foreground_waits(device) {
            return None;
        }
        let batch = self.devices[device].preemptible()?;
        batch.preempted = true;
        Some(batch.ticket)
    }

    /// A run ended well: its batch, for the engine to answer.
    pub(crate) fn finish(
        &mut self,
        now: Instant,
        device: usize,
        ticket: Ticket,
        device_ns: u64,
    ) -> Option<Finished> {
        let slots = &mut self.devices[device];
        let batch = slots.remove(now, ticket)?;
        let rows = batch.rows();
        // A device that claims more time than has passed is billed as it says, and not believed: requests would be refused for
        // it, and turns lost.
        let passed = now.saturating_duration_since(batch.handed_at) + CLOCK_GRAIN;
        let believed_ns = device_ns.min(nanos(passed));
        slots.observe(now, batch.model, batch.units(), believed_ns);
        let row_ns = believed_ns / u64::from(rows.max(1));
        self.row_ns = Some(
            self.row_ns
                .map_or(row_ns, |mean| mean - mean / 4 + row_ns / 4),
        );
        // In one batch every row has the same units, so rows are the weights.
        let weights: Vec<u32> = batch.entries.iter().map(|entry| entry.rows).collect();
        let mut shares = share::split(device_ns, &weights);
        if mutant::is(Mutant::Rounds) {
            shares[0] += 1;
        }
        let costs = share::split(believed_ns, &weights);
        let mut answered = [0; 2];
        for ((entry, charged), share) in batch.entries.iter().zip(&batch.charges).zip(&costs) {
            self.settle_charge(entry, *charged, *share);
            self.answered(entry);
            answered[Tier::of(entry.class).at()] += entry.rows;
        }
        if let Some(state) = self.models.get_mut(&batch.model) {
            for (echo, rows) in state.echoes.iter_mut().zip(answered) {
                if rows > 0 {
                    echo.answered(now, rows, self.limits.wait_max);
                }
            }
        }
        Some(Finished { batch, shares })
    }

    /// Takes out every request whose deadline has passed, wherever it is. One that is on a device goes on running there,
    /// unanswered.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<RequestId> {
        let mut expired = Vec::new();
        if mutant::is(Mutant::Late) {
            return expired;
        }
        while let Some(first) = self.deadlines.first_entry()
            && first.key().0 <= now
        {
            let (key, Location { lane, flow }) = first.remove_entry();
            expired.push(key.1);
            self.left(lane, flow, key);
        }
        expired
    }

    /// Forgets requests that need no answer any more, wherever they are. What is on a device goes on running there.
    pub(crate) fn withdraw(&mut self, keys: &[Key]) {
        for key in keys {
            if let Some(Location { lane, flow }) = self.deadlines.remove(key) {
                self.left(lane, flow, *key);
            }
        }
    }

    fn left(&mut self, lane: LaneId, flow: Flow, key: Key) {
        if let Some(entry) = self.lanes.remove(lane, flow, key) {
            self.loads.left_queue(&entry);
        }
        self.loads.answered(flow.tenant);
    }

    /// The next deadline of any request that is not answered.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if mutant::is(Mutant::Late) {
            return None;
        }
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
        self.lanes.rows()
    }

    /// How long the devices take for all that is queued; at least 10 ms, at most 30 s, 1 s while nothing has run yet.
    pub(crate) fn drain_time(&self) -> Duration {
        let live = self.devices.iter().filter(|slots| slots.is_live()).count();
        let Some(row_ns) = self.row_ns else {
            return Duration::from_secs(1);
        };
        let ns = row_ns.saturating_mul(self.lanes.rows()) / (live.max(1) as u64);
        Duration::from_nanos(ns).clamp(Duration::from_millis(10), Duration::from_secs(30))
    }

    /// Whether anybody waits for this device who has a turn.
    fn foreground_waits(&self, device: usize) -> bool {
        let slots = &self.devices[device];
        let mut lanes = self.lanes.in_turn(Tier::Foreground);
        lanes.any(|(_, lane)| slots.has_model(lane.model))
    }

    fn start(&mut self, now: Instant, device: usize, start: Start) -> Run {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let deadlines = start.entries.iter().map(|entry| entry.deadline);
        let run = Run {
            ticket,
            model: start.entries[0].model,
            requests: start.entries.iter().map(|entry| entry.id).collect(),
            deadline: deadlines.max().expect("a batch has a request"),
        };
        let batch = Batch {
            ticket,
            model: run.model,
            entries: start.entries,
            charges: start.charges,
            handed_at: now,
            began: None,
            suspect: start.suspect,
            debt_ns: start.debt_ns,
            preempted: false,
        };
        self.devices[device].start(now, batch);
        run
    }

    /// Forgets these requests. Those whose deadline has passed have had their answer by [`Scheduler::expire`].
    fn give_back(&mut self, entries: Vec<Entry>) -> Vec<RequestId> {
        let unanswered = entries.iter().filter(|entry| self.answered(entry));
        unanswered.map(|entry| entry.id).collect()
    }

    /// Whether it was not answered before.
    fn answered(&mut self, entry: &Entry) -> bool {
        let is_first = self.deadlines.remove(&entry.key()).is_some();
        if is_first {
            self.loads.answered(entry.tenant);
        }
        is_first
    }
}

/// A batch that is about to be put on a device.
struct Start {
    entries: Vec<Entry>,
    charges: Vec<u64>,
    suspect: Suspect,
    debt_ns: u64,
}

impl Start {
    fn first(entries: Vec<Entry>, charges: Vec<u64>) -> Self {
        Self {
            entries,
            charges,
            suspect: Suspect::No,
            debt_ns: 0,
        }
    }
}

fn rows_of(entries: &[Entry]) -> u32 {
    entries.iter().map(|entry| entry.rows).sum()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
