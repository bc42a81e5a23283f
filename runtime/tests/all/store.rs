//! Stores and blobs, through their public doors: laws that every kind of store keeps, a model that they are compared with,
//! and what is special about each kind.

/// Runs each of these functions as one test for each kind of store, with an empty one.
macro_rules! laws {
    ($($law:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $law() {
                super::$law(shoal::store::MemoryStore::new().into()).await;
            })*
        }

        mod sqlite {
            $(#[tokio::test]
            async fn $law() {
                let dir = tempfile::tempdir().unwrap();
                let store = shoal::store::SqliteStore::open(&dir.path().join("store.db")).unwrap();
                super::$law(store.into()).await;
            })*
        }
    };
}

mod blobs;
mod faults;
mod file;
mod laws;
mod model;
mod watches;

use shoal::store::{AnyStore, Check, Kind, Listing, Op, Revision, Row, RowKey, Store as _};
use shoal_inference::TenantId;

/// A function's row.
fn key(tenant: u64, name: &str) -> RowKey {
    RowKey {
        tenant: TenantId(tenant),
        kind: Kind::Function,
        name: name.to_owned(),
    }
}

fn put(key: &RowKey, value: impl Into<Vec<u8>>) -> Op {
    Op::Put(key.clone(), value.into())
}

fn delete(key: &RowKey) -> Op {
    Op::Delete(key.clone())
}

fn absent(key: &RowKey) -> Check {
    Check::Absent(key.clone())
}

fn at(key: &RowKey, revision: u64) -> Check {
    Check::At(key.clone(), Revision(revision))
}

fn row(key: &RowKey, revision: u64, value: impl Into<Vec<u8>>) -> Row {
    Row {
        key: key.clone(),
        revision: Revision(revision),
        value: value.into(),
    }
}

/// All functions.
fn everything() -> Listing {
    Listing {
        kind: Kind::Function,
        tenant: None,
        after: None,
        limit: usize::MAX,
    }
}

/// Commits without a check.
async fn commit(store: &AnyStore, ops: impl Into<Vec<Op>>) -> Revision {
    store.commit(Vec::new(), ops.into()).await.unwrap()
}
