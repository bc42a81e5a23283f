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
mod slots;

pub use measure::scheduler_cost;
pub(crate) use slots::Batch;

use crate::cost::CostCurve;
use crate::mutant::{self, Mutant};
use crate::plan::Ticket;
use crate::request::{Class, ModelId, TenantId, Terms};
use crate::share;
use echo::Echo;
use lanes::{LaneId, Lanes, Room, Tier};
use loads::Loads;
use pick::{Choice, Pick};
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

/// Part of a batch that failed, to be run again.
#[derive(Debug)]
struct Retry {
    entries: Vec<Entry>,
    suspect: Suspect,
    debt_ns: u64,
}

impl Retry {
    fn is_of(&self, model: ModelId) -> bool {
        self.entries.iter().any(|entry| entry.model == model)
    }
}

#[derive(Debug)]
struct ModelState {
    rows_max: u32,
    /// Who comes back, of either tier.
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
        let (gone, kept): (VecDeque<Retry>, _) = retries.partition(|retry| retry.is_of(model));
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
        state
            .echo(tier)
            .arrived(now, entry.rows, self.limits.wait_max);
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

    fn next_retry(
        &mut self,
        now: Instant,
        device: usize,
        gone: &mut impl FnMut(RequestId) -> bool,
    ) -> Option<Run> {
        let mut elsewhere = VecDeque::new();
        let mut run = None;
        while let Some(retry) = self.retries.pop_front() {
            let model = retry.entries.first().map(|entry| entry.model);
            if model.is_some_and(|model| !self.devices[device].has_model(model)) {
                elsewhere.push_back(retry);
                continue;
            }
            if self.gives_way(device, &retry) {
                elsewhere.push_back(retry);
                continue;
            }
            let entries = self.still_wanted(retry.entries, retry.debt_ns, now, gone);
            let Some(first) = entries.first() else {
                continue;
            };
            let row_ns = self.row_ns_of(device, first, rows_of(&entries));
            let charges = entries
                .iter()
                .map(|entry| self.charge(entry, row_ns))
                .collect();
            let start = Start {
                entries,
                charges,
                suspect: retry.suspect,
                debt_ns: retry.debt_ns,
            };
            run = Some(self.start(now, device, start));
            break;
        }
        while let Some(retry) = elsewhere.pop_back() {
            self.retries.push_front(retry);
        }
        run
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
        let began = batch.began.unwrap_or(batch.handed_at);
        let passed = now.saturating_duration_since(began) + CLOCK_GRAIN;
        let believed_ns = device_ns.min(nanos(passed));
        slots.observe(now, batch.model, batch.units(), believed_ns);
        let row_ns = device_ns / u64::from(rows.max(1));
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
            match Tier::of(entry.class) {
                Tier::Foreground => answered[0] += entry.rows,
                Tier::Idle => answered[1] += entry.rows,
            }
        }
        if let Some(state) = self.models.get_mut(&batch.model) {
            for (tier, rows) in [Tier::Foreground, Tier::Idle].into_iter().zip(answered) {
                if rows > 0 {
                    state.echo(tier).answered(now, rows, self.limits.wait_max);
                }
            }
        }
        Some(Finished { batch, shares })
    }

    /// A run failed. Its halves run again. Given back are those that do not: a request that ran alone, which is the culprit
    /// and is charged what all its failed runs took, and all of a model that has gone.
    pub(crate) fn fail(&mut self, now: Instant, device: usize, ticket: Ticket) -> Vec<RequestId> {
        let Some(batch) = self.devices[device].remove(now, ticket) else {
            return Vec::new();
        };
        self.refund(&batch);
        let took = batch
            .began
            .map(|began| now.saturating_duration_since(began));
        let debt_ns = batch
            .debt_ns
            .saturating_add(nanos(took.unwrap_or_default()));
        let (mut entries, suspect) = (batch.entries, batch.suspect);
        if !self.has_model(batch.model) {
            return self.give_back(entries);
        }
        if let [culprit] = &entries[..] {
            let cost = self.loads.cost(culprit.flow(), debt_ns);
            self.lanes.charge(culprit.flow(), cost);
            return self.give_back(entries);
        }
        let second = entries.split_off(entries.len() / 2);
        for entries in [second, entries] {
            self.retries.push_front(Retry {
                entries,
                suspect,
                debt_ns,
            });
        }
        Vec::new()
    }

    /// A run was not begun: it was asked back, or the device found it too late. Its requests wait again, each where it was.
    /// Given back are those of a model that has gone.
    pub(crate) fn cancelled(
        &mut self,
        now: Instant,
        device: usize,
        ticket: Ticket,
    ) -> Vec<RequestId> {
        let Some(batch) = self.devices[device].remove(now, ticket) else {
            return Vec::new();
        };
        self.refund(&batch);
        if !self.has_model(batch.model) {
            return self.give_back(batch.entries);
        }
        if batch.suspect != Suspect::No || batch.debt_ns > 0 {
            self.retries.push_front(Retry {
                entries: batch.entries,
                suspect: batch.suspect,
                debt_ns: batch.debt_ns,
            });
            return Vec::new();
        }
        for entry in batch.entries {
            // One whose deadline has passed meanwhile has had its answer.
            if self.deadlines.contains_key(&entry.key()) {
                self.loads.queued_again(&entry);
                self.queue(now, entry);
            }
        }
        Vec::new()
    }

    /// A device is gone. What it held runs again one by one elsewhere. Given back are those that do not: a request that was
    /// running alone because a device had died before, which is the poison, and all of a model that has gone.
    pub(crate) fn die(&mut self, device: usize) -> Vec<RequestId> {
        let mut given_back = Vec::new();
        for batch in self.devices[device].close().into_iter().rev() {
            self.refund(&batch);
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
                self.retries.push_front(Retry {
                    entries: vec![entry],
                    suspect,
                    debt_ns: batch.debt_ns,
                });
            }
        }
        given_back
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

    /// Takes a batch out of a lane: whole requests up to its rows and the bytes of one batch, tenants in turn; what is
    /// content with idle capacity fills what is left. Empty if nobody waits for any of them any more.
    fn take(
        &mut self,
        now: Instant,
        device: usize,
        choice: Choice,
        gone: &mut impl FnMut(RequestId) -> bool,
    ) -> (Vec<Entry>, Vec<u64>) {
        let Choice { lane, tier, rows } = choice;
        self.lanes.ran(lane, self.last_ticket + 1, now);
        let mut taken = (Vec::new(), Vec::new());
        let mut room = Room {
            rows,
            bytes: self.limits.batch_bytes_max,
        };
        let row_ns = |scheduler: &Self, first: &Entry| scheduler.row_ns_of(device, first, rows);
        for (nth, tier) in tier.with_what_fills_it().iter().enumerate() {
            self.lanes.turn(lane, *tier);
            // What fills up a batch does not lead one: whoever else waits goes first.
            while room.rows > 0 && (nth == 0 || !taken.0.is_empty()) {
                let alone = Room {
                    rows: room.rows,
                    // A request that is larger than a batch may be runs alone.
                    bytes: if taken.0.is_empty() {
                        u64::MAX
                    } else {
                        room.bytes
                    },
                };
                let Some(entry) = self.lanes.pop(lane, *tier, alone) else {
                    break;
                };
                self.loads.left_queue(&entry);
                if mutant::is(Mutant::Loses) && entry.id.0 % 16 == 15 {
                    self.answered(&entry);
                    continue;
                }
                if gone(entry.id) {
                    self.answered(&entry);
                    self.lanes.leak(&entry);
                    continue;
                }
                if let Some(too_late) = self.too_late(now, device, &entry) {
                    self.answered(&entry);
                    self.too_late.push(too_late);
                    continue;
                }
                room.rows -= entry.rows;
                room.bytes = room.bytes.saturating_sub(entry.bytes);
                let row_ns = row_ns(self, &entry);
                taken.1.push(self.charge(&entry, row_ns));
                if mutant::is(Mutant::Repeats) && room.rows > 0 {
                    taken.1.push(0);
                    taken.0.push(entry.clone());
                }
                taken.0.push(entry);
            }
        }
        taken
    }

    /// Whether a request would still run at its deadline, if it began as soon as this device can and alone.
    fn too_late(&self, now: Instant, device: usize, entry: &Entry) -> Option<TooLate> {
        if mutant::is(Mutant::Late) {
            return None;
        }
        let needs = |slots: &DeviceSlots| {
            let run = slots.know_ns(now, entry.model, entry.units())?;
            let begins = slots.free_at(now).unwrap_or(now);
            Some(begins.saturating_duration_since(now) + Duration::from_nanos(run))
        };
        let here = needs(&self.devices[device])?;
        // Another may be sooner; then it is tried.
        let devices = self.devices.iter();
        let needs = devices.filter_map(needs).min().unwrap_or(here);
        let left = entry.deadline.saturating_duration_since(now);
        (needs > left).then_some(TooLate {
            id: entry.id,
            needs,
            left,
        })
    }

    /// What a row costs in a batch of so many.
    fn row_ns_of(&self, device: usize, of: &Entry, rows: u32) -> u64 {
        let units = of.row_units.saturating_mul(u64::from(rows));
        // While nothing is known, any number will do that is the same for all.
        let ns = self.devices[device]
            .expect_ns(of.model, units)
            .unwrap_or(units);
        (ns / u64::from(rows.max(1))).max(1)
    }

    /// Charges a request beforehand; what it was charged.
    fn charge(&mut self, entry: &Entry, row_ns: u64) -> u64 {
        let ns = row_ns.saturating_mul(u64::from(entry.rows));
        let cost = self.loads.cost(entry.flow(), ns);
        self.lanes.charge(entry.flow(), cost);
        cost
    }

    /// What it was charged beforehand is replaced by what it took.
    fn settle_charge(&mut self, entry: &Entry, charged: u64, share_ns: u64) {
        let cost = self.loads.cost(entry.flow(), share_ns);
        if cost >= charged {
            self.lanes.charge(entry.flow(), cost - charged);
        } else {
            self.lanes.refund(entry.flow(), charged - cost);
        }
    }

    fn refund(&mut self, batch: &Batch) {
        for (entry, charged) in batch.entries.iter().zip(&batch.charges) {
            self.lanes.refund(entry.flow(), *charged);
        }
    }

    /// Whether this is content with idle capacity, and somebody else waits for the device.
    fn gives_way(&self, device: usize, retry: &Retry) -> bool {
        let is_flex = |entry: &Entry| Tier::of(entry.class) == Tier::Idle;
        retry.entries.iter().all(is_flex) && self.foreground_waits(device)
    }

    fn foreground_waits(&self, device: usize) -> bool {
        let slots = &self.devices[device];
        let mut lanes = self.lanes.in_turn(Tier::Foreground);
        lanes.any(|(_, lane)| slots.has_model(lane.model))
    }

    /// What is left of a failed batch after those whose deadline has passed or whose caller has left. Who leaves pays for its
    /// part of the runs that failed: else leaving would be a way to have them for nothing.
    fn still_wanted(
        &mut self,
        entries: Vec<Entry>,
        debt_ns: u64,
        now: Instant,
        gone: &mut impl FnMut(RequestId) -> bool,
    ) -> Vec<Entry> {
        let (wanted, left): (Vec<Entry>, Vec<Entry>) = entries
            .into_iter()
            .partition(|entry| entry.deadline > now && !gone(entry.id));
        let rows = u128::from(rows_of(&wanted) + rows_of(&left));
        for entry in &left {
            self.answered(entry);
            let part = u128::from(debt_ns) * u128::from(entry.rows) / rows;
            let part = u64::try_from(part).unwrap_or(u64::MAX);
            let cost = self.loads.cost(entry.flow(), part);
            self.lanes.charge(entry.flow(), cost);
        }
        wanted
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

impl ModelState {
    fn echo(&mut self, tier: Tier) -> &mut Echo {
        match tier {
            Tier::Foreground => &mut self.echoes[0],
            Tier::Idle => &mut self.echoes[1],
        }
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
