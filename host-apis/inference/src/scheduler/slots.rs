//! One device as the scheduler sees it: what runs there, what it costs, and when the next run should be handed over.

use super::{Entry, rows_of};
use crate::cost::CostCurve;
use crate::plan::Ticket;
use crate::request::{Class, ModelId};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// How long before the expected end of a run the next one is handed over. tokio's timers have a grain of 1 ms: a shorter
/// lead would come too late.
const PREFETCH_LEAD: Duration = Duration::from_millis(1);
/// The same for a full batch, which gains nothing by waiting; but who comes meanwhile with a better right would have to wait
/// for all of it. With 2 ms a device of 2.6 ms a run stood still for a tenth of the time (bench `batch-gain`): its outcomes, too,
/// are seen up to a grain late.
const PREFETCH_LEAD_FULL: Duration = Duration::from_millis(4);

/// A batch on a device.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) ticket: Ticket,
    pub(crate) model: ModelId,
    pub(crate) entries: Vec<Entry>,
    /// What each of them was charged beforehand.
    pub(super) charges: Vec<u64>,
    pub(crate) handed_at: Instant,
    /// When the device is taken to have begun it; `None` while another run is before it.
    pub(super) began: Option<Instant>,
    pub(super) suspect: Suspect,
    /// Device time that earlier runs of its requests took and that failed.
    pub(super) debt_ns: u64,
    /// Asked back from the device, because somebody with a better right came.
    pub(super) preempted: bool,
}

/// Whether a request was running on a device when that device died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspect {
    No,
    /// It runs alone now; if this device dies too, it is the poison.
    OfADeath,
}

impl Batch {
    /// Rows of all its requests.
    pub(crate) fn rows(&self) -> u32 {
        rows_of(&self.entries)
    }

    pub(super) fn units(&self) -> u64 {
        self.entries.iter().map(Entry::units).sum()
    }

    /// Whether no other run is before it.
    pub(super) fn has_begun(&self) -> bool {
        self.began.is_some()
    }

    /// Whether it is content with idle capacity, all of it.
    pub(super) fn is_flex(&self) -> bool {
        self.entries.iter().all(|entry| entry.class == Class::Flex)
    }
}

/// How early a batch goes to a device that is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    OfAny,
    OfFull,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct DeviceSlots {
    /// Runs it holds at once; 0 once it is gone.
    depth: usize,
    in_flight: VecDeque<Batch>,
    /// Since when nothing was in flight, as far as it lives.
    pub(super) idle_since: Option<Instant>,
    models: FxHashMap<ModelId, OnDevice>,
}

/// A model as this device runs it.
#[derive(Debug, Default)]
struct OnDevice {
    curve: CostCurve,
    /// The latest run that it was learnt from, and how many there were.
    observed_at: Option<Instant>,
    runs: u64,
    /// Answers of [`CostCurve::rows_best`] since the curve's last change, by units of a row and longest run.
    rows_best: Vec<((u64, Duration), u32)>,
}

/// For how long a run says what the next will cost.
const TRUST: Duration = Duration::from_secs(10);

/// After so many runs one may be twice as large as is thought best: what is never run is never known.
const TRY_EVERY: u64 = 64;

/// Answers that are remembered; a model has a few lengths.
const REMEMBERED_MAX: usize = 16;

impl DeviceSlots {
    pub(super) fn new(depth: usize) -> Self {
        assert!(depth > 0, "a device holds at least one run");
        Self {
            depth,
            in_flight: VecDeque::new(),
            idle_since: None,
            models: FxHashMap::default(),
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.depth > 0
    }

    /// The model can run here.
    pub(super) fn add_model(&mut self, model: ModelId, curve: CostCurve) {
        let on_device = OnDevice {
            curve,
            ..OnDevice::default()
        };
        self.models.insert(model, on_device);
    }

    pub(super) fn remove_model(&mut self, model: ModelId) {
        self.models.remove(&model);
    }

    pub(super) fn has_model(&self, model: ModelId) -> bool {
        self.is_live() && self.models.contains_key(&model)
    }

    pub(super) fn is_running(&self, model: ModelId) -> bool {
        self.in_flight.iter().any(|batch| batch.model == model)
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight.len() < self.depth
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// The run in progress.
    pub(super) fn running(&self) -> Option<&Batch> {
        self.in_flight.front()
    }

    /// What a run of so many units costs here, if that is known.
    pub(super) fn expect_ns(&self, model: ModelId, units: u64) -> Option<u64> {
        self.models.get(&model)?.curve.expect_ns(units)
    }

    /// The same, if it was seen just now: what nobody may be refused for else, because then nobody would find out that it has
    /// changed.
    pub(super) fn know_ns(&self, now: Instant, model: ModelId, units: u64) -> Option<u64> {
        let on_device = self.models.get(&model)?;
        let age = now.saturating_duration_since(on_device.observed_at?);
        // Not by one run alone, which may have been cold.
        let ns = on_device.curve.seen_ns(units, 2)?;
        (age < TRUST).then_some(ns)
    }

    /// What one of about as many units has cost here.
    pub(super) fn seen_ns(&self, model: ModelId, units: u64) -> Option<u64> {
        self.models.get(&model)?.curve.seen_ns(units, 1)
    }

    pub(super) fn worth_waiting(&self, model: ModelId, first: u64, second: u64) -> Duration {
        let model = self.models.get(&model);
        let worth = model.and_then(|model| model.curve.worth_waiting(first, second));
        worth.unwrap_or_default()
    }

    /// See [`CostCurve::rows_best`].
    pub(super) fn rows_best(
        &mut self,
        model: ModelId,
        rows_max: u32,
        row_units: u64,
        run_max: Duration,
    ) -> u32 {
        let Some(on_device) = self.models.get_mut(&model) else {
            return rows_max;
        };
        let key = (row_units, run_max);
        let known = on_device.rows_best.iter().find(|(known, _)| *known == key);
        let rows = known.map(|(_, rows)| *rows).unwrap_or_else(|| {
            let rows = on_device.curve.rows_best(rows_max, row_units, run_max);
            on_device.rows_best.truncate(REMEMBERED_MAX - 1);
            on_device.rows_best.push((key, rows));
            rows
        });
        if on_device.runs % TRY_EVERY == TRY_EVERY - 1 {
            return rows.saturating_mul(2).min(rows_max);
        }
        rows
    }

    pub(super) fn observe(&mut self, now: Instant, model: ModelId, units: u64, device_ns: u64) {
        // What a model cost that has gone meanwhile is worth nothing.
        if let Some(on_device) = self.models.get_mut(&model) {
            on_device.curve.observe(units, device_ns);
            on_device.runs += 1;
            on_device.observed_at = Some(now);
            on_device.rows_best.clear();
        }
    }

    /// When the run in progress is expected to end; `None` if nobody knows.
    pub(super) fn running_until(&self) -> Option<Instant> {
        let running = self.in_flight.front()?;
        let expected = self.expect_ns(running.model, running.units())?;
        let began = running.began.unwrap_or(running.handed_at);
        Some(began + Duration::from_nanos(expected))
    }

    /// When all that it holds is expected to have ended; `None` if nobody knows, or if that should have been already.
    pub(super) fn free_at(&self, now: Instant) -> Option<Instant> {
        if self.in_flight.is_empty() {
            return Some(now);
        }
        let mut at = self.running_until()?;
        for batch in self.in_flight.iter().skip(1) {
            at += Duration::from_nanos(self.expect_ns(batch.model, batch.units())?);
        }
        (at > now).then_some(at)
    }

    /// From when a batch may be handed over. `None`: how long the present run takes is not known yet; then a full batch goes
    /// at once, and any other not before the next outcome.
    ///
    /// One that is not full never in the first half of a run: for runs shorter than the lead the gap between two of them
    /// costs less than closing a batch as soon as the one before it has begun, which halves all batches.
    pub(super) fn opens(&self, now: Instant, lead: Lead) -> Option<Instant> {
        let Some(running) = self.in_flight.front() else {
            return Some(now);
        };
        let until = self.running_until()?;
        let began = running.began.unwrap_or(running.handed_at);
        let expected = until.saturating_duration_since(began);
        let after = match lead {
            Lead::OfAny => expected.saturating_sub(PREFETCH_LEAD).max(expected / 2),
            Lead::OfFull => expected.saturating_sub(PREFETCH_LEAD_FULL),
        };
        Some(began + after)
    }

    /// A batch that waits in the last slot, content with idle capacity, and that was not asked back yet.
    pub(super) fn preemptible(&mut self) -> Option<&mut Batch> {
        let last = self.in_flight.back_mut()?;
        (!last.has_begun() && !last.preempted && last.is_flex()).then_some(last)
    }

    pub(super) fn start(&mut self, now: Instant, mut batch: Batch) {
        assert!(
            self.has_room(),
            "a device holds at most {} runs",
            self.depth
        );
        if self.in_flight.is_empty() {
            batch.began = Some(now);
        }
        self.idle_since = None;
        self.in_flight.push_back(batch);
    }

    /// Takes out a run that has ended; the next one begins.
    pub(super) fn remove(&mut self, now: Instant, ticket: Ticket) -> Option<Batch> {
        let at = self
            .in_flight
            .iter()
            .position(|batch| batch.ticket == ticket)?;
        let batch = self.in_flight.remove(at)?;
        match self.in_flight.front_mut() {
            Some(next) => {
                next.began.get_or_insert(now);
            }
            None => self.idle_since = Some(now),
        }
        Some(batch)
    }

    /// The device is gone: what it held, first in first out.
    pub(super) fn close(&mut self) -> VecDeque<Batch> {
        self.depth = 0;
        self.models.clear();
        std::mem::take(&mut self.in_flight)
    }
}
