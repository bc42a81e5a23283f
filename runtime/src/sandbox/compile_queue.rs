//! Who may compile: so many at once on the node, first come, first served, and only so many of each tenant, those that wait
//! included. Beyond that a compile is refused at once.

use super::compile::CompileError;
use shoal_inference::TenantId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The compiles of one node.
pub(super) struct CompileQueue {
    places: Semaphore,
    tenant_max: usize,
    /// Compiles of each tenant that has any.
    tenants: Mutex<HashMap<TenantId, usize>>,
}

/// The right to compile, given back when it is dropped.
pub(super) struct Turn<'a> {
    _place: SemaphorePermit<'a>,
    _tenant: TenantPlace<'a>,
}

struct TenantPlace<'a> {
    queue: &'a CompileQueue,
    tenant: TenantId,
}

impl CompileQueue {
    pub(super) fn new(node_max: usize, tenant_max: usize) -> Self {
        Self {
            places: Semaphore::new(node_max),
            tenant_max,
            tenants: Mutex::default(),
        }
    }

    /// Waits for a turn. Cancel safe.
    ///
    /// # Errors
    /// [`CompileError::Busy`], at once, if the tenant has as many compiles as it may.
    pub(super) async fn enter(&self, tenant: TenantId) -> Result<Turn<'_>, CompileError> {
        let tenant = self.tenant_place(tenant)?;
        let place = self.places.acquire().await;
        Ok(Turn {
            _place: place.expect("the semaphore is never closed"),
            _tenant: tenant,
        })
    }

    fn tenant_place(&self, tenant: TenantId) -> Result<TenantPlace<'_>, CompileError> {
        let mut tenants = self.lock();
        let compiles = tenants.entry(tenant).or_default();
        // A tenant without any has room: the limit is at least 1.
        if *compiles >= self.tenant_max {
            return Err(CompileError::Busy {
                limit: self.tenant_max,
            });
        }
        *compiles += 1;
        Ok(TenantPlace {
            queue: self,
            tenant,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TenantPlace<'_> {
    fn drop(&mut self) {
        let mut tenants = self.queue.lock();
        if let Some(compiles) = tenants.get_mut(&self.tenant) {
            *compiles -= 1;
            if *compiles == 0 {
                tenants.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    const ACME: TenantId = TenantId(1);
    const BIRCH: TenantId = TenantId(2);

    /// Where an attempt to enter stands at once.
    fn now<T>(attempt: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        attempt.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_tenant_has_as_many_compiles_as_it_may_and_others_have_theirs() {
        let queue = CompileQueue::new(1, 3);
        let mut running = pin!(queue.enter(ACME));
        let Poll::Ready(Ok(running)) = now(running.as_mut()) else {
            panic!("nobody was there");
        };
        let (mut second, mut third) = (Box::pin(queue.enter(ACME)), Box::pin(queue.enter(ACME)));
        assert!(now(second.as_mut()).is_pending());
        assert!(now(third.as_mut()).is_pending());
        for _ in 0..10 {
            let refused = now(pin!(queue.enter(ACME)));
            assert!(matches!(
                refused,
                Poll::Ready(Err(CompileError::Busy { limit: 3 }))
            ));
        }
        // Whoever stops waiting makes room.
        drop(third);
        let mut fourth = Box::pin(queue.enter(ACME));
        assert!(now(fourth.as_mut()).is_pending());
        let mut other = Box::pin(queue.enter(BIRCH));
        assert!(now(other.as_mut()).is_pending());
        drop(running);
        let Poll::Ready(Ok(second)) = now(second.as_mut()) else {
            panic!("the first in the queue was next");
        };
        assert!(now(fourth.as_mut()).is_pending());
        drop((second, fourth));
        assert!(matches!(now(other.as_mut()), Poll::Ready(Ok(_))));
        drop(other);
        assert!(queue.lock().is_empty());
    }

    #[test]
    fn a_node_compiles_as_many_at_once_as_it_may() {
        let queue = CompileQueue::new(2, 1);
        let turns: Vec<_> = (1..3)
            .map(|tenant| now(pin!(queue.enter(TenantId(tenant)))))
            .collect();
        assert!(turns.iter().all(|turn| matches!(turn, Poll::Ready(Ok(_)))));
        for tenant in 3..50 {
            assert!(now(pin!(queue.enter(TenantId(tenant)))).is_pending());
        }
        drop(turns);
        assert!(matches!(now(pin!(queue.enter(ACME))), Poll::Ready(Ok(_))));
    }
}
