//! Sandboxes that may be used again, of functions whose owner lets one serve more than one call (`reuse`): one call after the
//! other, of the same version and no other. A sandbox comes here only when nothing of its last call is left in it but the guest's
//! memory, and handles that name a model or a standard stream (`State::end_call`). It goes when it was not called for long, when
//! there are too many, when somebody needs its place, and when its version is called no more.

use super::registry::Function;
use super::runner::GuestPermit;
use super::state::State;
use crate::config::Config;
use shoal_inference::TenantId;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;

/// An instance and its store. Serves one call at a time.
pub(super) struct Used {
    pub(super) store: Store<State>,
    pub(super) proxy: Proxy,
    /// Calls that it has served.
    pub(super) calls: u32,
    pub(super) function: Arc<Function>,
    /// Its place among the node's guests, given back after all else.
    pub(super) _permit: GuestPermit,
}

/// Those of a node, the least recently used first.
pub(crate) struct Kept {
    list: Mutex<VecDeque<Resting>>,
    max: usize,
    idle_max: Duration,
    /// Told when there is one.
    came: Notify,
    reused: AtomicU64,
}

struct Resting {
    used: Used,
    since: Instant,
}

impl Kept {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            list: Mutex::default(),
            max: config.guests_kept_max,
            idle_max: config.guest_kept_idle_max,
            came: Notify::new(),
            reused: AtomicU64::new(0),
        }
    }

    fn list(&self) -> MutexGuard<'_, VecDeque<Resting>> {
        // No code of ours panics while it holds this, and a list is whole between two calls.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list().len()
    }

    /// Calls so far that were served by one.
    pub(super) fn reused(&self) -> u64 {
        self.reused.load(Relaxed)
    }

    /// The one of this version that was used last: its memory is the likeliest to be in a processor's cache.
    pub(super) fn take(&self, function: &Arc<Function>) -> Option<Used> {
        let mut list = self.list();
        let of = |resting: &Resting| Arc::ptr_eq(&resting.used.function, function);
        let at = list.iter().rposition(of)?;
        let resting = list.remove(at)?;
        self.reused.fetch_add(1, Relaxed);
        Some(resting.used)
    }

    /// Keeps a sandbox whose call is over, if its owner lets it serve another and nothing of this one is left. Where there are too
    /// many, one goes of the tenant that has most. `false`: it went at once, and its place with it.
    pub(super) fn offer(&self, mut used: Used) -> bool {
        let reuse = used.function.grants.reuse;
        let more = reuse.is_some_and(|max| used.calls < max.get()) && self.max > 0;
        if !more || !used.store.data_mut().end_call() {
            return false;
        }
        let resting = Resting {
            used,
            since: Instant::now(),
        };
        let gone = {
            let mut list = self.list();
            if resting.used.function.is_retired() {
                Some(resting)
            } else {
                list.push_back(resting);
                (list.len() > self.max)
                    .then(|| of_the_greediest(&mut list))
                    .flatten()
            }
        };
        // Clearing its memory takes time: not under the lock.
        drop(gone);
        self.came.notify_one();
        true
    }

    /// Lets go of those of versions that are called no more, which are marked so already.
    pub(super) fn forget_retired(&self) {
        let gone: VecDeque<Resting> = {
            let mut list = self.list();
            let all = std::mem::take(&mut *list);
            let (gone, stay) = all
                .into_iter()
                .partition(|resting| resting.used.function.is_retired());
            *list = stay;
            gone
        };
        drop(gone);
    }

    /// Lets go of all.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.list());
        drop(all);
    }

    /// Lets go of the one that was not used for longest, if there is one.
    pub(super) fn give_up_one(&self) -> bool {
        let gone = self.list().pop_front();
        gone.is_some()
    }

    /// Lets go of each that was not called for too long. Never ends; cancel safe.
    pub(super) async fn expire(&self) {
        loop {
            let oldest = self.list().front().map(|resting| resting.since);
            let Some(oldest) = oldest else {
                self.came.notified().await;
                continue;
            };
            sleep_until(oldest + self.idle_max).await;
            let until = Instant::now().checked_sub(self.idle_max);
            loop {
                let is_over =
                    |resting: &mut Resting| until.is_some_and(|until| resting.since <= until);
                let gone = self.list().pop_front_if(is_over);
                if gone.is_none() {
                    break;
                }
                // One after the other, with a turn for others between.
                drop(gone);
                tokio::task::yield_now().await;
            }
        }
    }
}

/// The least recently used of the tenant that has most.
fn of_the_greediest(list: &mut VecDeque<Resting>) -> Option<Resting> {
    let tenant = |resting: &Resting| resting.used.function.tenant.id;
    let mut counts: HashMap<TenantId, usize> = HashMap::new();
    for resting in &*list {
        *counts.entry(tenant(resting)).or_default() += 1;
    }
    let (greediest, _) = counts.into_iter().max_by_key(|(id, count)| (*count, *id))?;
    let at = list
        .iter()
        .position(|resting| tenant(resting) == greediest)?;
    list.remove(at)
}
