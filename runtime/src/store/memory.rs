//! Rows in this process's memory: for the demo and for tests, which can say what goes wrong and when. Where it fails it does
//! so as the file does.

use super::feed::{Event, Feed, Publisher, Watch, feed};
use super::limits::{check_commit, check_key};
use super::{Check, CommitError, Kind, Listing, Op, Revision, Row, RowKey, Store, StoreError};
use shoal_inference::TenantId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One line of the script. Commits are counted from 1 in the order in which they are asked for, whatever becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk is full at commit n: it does not happen, and the store lives on.
    FullAt(u64),
    /// The store stops at commit n, which does not happen.
    StopAt(u64),
    /// The store stops at commit n, which happens all the same: only who starts again sees that.
    LoseAt(u64),
    /// After commit n no watch can begin before it.
    GapAfter(u64),
}

/// See the module's description. Clones are the same store.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    feed: Feed,
}

#[derive(Debug)]
struct State {
    rows: Rows,
    revision: Revision,
    faults: Vec<Fault>,
    asked: u64,
    /// `None` once it has stopped: that ends the watches.
    publisher: Option<Publisher>,
}

/// In the order in which they are listed.
type Rows = BTreeMap<(Kind, TenantId, String), (Revision, Vec<u8>)>;

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::with_faults([])
    }

    /// An empty store in which this goes wrong.
    pub fn with_faults(faults: impl IntoIterator<Item = Fault>) -> Self {
        let faults = faults.into_iter().collect();
        Self::of(Rows::new(), Revision(0), faults)
    }

    /// What a node finds when it starts again: the rows as they are, and nothing that goes wrong.
    pub fn restarted(&self) -> Self {
        let state = self.lock();
        Self::of(state.rows.clone(), state.revision, Vec::new())
    }

    fn of(rows: Rows, revision: Revision, faults: Vec<Fault>) -> Self {
        let (publisher, feed) = feed(revision);
        let state = State {
            rows,
            revision,
            faults,
            asked: 0,
            publisher: Some(publisher),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            feed,
        }
    }

    /// Nothing panics while it holds this lock but for a bug; the data behind it is plain either way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        let state = self.lock();
        state.publisher.as_ref().ok_or_else(stopped)?;
        Ok(state.revision)
    }

    async fn get(&self, key: RowKey) -> Result<Option<Row>, StoreError> {
        check_key(&key)?;
        let state = self.lock();
        state.publisher.as_ref().ok_or_else(stopped)?;
        Ok(state.rows.get_key_value(&place(&key)).map(row))
    }

    async fn list(&self, listing: Listing) -> Result<Vec<Row>, StoreError> {
        let state = self.lock();
        state.publisher.as_ref().ok_or_else(stopped)?;
        let (tenant, name) = listing.first();
        let last = listing.last();
        let rows = state.rows.range((listing.kind, tenant, name)..);
        let rows =
            rows.take_while(|((kind, tenant, _), _)| *kind == listing.kind && *tenant <= last);
        Ok(rows.take(listing.limit).map(row).collect())
    }

    async fn commit(&self, checks: Vec<Check>, ops: Vec<Op>) -> Result<Revision, CommitError> {
        check_commit(&checks, &ops)?;
        self.lock().commit(checks, ops)
    }

    fn watch(&self, from: Revision) -> Watch {
        self.feed.watch(from)
    }
}

impl State {
    fn commit(&mut self, checks: Vec<Check>, ops: Vec<Op>) -> Result<Revision, CommitError> {
        self.asked += 1;
        let asked = self.asked;
        let mut publisher = self.publisher.take().ok_or_else(stopped)?;
        if self.faults.contains(&Fault::StopAt(asked)) {
            return Err(stopped().into());
        }
        if self.faults.contains(&Fault::LoseAt(asked)) {
            // Nobody hears of it either way.
            let _ = self.apply(checks, ops);
            return Err(stopped().into());
        }
        let applied = if self.faults.contains(&Fault::FullAt(asked)) {
            Err(StoreError::Full.into())
        } else {
            self.apply(checks, ops)
        };
        if let Ok(event) = &applied {
            publisher.publish(event.clone());
        }
        if self.faults.contains(&Fault::GapAfter(asked)) {
            publisher.forget();
        }
        self.publisher = Some(publisher);
        applied.map(|event| event.revision)
    }

    fn apply(&mut self, checks: Vec<Check>, ops: Vec<Op>) -> Result<Event, CommitError> {
        for check in checks {
            let (key, expected) = check.expected();
            let found = self.rows.get(&place(&key)).map(|(revision, _)| *revision);
            if found != expected {
                return Err(CommitError::Conflict(key));
            }
        }
        self.revision.0 += 1;
        for op in &ops {
            match op {
                Op::Put(key, value) => self.rows.insert(place(key), (self.revision, value.clone())),
                Op::Delete(key) => self.rows.remove(&place(key)),
            };
        }
        Ok(Event::new(self.revision, ops))
    }
}

fn place(key: &RowKey) -> (Kind, TenantId, String) {
    (key.kind, key.tenant, key.name.clone())
}

fn row(
    ((kind, tenant, name), (revision, value)): (&(Kind, TenantId, String), &(Revision, Vec<u8>)),
) -> Row {
    Row {
        key: RowKey {
            tenant: *tenant,
            kind: *kind,
            name: name.clone(),
        },
        revision: *revision,
        value: value.clone(),
    }
}

fn stopped() -> StoreError {
    StoreError::Stopped("a scripted fault".to_owned())
}
