//! Components that are ready to run: compiled at most once, mapped when they are needed, unmapped when others were needed
//! more recently.
//!
//! Everything is kept by tenant: equal components of two tenants share nothing. A deploy comes in by [`Components::prepare`],
//! an invocation by [`Components::ready`].

use super::cache::{CodeCache, CodeKey, Loaded};
use super::compile::{CompileError, check, compile};
use super::compile_queue::CompileQueue;
use super::contract::{Linked, link};
use super::engine::Sandbox;
use super::messages::ComponentId;
use crate::config::Config;
use anyhow::Context as _;
use bytes::Bytes;
use dashmap::DashMap;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use shoal_inference::TenantId;
use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

/// A component that only has to be instantiated. Its code stays mapped as long as anybody holds this.
pub struct Ready {
    pub(super) linked: Linked,
}

/// The components of one node.
pub struct Components {
    sandbox: Arc<Sandbox>,
    cache: Arc<CodeCache>,
    config: Config,
    queue: CompileQueue,
    /// Mapping is work for a processor: more at once than there are would only take turns.
    mappings: Semaphore,
    slots: DashMap<CodeKey, Arc<Slot>>,
    /// Grows with each use: a slot's last use by this clock says which is to go.
    clock: AtomicU64,
    mapped: AtomicU64,
    mapped_total: AtomicU64,
    cache_hits: AtomicU64,
    compile_seconds: Histogram,
}

/// A component that is mapped, or that somebody is about to map.
#[derive(Default)]
struct Slot {
    /// Set once, by the first who came; all who came meanwhile get the same.
    outcome: OnceCell<Result<Arc<Ready>, Arc<CompileError>>>,
    used: AtomicU64,
    /// Those who wait for the outcome, and who were.
    claims: AtomicUsize,
}

/// What the components of a node have been through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComponentStats {
    /// Mapped now, those aside that only run to their end.
    pub mapped: u64,
    /// Mapped so far.
    pub mapped_total: u64,
    /// Of those, with code that was in the cache.
    pub cache_hits: u64,
    /// Entries of the cache that were damaged, and compiled again.
    pub cache_damaged: u64,
}

impl Components {
    /// Nothing is mapped at first.
    pub fn new(sandbox: Arc<Sandbox>, config: &Config, cache: CodeCache) -> Self {
        Self {
            sandbox,
            cache: Arc::new(cache),
            config: config.clone(),
            queue: CompileQueue::new(config.compiles_max, config.tenant_compiles_max),
            mappings: Semaphore::new(config.socket_threads),
            slots: DashMap::new(),
            clock: AtomicU64::new(0),
            mapped: AtomicU64::new(0),
            mapped_total: AtomicU64::new(0),
            cache_hits: AtomicU64::new(0),
            compile_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 12)),
        }
    }

    /// The engine under them.
    pub fn sandbox(&self) -> &Arc<Sandbox> {
        &self.sandbox
    }

    /// Where their code is kept.
    pub fn cache(&self) -> &CodeCache {
        &self.cache
    }

    /// What they have been through.
    pub fn stats(&self) -> ComponentStats {
        ComponentStats {
            mapped: self.mapped.load(Relaxed),
            mapped_total: self.mapped_total.load(Relaxed),
            cache_hits: self.cache_hits.load(Relaxed),
            cache_damaged: self.cache.damaged(),
        }
    }

    /// Unmaps all but these, and removes their code from the cache; what somebody is about to map stays. Invocations that hold
    /// one keep it to their end. Blocks.
    ///
    /// # Errors
    /// If the cache's directory cannot be read, or a file stays.
    pub(crate) fn forget_others(&self, keep: &HashSet<CodeKey>) -> anyhow::Result<()> {
        self.slots.retain(|key, slot| {
            let goes = slot.ready().is_some() && !keep.contains(key);
            if goes {
                self.mapped.fetch_sub(1, Relaxed);
            }
            !goes
        });
        self.cache
            .keep_only(|key| keep.contains(&key) || self.slots.contains_key(&key))
    }

    /// Times of the compiles so far.
    pub(crate) fn compile_seconds(&self) -> &Histogram {
        &self.compile_seconds
    }

    /// Takes a component that is to be deployed: compiles it if that was not done before, maps it, and checks all that it
    /// could be refused for. Cancel safe.
    ///
    /// # Errors
    /// See [`CompileError`]; nothing is kept of a component that is refused.
    pub async fn prepare(
        &self,
        tenant: TenantId,
        wasm: Bytes,
    ) -> Result<ComponentId, Arc<CompileError>> {
        check(&self.config, &wasm)?;
        let hashed = wasm.clone();
        let component = blocking(move || id(&hashed)).await?;
        let key = (tenant, component);
        if let Err(why) = self.bring(key, std::future::ready(Ok(wasm))).await {
            if let CompileError::Contract(_) = *why {
                let cache = self.cache.clone();
                blocking(move || cache.remove(key).map_err(CompileError::Host)).await??;
            }
            return Err(why);
        }
        Ok(component)
    }

    /// Finds a component for an invocation. Where it is not mapped, that takes about a millisecond; where its code is missing
    /// or damaged, `wasm` is asked and compiled, which takes seconds. All who wait for one component wait for the same work,
    /// and if it fails, for the same failure; the next to come begins again. Cancel safe: the work passes to the next who
    /// waits.
    ///
    /// # Errors
    /// See [`CompileError`]; [`CompileError::Host`] too where `wasm` fails or is another component.
    pub async fn ready<E>(
        &self,
        tenant: TenantId,
        component: ComponentId,
        wasm: impl Future<Output = Result<Bytes, E>>,
    ) -> Result<Arc<Ready>, Arc<CompileError>>
    where
        E: Into<anyhow::Error>,
    {
        let key = (tenant, component);
        if let Some(ready) = self.mapped(key) {
            return Ok(ready);
        }
        let wasm = async {
            let fetched = wasm.await.map_err(Into::into);
            let wasm = fetched
                .context("fetching a component")
                .map_err(CompileError::Host)?;
            let hashed = wasm.clone();
            if blocking(move || id(&hashed)).await? != component {
                let other = anyhow::anyhow!("the component that was fetched is another one");
                return Err(CompileError::Host(other));
            }
            Ok(wasm)
        };
        // On the heap: guests carry this future, and hardly any of them needs it.
        Box::pin(self.bring(key, wasm)).await
    }

    /// One that is ready, and now the most recently used.
    pub(super) fn mapped(&self, key: CodeKey) -> Option<Arc<Ready>> {
        let slot = self.slots.get(&key)?;
        let ready = slot.ready()?;
        self.touch(&slot);
        Some(ready.clone())
    }

    fn touch(&self, slot: &Slot) {
        slot.used.store(self.clock.fetch_add(1, Relaxed), Relaxed);
    }

    /// Maps a component, or waits for whoever does.
    async fn bring(
        &self,
        key: CodeKey,
        wasm: impl Future<Output = Result<Bytes, CompileError>>,
    ) -> Result<Arc<Ready>, Arc<CompileError>> {
        let claim = Claim::new(self, key);
        let make = || async { self.make(key, wasm).await.map_err(Arc::new) };
        let outcome = claim.slot.outcome.get_or_init(make).await.clone();
        drop(claim);
        let over = self.over_limit();
        if !over.is_empty() {
            // 0.2 ms each.
            blocking(move || drop(over)).await?;
        }
        outcome
    }

    async fn make(
        &self,
        key: CodeKey,
        wasm: impl Future<Output = Result<Bytes, CompileError>>,
    ) -> Result<Arc<Ready>, CompileError> {
        let ready = match self.map(key).await? {
            Some(ready) => {
                self.cache_hits.fetch_add(1, Relaxed);
                ready
            }
            None => {
                self.compile(key, wasm.await?).await?;
                let gone = || anyhow::anyhow!("code was not in the cache that was put there");
                let mapped = self.map(key).await?;
                mapped.ok_or_else(|| CompileError::Host(gone()))?
            }
        };
        self.mapped.fetch_add(1, Relaxed);
        self.mapped_total.fetch_add(1, Relaxed);
        Ok(ready)
    }

    /// Maps what the cache has.
    async fn map(&self, key: CodeKey) -> Result<Option<Arc<Ready>>, CompileError> {
        let turn = self.mappings.acquire().await;
        let _turn = turn.expect("the semaphore is never closed");
        let (cache, sandbox) = (self.cache.clone(), self.sandbox.clone());
        blocking(move || match cache.load(key).map_err(CompileError::Host)? {
            Loaded::Missing | Loaded::Damaged => Ok(None),
            Loaded::Code(code) => {
                let linked = link(&sandbox, &code)?;
                Ok(Some(Arc::new(Ready { linked })))
            }
        })
        .await?
    }

    /// Compiles a component into the cache.
    async fn compile(&self, key: CodeKey, wasm: Bytes) -> Result<(), CompileError> {
        let _turn = self.queue.enter(key.0).await?;
        let began = Instant::now();
        let cache = self.cache.clone();
        let room = blocking(move || cache.room().map_err(CompileError::Host)).await??;
        let compiled = compile(&self.sandbox, &self.config, wasm, room).await;
        self.compile_seconds.observe(began.elapsed().as_secs_f64());
        let (compiled, cache) = (compiled?, self.cache.clone());
        blocking(move || cache.seal(key, &compiled.code).map_err(CompileError::Host)).await?
    }

    /// Takes away the least recently used beyond the limit. Invocations that hold one keep it to their end.
    fn over_limit(&self) -> Vec<Arc<Slot>> {
        let mut over = Vec::new();
        while self.mapped.load(Relaxed) > self.config.components_mapped_max as u64 {
            let mapped = self.slots.iter().filter(|slot| slot.ready().is_some());
            let uses = mapped.map(|slot| (slot.used.load(Relaxed), *slot.key()));
            let Some((_, oldest)) = uses.min_by_key(|(used, _)| *used) else {
                break;
            };
            let oldest = self
                .slots
                .remove_if(&oldest, |_, slot| slot.ready().is_some());
            if let Some((_, slot)) = oldest {
                self.mapped.fetch_sub(1, Relaxed);
                over.push(slot);
            }
        }
        over
    }
}

impl Slot {
    fn ready(&self) -> Option<&Arc<Ready>> {
        self.outcome.get()?.as_ref().ok()
    }
}

/// Held while a component is brought. A slot that came to nothing goes with the last of them.
struct Claim<'a> {
    slots: &'a DashMap<CodeKey, Arc<Slot>>,
    key: CodeKey,
    slot: Arc<Slot>,
}

impl<'a> Claim<'a> {
    fn new(components: &'a Components, key: CodeKey) -> Self {
        let slots = &components.slots;
        let slot = slots.entry(key).or_default();
        slot.claims.fetch_add(1, Relaxed);
        components.touch(&slot);
        Self {
            slots,
            key,
            slot: slot.clone(),
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Counted under the lock of the slot's key, as above: nobody comes in between.
        self.slots.remove_if(&self.key, |_, slot| {
            if !Arc::ptr_eq(slot, &self.slot) {
                return false;
            }
            let last = slot.claims.fetch_sub(1, Relaxed) == 1;
            match slot.outcome.get() {
                Some(Ok(_)) => false,
                // Whoever comes from now on tries again.
                Some(Err(_)) => true,
                None => last,
            }
        });
    }
}

fn id(wasm: &[u8]) -> ComponentId {
    ComponentId(blake3::hash(wasm).into())
}

/// Runs what would hold a socket's thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CompileError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panicked| CompileError::Host(panicked.into()))
}
