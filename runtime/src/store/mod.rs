//! State that outlives a process: registry rows behind one trait, and blobs named by their content.
//!
//! A row is found by (tenant, kind, name); its value is opaque here. All rows share one revision, which grows by one with
//! each commit. Nothing on the path of a request asks a store: whoever needs rows there keeps a copy, fed by [`Watch`].

mod blobs;
mod data;
mod digest;
mod feed;
mod limits;
mod memory;
mod sqlite;

pub use blobs::{BlobError, Blobs};
pub use data::Data;
pub use digest::{Digest, NotADigest};
pub use feed::{Change, Event, KEPT_LEN, Resync, Watch};
pub use memory::{Fault, MemoryStore};
pub use sqlite::SqliteStore;

use serde::{Deserialize, Serialize};
use shoal_inference::TenantId;
use std::future::Future;

/// Whose rows those are that belong to no project: projects, keys and models.
pub const OPERATOR: TenantId = TenantId(0);
/// Longest name of a row, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest value of a row, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Checks and operations of one commit, together.
pub const COMMIT_LEN_MAX: usize = 1_000;
/// Names and values of one commit, together, in bytes. A commit is in memory until it is durable, and a while longer for
/// whoever watches.
pub const COMMIT_BYTES_MAX: usize = 4 << 20;

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A project, by its name; of the operator.
    Project,
    /// An API key, by its id; of the operator.
    Key,
    /// A function, by its name.
    Function,
    /// One version of a function.
    Version,
    /// A model, by its name; of the operator.
    Model,
}

impl Kind {
    /// Its name where rows are kept and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Key => "key",
            Self::Function => "function",
            Self::Version => "version",
            Self::Model => "model",
        }
    }
}

/// Counts commits; 0 is a store without any.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Revision(pub u64);

/// Where a row is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowKey {
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is.
    pub kind: Kind,
    /// Its name among those; at most [`NAME_BYTES_MAX`].
    pub name: String,
}

/// A row as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where it is.
    pub key: RowKey,
    /// The commit that wrote it last.
    pub revision: Revision,
    /// What its writer put there.
    pub value: Vec<u8>,
}

/// Which rows to list, in the order of (tenant, name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// What they are.
    pub kind: Kind,
    /// Whose; `None`: everybody's.
    pub tenant: Option<TenantId>,
    /// Only those after this (tenant, name).
    pub after: Option<(TenantId, String)>,
    /// At most so many.
    pub limit: usize,
}

impl Listing {
    /// The first (tenant, name) that it may hold: a name with a NUL appended is the very next one after it, whatever follows.
    fn first(&self) -> (TenantId, String) {
        let start = (self.tenant.unwrap_or(TenantId(0)), String::new());
        match &self.after {
            Some((tenant, name)) => start.max((*tenant, format!("{name}\0"))),
            None => start,
        }
    }

    /// The last tenant whose rows it may hold.
    fn last(&self) -> TenantId {
        self.tenant.unwrap_or(TenantId(u64::MAX))
    }
}

/// What must hold for a commit to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// No such row.
    Absent(RowKey),
    /// The row was last written by this commit.
    At(RowKey, Revision),
}

impl Check {
    /// Which row it looks at, and which revision it expects there.
    fn expected(self) -> (RowKey, Option<Revision>) {
        match self {
            Self::Absent(key) => (key, None),
            Self::At(key, revision) => (key, Some(revision)),
        }
    }
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write it, whether it is there or not.
    Put(RowKey, Vec<u8>),
    /// Remove it, if it is there.
    Delete(RowKey),
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk is full; when there is room again, a commit works again.
    #[error("the disk is full")]
    Full,
    /// Over one of this module's limits.
    #[error("{0}")]
    TooLarge(String),
    /// The store cannot be read or written any more until the node starts again. What was acknowledged is safe; whether
    /// this commit happened is not known.
    #[error("the store has stopped: {0}")]
    Stopped(String),
}

/// Why a commit was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A check does not hold; nothing was changed.
    #[error("{} {:?} was changed meanwhile", .0.kind.as_str(), .0.name)]
    Conflict(RowKey),
    /// See there; nothing was changed, but for [`StoreError::Stopped`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Registry rows. Both implementors pass one conformance suite (`tests/all/store.rs`).
pub trait Store: Send + Sync + 'static {
    /// The last commit.
    fn revision(&self) -> impl Future<Output = Result<Revision, StoreError>> + Send;

    /// One row. Linearizable: sees every commit acknowledged before the call.
    fn get(&self, key: RowKey) -> impl Future<Output = Result<Option<Row>, StoreError>> + Send;

    /// A page of rows.
    fn list(&self, listing: Listing) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send;

    /// Applies all operations, in order, if all checks hold before the first, else none; the revision grows by one even if
    /// nothing changed. Durable when it answers. Dropping the future does not take a commit back: it may or may not happen.
    fn commit(
        &self,
        checks: Vec<Check>,
        ops: Vec<Op>,
    ) -> impl Future<Output = Result<Revision, CommitError>> + Send;

    /// Every commit after `from`, in order, each as one event, once it is durable. Where some of them are no longer at hand,
    /// the answer is [`Resync`]: list, and watch from a revision read before that.
    fn watch(&self, from: Revision) -> Watch;
}

/// Every kind of store.
#[derive(Clone, Debug)]
pub enum AnyStore {
    /// In this process's memory.
    Memory(MemoryStore),
    /// In one file.
    Sqlite(SqliteStore),
}

impl Store for AnyStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        match self {
            Self::Memory(store) => store.revision().await,
            Self::Sqlite(store) => store.revision().await,
        }
    }

    async fn get(&self, key: RowKey) -> Result<Option<Row>, StoreError> {
        match self {
            Self::Memory(store) => store.get(key).await,
            Self::Sqlite(store) => store.get(key).await,
        }
    }

    async fn list(&self, listing: Listing) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Memory(store) => store.list(listing).await,
            Self::Sqlite(store) => store.list(listing).await,
        }
    }

    async fn commit(&self, checks: Vec<Check>, ops: Vec<Op>) -> Result<Revision, CommitError> {
        match self {
            Self::Memory(store) => store.commit(checks, ops).await,
            Self::Sqlite(store) => store.commit(checks, ops).await,
        }
    }

    fn watch(&self, from: Revision) -> Watch {
        match self {
            Self::Memory(store) => store.watch(from),
            Self::Sqlite(store) => store.watch(from),
        }
    }
}

impl From<MemoryStore> for AnyStore {
    fn from(store: MemoryStore) -> Self {
        Self::Memory(store)
    }
}

impl From<SqliteStore> for AnyStore {
    fn from(store: SqliteStore) -> Self {
        Self::Sqlite(store)
    }
}
