//! What each tenant has queued, and whether it may queue more.

use super::{Entry, Limits, QueueFull};
use crate::request::TenantId;
use std::collections::HashMap;

/// Tenants with anything queued.
#[derive(Debug, Default)]
pub(super) struct Loads {
    tenants: HashMap<TenantId, Load>,
    rows: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    rows: u64,
    bytes: u64,
}

impl Loads {
    /// Rows of all tenants.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Counts a request in.
    ///
    /// # Errors
    /// The first limit of its tenant that it would go over; then nothing is counted.
    pub(super) fn admit(&mut self, entry: &Entry, limits: &Limits) -> Result<(), QueueFull> {
        let load = self.tenants.get(&entry.tenant).copied().unwrap_or_default();
        let rows = load.rows.saturating_add(u64::from(entry.rows));
        let bytes = load.bytes.saturating_add(entry.bytes);
        if rows > limits.tenant_rows_max {
            return Err(QueueFull {
                limit: "tenant_rows_max",
                max: limits.tenant_rows_max,
            });
        }
        if bytes > limits.tenant_bytes_max {
            return Err(QueueFull {
                limit: "tenant_bytes_max",
                max: limits.tenant_bytes_max,
            });
        }
        self.tenants.insert(entry.tenant, Load { rows, bytes });
        self.rows += u64::from(entry.rows);
        Ok(())
    }

    /// A request has left its queue.
    pub(super) fn release(&mut self, entry: &Entry) {
        let load = self
            .tenants
            .get_mut(&entry.tenant)
            .expect("a queued request is counted for its tenant");
        load.rows -= u64::from(entry.rows);
        load.bytes -= entry.bytes;
        if load.rows == 0 {
            self.tenants.remove(&entry.tenant);
        }
        self.rows -= u64::from(entry.rows);
    }

    /// Rows and bytes of every tenant, for the laws.
    #[cfg(test)]
    pub(super) fn each(&self) -> impl Iterator<Item = (u64, u64)> {
        self.tenants.values().map(|load| (load.rows, load.bytes))
    }
}
