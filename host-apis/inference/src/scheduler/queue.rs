//! The queue of one model: tenants in turn, and how full its next batch would be.

use super::{Entry, RequestId, Shape};
use crate::fair_queue::FairQueue;
use crate::request::TenantId;
use std::collections::{BTreeMap, HashMap};
use tokio::time::Instant;

/// What a batch can still take in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) rows: u32,
    pub(super) bytes: u64,
}

/// Tenants whose first request is looked at to fill the rest of a batch. Requests of one model mostly agree in shape, so
/// the first fits; the bound keeps a mix of many shapes from costing more than the run.
const LOOK_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct ModelQueue {
    rows_max: u32,
    tenants: FairQueue<TenantId, Entry>,
    arrivals: BTreeMap<RequestId, Instant>,
    rows_by_shape: HashMap<Shape, u64>,
    last_run: u64,
}

impl ModelQueue {
    pub(super) fn new(rows_max: u32) -> Self {
        Self {
            rows_max,
            tenants: FairQueue::new(),
            arrivals: BTreeMap::new(),
            rows_by_shape: HashMap::new(),
            last_run: 0,
        }
    }

    pub(super) fn rows_max(&self) -> u32 {
        self.rows_max
    }

    /// The number of the model's last run; 0 before the first.
    pub(super) fn last_run(&self) -> u64 {
        self.last_run
    }

    pub(super) fn note_run(&mut self, number: u64) {
        self.last_run = number;
    }

    pub(super) fn push(&mut self, entry: Entry) {
        assert!(
            (1..=self.rows_max).contains(&entry.rows),
            "a request fits in a batch"
        );
        self.arrivals.insert(entry.id, entry.queued_at);
        *self.rows_by_shape.entry(entry.shape.clone()).or_default() += u64::from(entry.rows);
        self.tenants.push(entry.tenant, entry);
    }

    /// When the request that waits longest was queued.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.arrivals.first_key_value().map(|(_, at)| *at)
    }

    /// Whether the next batch has all the rows it can have.
    pub(super) fn is_full(&self) -> bool {
        let Some((_, head)) = self.tenants.peek() else {
            return false;
        };
        let rows = self.rows_by_shape.get(&head.shape).copied();
        rows.unwrap_or(0) >= u64::from(self.rows_max)
    }

    /// The first request of the tenant served least; for the rest of a batch, of the first tenant in that order whose first
    /// request has this shape and fits. The order within a tenant is never changed.
    pub(super) fn pop(&mut self, rest_of: Option<(&Shape, Room)>) -> Option<Entry> {
        let fits = |entry: &Entry| {
            rest_of.is_none_or(|(shape, room)| {
                entry.shape == *shape && entry.rows <= room.rows && entry.bytes <= room.bytes
            })
        };
        let (tenant, _) = self
            .tenants
            .heads()
            .take(LOOK_MAX)
            .find(|(_, entry)| fits(entry))?;
        let entry = self.tenants.pop_of(&tenant.clone())?;
        self.left(&entry);
        Some(entry)
    }

    /// Adds to what a tenant has been served.
    pub(super) fn charge(&mut self, tenant: TenantId, rows: u32) {
        self.tenants.charge(&tenant, u64::from(rows));
    }

    /// Takes out the requests of a tenant whose deadline has passed.
    pub(super) fn expire(&mut self, tenant: TenantId, now: Instant) -> Vec<Entry> {
        let expired = self.tenants.extract(&tenant, |entry| entry.deadline <= now);
        for entry in &expired {
            self.left(entry);
        }
        expired
    }

    fn left(&mut self, entry: &Entry) {
        self.arrivals.remove(&entry.id);
        let rows = self
            .rows_by_shape
            .get_mut(&entry.shape)
            .expect("a queued request is counted by its shape");
        *rows -= u64::from(entry.rows);
        if *rows == 0 {
            self.rows_by_shape.remove(&entry.shape);
        }
    }
}
