//! What a store in memory does wrong when it is told to.

use super::{commit, delete, key, put, row};
use shoal::store::{
    AnyStore, CommitError, Fault, MemoryStore, Resync, Revision, Store as _, StoreError,
};

fn stopped() -> StoreError {
    StoreError::Stopped("a scripted fault".to_owned())
}

/// Expects that a store answers nothing any more.
async fn is_stopped(store: &AnyStore) {
    let a = key(1, "a");
    assert_eq!(store.revision().await, Err(stopped()));
    assert_eq!(store.get(a.clone()).await, Err(stopped()));
    assert_eq!(store.list(super::everything()).await, Err(stopped()));
    let refused = store.commit(vec![], vec![delete(&a)]).await;
    assert_eq!(refused, Err(stopped().into()));
}

#[tokio::test]
async fn a_full_disk_refuses_one_commit_and_the_store_lives_on() {
    let store: AnyStore = MemoryStore::with_faults([Fault::FullAt(2)]).into();
    let a = key(1, "a");
    let mut watch = store.watch(Revision(0));
    commit(&store, [put(&a, [1])]).await;
    let refused = store.commit(vec![], vec![put(&a, [2])]).await;
    assert_eq!(refused, Err(CommitError::Store(StoreError::Full)));
    assert_eq!(store.get(a.clone()).await, Ok(Some(row(&a, 1, [1]))));
    assert_eq!(commit(&store, [put(&a, [3])]).await, Revision(2));
    for revision in 1..=2 {
        let event = watch.next().await.unwrap().unwrap();
        assert_eq!(event.revision, Revision(revision));
    }
}

#[tokio::test]
async fn a_store_that_stops_has_not_done_its_last_commit() {
    let memory = MemoryStore::with_faults([Fault::StopAt(2)]);
    let store: AnyStore = memory.clone().into();
    let a = key(1, "a");
    let mut watch = store.watch(Revision(0));
    commit(&store, [put(&a, [1])]).await;
    let refused = store.commit(vec![], vec![put(&a, [2])]).await;
    assert_eq!(refused, Err(stopped().into()));
    is_stopped(&store).await;
    assert_eq!(watch.next().await.unwrap().unwrap().revision, Revision(1));
    assert_eq!(watch.next().await, None);
    let store: AnyStore = memory.restarted().into();
    assert_eq!(store.get(a.clone()).await, Ok(Some(row(&a, 1, [1]))));
    assert_eq!(commit(&store, [delete(&a)]).await, Revision(2));
}

#[tokio::test]
async fn a_lost_commit_is_there_when_the_store_starts_again() {
    let memory = MemoryStore::with_faults([Fault::LoseAt(1)]);
    let store: AnyStore = memory.clone().into();
    let a = key(1, "a");
    let mut watch = store.watch(Revision(0));
    let refused = store.commit(vec![], vec![put(&a, [1])]).await;
    assert_eq!(refused, Err(stopped().into()));
    is_stopped(&store).await;
    assert_eq!(watch.next().await, None);
    let store: AnyStore = memory.restarted().into();
    assert_eq!(store.get(a.clone()).await, Ok(Some(row(&a, 1, [1]))));
    assert_eq!(store.revision().await, Ok(Revision(1)));
}

#[tokio::test]
async fn a_gap_is_seen_by_those_who_are_before_it() {
    let store: AnyStore = MemoryStore::with_faults([Fault::GapAfter(2)]).into();
    let mut watch = store.watch(Revision(0));
    commit(&store, []).await;
    assert_eq!(watch.next().await.unwrap().unwrap().revision, Revision(1));
    commit(&store, []).await;
    let mut after = store.watch(Revision(2));
    commit(&store, []).await;
    assert_eq!(watch.next().await, Some(Err(Resync)));
    assert_eq!(after.next().await.unwrap().unwrap().revision, Revision(3));
}

#[tokio::test]
async fn commits_are_counted_as_they_are_asked_for() {
    let store: AnyStore = MemoryStore::with_faults([Fault::FullAt(2)]).into();
    let a = key(1, "a");
    let conflict = store.commit(vec![super::at(&a, 1)], vec![]).await;
    assert_eq!(conflict, Err(CommitError::Conflict(a)));
    let refused = store.commit(vec![], vec![]).await;
    assert_eq!(refused, Err(CommitError::Store(StoreError::Full)));
}
