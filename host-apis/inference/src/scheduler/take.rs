//! From a lane to a batch: who is in it, what each is charged beforehand, and who would be too late.

use super::lanes::Room;
use super::pick::Choice;
use super::slots::DeviceSlots;
use super::{Entry, RequestId, Scheduler, TooLate};
use crate::mutant::{self, Mutant};
use std::time::Duration;
use tokio::time::Instant;

impl Scheduler {
    /// Takes a batch out of a lane: whole requests up to its rows and the bytes of one batch, tenants in turn; what is
    /// content with idle capacity fills what is left. Empty if nobody waits for any of them any more.
    pub(super) fn take(
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
            // What fills up a batch does not lead one: whoever else waits goes first.
            if room.rows == 0 || nth > 0 && taken.0.is_empty() {
                break;
            }
            self.lanes.turn(lane, *tier);
            while room.rows > 0 {
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
    pub(super) fn row_ns_of(&self, device: usize, of: &Entry, rows: u32) -> u64 {
        let units = of.row_units.saturating_mul(u64::from(rows));
        // While nothing is known, any number will do that is the same for all.
        let ns = self.devices[device]
            .expect_ns(of.model, units)
            .unwrap_or(units);
        (ns / u64::from(rows.max(1))).max(1)
    }

    /// Charges a request beforehand; what it was charged.
    pub(super) fn charge(&mut self, entry: &Entry, row_ns: u64) -> u64 {
        let ns = row_ns.saturating_mul(u64::from(entry.rows));
        let cost = self.loads.cost(entry.flow(), ns);
        self.lanes.charge(entry.flow(), cost);
        cost
    }

    /// What it was charged beforehand is replaced by what it took.
    pub(super) fn settle_charge(&mut self, entry: &Entry, charged: u64, share_ns: u64) {
        let cost = self.loads.cost(entry.flow(), share_ns);
        if cost >= charged {
            self.lanes.charge(entry.flow(), cost - charged);
        } else {
            self.lanes.refund(entry.flow(), charged - cost);
        }
    }
}
