//! What changes a node: deploying, rolling back and deleting functions, adding and removing models, projects and keys.
//!
//! Every change is one commit to the store; nothing here touches what a node serves from. That is `apply`'s, which sees each
//! commit, its own node's too, in the store's feed. A command answers when its commit is durable and applied here.
//!
//! Knows no HTTP; `api` puts it on the wire.

mod apply;
mod canaries;
mod error;
mod functions;
mod garbage;
mod keys;
mod models;
mod rows;
mod start;

pub(crate) use apply::Applier;
pub(crate) use canaries::watch as watch_canaries;
pub(crate) use error::{ControlError, Thing};
pub(crate) use functions::{Deploy, Deployed};
pub(crate) use garbage::collect;
pub(crate) use rows::{CanaryRow, ModelRow, RolledBack, VersionRow};
pub use start::Seed;

use crate::config::Config;
use crate::sandbox::{Components, Registry};
use crate::store::{
    AnyStore, Blobs, Check, Kind, Listing, Op, Revision, Row, Store as _, StoreError,
};
use crate::tenancy::Directory;
use dashmap::DashMap;
use shoal_inference::{Inference, TenantId};
use std::sync::Arc;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, RwLock, watch};

/// Rows of one page of a listing.
const PAGE_LEN: usize = 1_000;

/// What a node is made of, as far as commands change it.
pub(crate) struct Control {
    pub(crate) config: Arc<Config>,
    pub(crate) store: AnyStore,
    pub(crate) blobs: Blobs,
    pub(crate) components: Arc<Components>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) inference: Inference,
    /// One writer for each tenant at a time: so its limits hold exactly, and two deploys of one function follow each other.
    writers: DashMap<TenantId, Arc<Mutex<()>>>,
    /// Held by commands from their blob to its row, and alone by what throws blobs away.
    putting: RwLock<()>,
    /// Told that something was removed.
    garbage: Notify,
    applied: watch::Receiver<Revision>,
}

/// What [`Control`] is made of.
pub(crate) struct ControlParts {
    pub(crate) config: Arc<Config>,
    pub(crate) store: AnyStore,
    pub(crate) blobs: Blobs,
    pub(crate) components: Arc<Components>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) inference: Inference,
}

impl Control {
    /// The commands, and the task that applies what they commit. Everything in the store is applied when this answers.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn start(parts: ControlParts) -> anyhow::Result<(Arc<Self>, Applier)> {
        let (applied, sees_applied) = watch::channel(Revision(0));
        let control = Arc::new(Self {
            config: parts.config,
            store: parts.store,
            blobs: parts.blobs,
            components: parts.components,
            registry: parts.registry,
            directory: parts.directory,
            inference: parts.inference,
            writers: DashMap::new(),
            putting: RwLock::new(()),
            garbage: Notify::new(),
            applied: sees_applied,
        });
        let applier = Applier::start(control.clone(), applied).await?;
        Ok((control, applier))
    }

    /// Waits for the tenant's turn to change something.
    async fn writer(&self, tenant: TenantId) -> OwnedMutexGuard<()> {
        let writer = self.writers.entry(tenant).or_default().clone();
        writer.lock_owned().await
    }

    /// Commits, and waits until this node serves what was committed.
    async fn commit(&self, checks: Vec<Check>, ops: Vec<Op>) -> Result<(), ControlError> {
        let leaves_garbage = ops.iter().any(garbage::is_left_by);
        let revision = self.store.commit(checks, ops).await?;
        if leaves_garbage {
            self.garbage.notify_one();
        }
        let mut applied = self.applied.clone();
        // The applier ends with the node: what is committed then is applied when the next one starts.
        let _ = applied.wait_for(|applied| *applied >= revision).await;
        Ok(())
    }

    /// Every row of a kind, of all tenants.
    async fn rows(&self, kind: Kind) -> Result<Vec<Row>, StoreError> {
        let mut rows: Vec<Row> = Vec::new();
        loop {
            let listing = Listing {
                kind,
                tenant: None,
                after: rows
                    .last()
                    .map(|row| (row.key.tenant, row.key.name.clone())),
                limit: PAGE_LEN,
            };
            let page = self.store.list(listing).await?;
            let is_last = page.len() < PAGE_LEN;
            rows.extend(page);
            if is_last {
                return Ok(rows);
            }
        }
    }
}
