//! One guest as something to poll: its future, its CPU account and its tenant.

use super::meter::Meter;
use super::ticker::Running;
use shoal_inference::TenantId;
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

/// A tenant as the sandbox knows it: a row in the fair queue, and what its guests use.
#[derive(Debug)]
pub struct Tenant {
    /// Who pays.
    pub id: TenantId,
    in_background: AtomicUsize,
    live: AtomicUsize,
}

impl Tenant {
    /// A tenant without guests.
    pub fn new(id: TenantId) -> Arc<Self> {
        Arc::new(Self {
            id,
            in_background: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
        })
    }

    /// Whether one of its guests runs in the background: then its new ones start there too, or a stream of guests that
    /// each stay just under the limit would keep other tenants' sockets waiting.
    pub(crate) fn is_in_background(&self) -> bool {
        self.in_background.load(Relaxed) > 0
    }

    /// Takes a place among `max` live guests, given back when the permit is dropped.
    pub(crate) fn try_enter(self: &Arc<Self>, max: usize) -> Option<TenantPermit> {
        self.live
            .fetch_update(Relaxed, Relaxed, |live| (live < max).then_some(live + 1))
            .ok()
            .map(|_| TenantPermit(self.clone()))
    }
}

/// A place among its tenant's live guests.
#[derive(Debug)]
pub(crate) struct TenantPermit(Arc<Tenant>);

impl Drop for TenantPermit {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Relaxed);
    }
}

/// Counts a guest among those of its tenant in the background.
pub(crate) struct InBackground(Arc<Tenant>);

impl InBackground {
    pub(crate) fn new(tenant: &Arc<Tenant>) -> Self {
        tenant.in_background.fetch_add(1, Relaxed);
        Self(tenant.clone())
    }
}

impl Drop for InBackground {
    fn drop(&mut self) {
        self.0.in_background.fetch_sub(1, Relaxed);
    }
}

/// The whole life of a guest: instantiate, call, and drop the store or keep it for another call.
pub(crate) type GuestFuture = Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send>>;

/// A guest and its account.
pub(crate) struct Guest {
    pub(crate) future: GuestFuture,
    pub(crate) meter: Arc<Meter>,
    pub(crate) tenant: Arc<Tenant>,
    /// Told when it runs.
    pub(crate) ticks: Arc<Running>,
    /// Dropped after everything else of the guest.
    pub(crate) _account: Arc<dyn Any + Send + Sync>,
}

/// Whose turn it is: a guest in the background is metered more exactly, since its turns are long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    Socket,
    Background,
}

impl Guest {
    /// Polls the guest once and charges what it used. The nanoseconds charged come back beside the result.
    pub(crate) fn turn(
        &mut self,
        cx: &mut Context<'_>,
        on: Thread,
    ) -> (Poll<wasmtime::Result<()>>, u64) {
        let _ticks = self.ticks.enter();
        self.meter.begin(on);
        // A panic in a host call is a bug of ours: it ends this invocation, not the thread that serves all the others.
        let poll =
            catch_unwind(AssertUnwindSafe(|| self.future.as_mut().poll(cx))).unwrap_or_else(|_| {
                tracing::error!("a host call panicked");
                Poll::Ready(Err(wasmtime::format_err!("a host call panicked")))
            });
        let used = self.meter.end();
        (poll, used)
    }
}
