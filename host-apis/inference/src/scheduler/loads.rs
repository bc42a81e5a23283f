//! What each tenant has queued and unanswered, whether it may queue more, and how much it weighs.

use super::{Entry, Flow, Limits, QueueFull};
use crate::mutant::{self, Mutant};
use crate::request::{Class, TenantId, Terms};
use rustc_hash::FxHashMap;

/// A flow of weight 1 is charged so much for a nanosecond, so that what heavy ones are charged is not rounded to nothing.
const SCALE: u64 = 256;
/// A priority request weighs so much more than another of the same tenant.
const PRIORITY_WEIGHT: u64 = 8;

/// Tenants with anything unanswered, and those with terms of their own.
#[derive(Debug, Default)]
pub(super) struct Loads {
    tenants: FxHashMap<TenantId, Load>,
    terms: FxHashMap<TenantId, Terms>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    queued_rows: u64,
    queued_bytes: u64,
    requests: u64,
}

impl Loads {
    /// What holds for a tenant from now on; `None`: what holds for all.
    pub(super) fn set_terms(&mut self, tenant: TenantId, terms: Option<Terms>) {
        match terms {
            Some(terms) => self.terms.insert(tenant, terms),
            None => self.terms.remove(&tenant),
        };
    }

    /// The class a request is served in: who weighs nothing takes what is idle, and priority is a right.
    pub(super) fn class(&self, tenant: TenantId, asked: Class, limits: &Limits) -> Class {
        let terms = self.terms.get(&tenant).unwrap_or(&limits.terms);
        match asked {
            _ if terms.weight == 0 => Class::Flex,
            Class::Priority if !terms.priority => Class::Default,
            Class::Priority | Class::Default | Class::Flex => asked,
        }
    }

    /// Rows that a tenant may queue.
    pub(super) fn rows_max(&self, tenant: TenantId, limits: &Limits) -> u64 {
        self.terms.get(&tenant).unwrap_or(&limits.terms).rows_max
    }

    /// What a flow's counter rises by for so many nanoseconds of a device.
    pub(super) fn cost(&self, flow: Flow, ns: u64) -> u64 {
        let terms = self.terms.get(&flow.tenant);
        let tenant = terms.map_or(1, |terms| u64::from(terms.weight.max(1)));
        let class = match flow.class {
            Class::Priority => PRIORITY_WEIGHT,
            Class::Default | Class::Flex => 1,
        };
        if mutant::is(Mutant::Free) {
            return 0;
        }
        ns.saturating_mul(SCALE) / (tenant * class)
    }

    /// Counts a request in.
    ///
    /// # Errors
    /// The first limit of its tenant that it would go over; then nothing is counted.
    pub(super) fn admit(&mut self, entry: &Entry, limits: &Limits) -> Result<(), QueueFull> {
        let terms = self.terms.get(&entry.tenant).unwrap_or(&limits.terms);
        let load = self.tenants.get(&entry.tenant).copied().unwrap_or_default();
        let load = Load {
            queued_rows: load.queued_rows.saturating_add(u64::from(entry.rows)),
            queued_bytes: load.queued_bytes.saturating_add(entry.bytes),
            requests: load.requests + 1,
        };
        for (limit, value, max) in [
            ("tenant_rows_max", load.queued_rows, terms.rows_max),
            ("tenant_bytes_max", load.queued_bytes, terms.bytes_max),
            ("tenant_requests_max", load.requests, terms.requests_max),
        ] {
            if value > max && !mutant::is(Mutant::Uncapped) {
                return Err(QueueFull { limit, max });
            }
        }
        self.tenants.insert(entry.tenant, load);
        Ok(())
    }

    /// A request is queued again that was admitted before.
    pub(super) fn queued_again(&mut self, entry: &Entry) {
        let load = self.tenants.entry(entry.tenant).or_default();
        load.queued_rows += u64::from(entry.rows);
        load.queued_bytes += entry.bytes;
    }

    /// A request has left its queue.
    pub(super) fn left_queue(&mut self, entry: &Entry) {
        let load = self
            .tenants
            .get_mut(&entry.tenant)
            .expect("a queued request is counted for its tenant");
        load.queued_rows -= u64::from(entry.rows);
        load.queued_bytes -= entry.bytes;
        self.forget(entry.tenant);
    }

    /// A request has its answer, or needs none any more.
    pub(super) fn answered(&mut self, tenant: TenantId) {
        let load = self
            .tenants
            .get_mut(&tenant)
            .expect("an unanswered request is counted for its tenant");
        load.requests -= 1;
        self.forget(tenant);
    }

    fn forget(&mut self, tenant: TenantId) {
        if let Some(load) = self.tenants.get(&tenant)
            && load.queued_rows == 0
            && load.requests == 0
        {
            self.tenants.remove(&tenant);
        }
    }

    /// Queued rows, queued bytes and unanswered requests of every tenant, for the laws.
    #[cfg(test)]
    pub(super) fn each(&self) -> impl Iterator<Item = (TenantId, [u64; 3])> {
        self.tenants.iter().map(|(tenant, load)| {
            let values = [load.queued_rows, load.queued_bytes, load.requests];
            (*tenant, values)
        })
    }
}
