//! What outgoing requests have been through, for the metrics.

use super::Refused;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    sent: AtomicU64,
    open: AtomicU64,
    malformed: AtomicU64,
    not_granted: AtomicU64,
    prohibited: AtomicU64,
    busy: AtomicU64,
}

/// Counts a request among those under way.
pub(super) struct Open(Arc<Stats>);

impl Stats {
    /// Requests that were admitted.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Of those, the ones whose answer has not come to its end.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Requests that did not leave, by what was in their way. An address that a name turned out to have is not among them.
    pub(crate) fn refused(&self) -> [(&'static str, u64); 4] {
        let load = |count: &AtomicU64| count.load(Relaxed);
        [
            ("uri", load(&self.malformed)),
            ("egress", load(&self.not_granted)),
            ("egress_networks", load(&self.prohibited)),
            ("function_egress_max", load(&self.busy)),
        ]
    }

    pub(super) fn begun(self: &Arc<Self>) -> Open {
        self.sent.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
        Open(self.clone())
    }

    pub(super) fn note(&self, refused: &Refused) {
        let count = match refused {
            Refused::Uri(_) => &self.malformed,
            Refused::Host { .. } => &self.not_granted,
            Refused::Address { .. } => &self.prohibited,
            Refused::Busy(_) => &self.busy,
        };
        count.fetch_add(1, Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
