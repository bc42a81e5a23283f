//! Runs that gave nothing: what failed is run again in halves until only the culprit fails, what a dead device held one by one,
//! what was not begun waits again. Whoever spoilt a run, or left after one, is charged for it.

use super::lanes::Tier;
use super::slots::{Batch, Suspect};
use super::{Entry, RequestId, Run, Scheduler, Start, nanos, rows_of};
use crate::plan::Ticket;
use crate::request::ModelId;
use tokio::time::Instant;

/// Part of a batch that failed, to be run again.
#[derive(Debug)]
pub(super) struct Retry {
    /// At least one, all of one model.
    pub(super) entries: Vec<Entry>,
    pub(super) suspect: Suspect,
    /// Device time that earlier runs of them took and that failed.
    pub(super) debt_ns: u64,
}

impl Retry {
    pub(super) fn model(&self) -> ModelId {
        self.entries[0].model
    }
}

impl Scheduler {
    /// The first that this device may run again now.
    pub(super) fn next_retry(
        &mut self,
        now: Instant,
        device: usize,
        gone: &mut impl FnMut(RequestId) -> bool,
    ) -> Option<Run> {
        loop {
            let may_run = |retry: &Retry| {
                self.devices[device].has_model(retry.model()) && !self.gives_way(device, retry)
            };
            let at = self.retries.iter().position(may_run)?;
            let retry = self.retries.remove(at)?;
            let entries = self.still_wanted(retry.entries, retry.debt_ns, now, gone);
            let Some(first) = entries.first() else {
                continue;
            };
            let row_ns = self.row_ns_of(device, first, rows_of(&entries));
            let charges = entries.iter().map(|entry| self.charge(entry, row_ns));
            let start = Start {
                charges: charges.collect(),
                entries,
                suspect: retry.suspect,
                debt_ns: retry.debt_ns,
            };
            return Some(self.start(now, device, start));
        }
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
}
