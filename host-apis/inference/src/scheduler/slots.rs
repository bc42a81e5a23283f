//! One device as the scheduler sees it: what runs there, what it costs, and when the next run should be handed over.

use super::{Entry, rows_of};
use crate::cost::CostCurve;
use crate::plan::{DEPTH, Ticket};
use crate::request::ModelId;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// How long before the expected end of a run the next one is handed over. tokio's timers have a grain of 1 ms: a shorter
/// lead would come too late.
const PREFETCH_LEAD: Duration = Duration::from_millis(1);

/// A batch on a device.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) ticket: Ticket,
    pub(crate) model: ModelId,
    pub(crate) entries: Vec<Entry>,
    pub(crate) handed_at: Instant,
    /// When the device is taken to have begun it; `None` while another run is before it.
    began: Option<Instant>,
    pub(super) suspect: Suspect,
}

/// Whether a request was running on a device when that device died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspect {
    No,
    /// It runs alone now; if this device dies too, it is the poison.
    OfADeath,
}

impl Batch {
    pub(super) fn new(now: Instant, ticket: Ticket, entries: Vec<Entry>, suspect: Suspect) -> Self {
        Self {
            ticket,
            model: entries[0].model,
            entries,
            handed_at: now,
            began: None,
            suspect,
        }
    }

    /// Rows of all its requests.
    pub(crate) fn rows(&self) -> u32 {
        rows_of(&self.entries)
    }

    /// Whether no other run is before it.
    pub(super) fn has_begun(&self) -> bool {
        self.began.is_some()
    }
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct DeviceSlots {
    dead: bool,
    in_flight: VecDeque<Batch>,
    pub(super) costs: CostCurve,
}

impl DeviceSlots {
    pub(super) fn is_live(&self) -> bool {
        !self.dead
    }

    pub(super) fn is_running(&self, model: ModelId) -> bool {
        self.in_flight.iter().any(|batch| batch.model == model)
    }

    pub(super) fn has_room(&self) -> bool {
        !self.dead && self.in_flight.len() < DEPTH
    }

    pub(super) fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// From when a batch that is not full may be handed over. `None`: not before the next outcome, because how long the
    /// present run takes is not known yet.
    ///
    /// Never in the first half of a run: for runs shorter than the lead the gap between two of them costs less than
    /// closing a batch as soon as the one before it has begun, which halves all batches.
    pub(super) fn opens(&self, now: Instant) -> Option<Instant> {
        let Some(running) = self.in_flight.front() else {
            return Some(now);
        };
        let expected = self.costs.expect(running.model, running.rows())?;
        let began = running.began.unwrap_or(running.handed_at);
        Some(began + expected.saturating_sub(PREFETCH_LEAD).max(expected / 2))
    }

    pub(super) fn start(&mut self, now: Instant, mut batch: Batch) {
        assert!(self.has_room(), "a device holds at most {DEPTH} runs");
        if self.in_flight.is_empty() {
            batch.began = Some(now);
        }
        self.in_flight.push_back(batch);
    }

    /// Takes out a run that has ended; the next one begins.
    pub(super) fn remove(&mut self, now: Instant, ticket: Ticket) -> Option<Batch> {
        let at = self
            .in_flight
            .iter()
            .position(|batch| batch.ticket == ticket)?;
        let batch = self.in_flight.remove(at)?;
        if let Some(next) = self.in_flight.front_mut() {
            next.began.get_or_insert(now);
        }
        Some(batch)
    }

    /// The device is gone: what it held, first in first out.
    pub(super) fn close(&mut self) -> VecDeque<Batch> {
        self.dead = true;
        std::mem::take(&mut self.in_flight)
    }
}
