//! What holds for the watches of every kind of store.

use super::laws::{commit_many, conflicts};
use super::{absent, commit, delete, key, put, row};
use shoal::store::{
    AnyStore, Change, Event, KEPT_LEN, Resync, Revision, RowKey, Store as _, Watch,
};
use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

laws! {
    a_watch_sees_every_commit_in_order
    a_commit_that_is_answered_is_seen_without_waiting
    a_watch_begins_after_its_revision
    a_waiting_watch_wakes_and_a_dropped_wait_loses_nothing
    a_watch_begins_before_as_many_commits_as_are_kept
    a_watch_from_before_what_is_kept_is_told_to_resync
    a_watch_that_was_overtaken_is_told_to_resync
    a_watch_from_the_future_is_told_to_resync
    a_watch_of_a_store_that_is_gone_sees_what_is_left_and_ends
}

/// The event of a commit that wrote one row.
fn wrote(key: &RowKey, revision: u64, value: impl Into<Vec<u8>>) -> Option<Result<Event, Resync>> {
    let change = Change {
        key: key.clone(),
        row: Some(row(key, revision, value)),
    };
    Some(Ok(Event {
        revision: Revision(revision),
        changes: vec![change],
    }))
}

/// What a watch says at once.
fn now(watch: &mut Watch) -> Poll<Option<Result<Event, Resync>>> {
    pin!(watch.next()).poll(&mut Context::from_waker(Waker::noop()))
}

async fn a_watch_sees_every_commit_in_order(store: AnyStore) {
    let (a, b, c) = (key(1, "a"), key(1, "b"), key(2, "c"));
    let mut watch = store.watch(Revision(0));
    commit(&store, [put(&a, [1])]).await;
    commit(&store, [put(&c, [2]), delete(&b), put(&c, [3])]).await;
    conflicts(&store, vec![absent(&a)], vec![put(&a, [9])], &a).await;
    commit(&store, []).await;
    commit(&store, [delete(&a)]).await;
    assert_eq!(watch.next().await, wrote(&a, 1, [1]));
    // Each row once, in the order of keys, as it was afterwards.
    let gone = |key: &RowKey| Change {
        key: key.clone(),
        row: None,
    };
    let written = Change {
        key: c.clone(),
        row: Some(row(&c, 2, [3])),
    };
    let rest = [
        (2, vec![gone(&b), written]),
        (3, vec![]),
        (4, vec![gone(&a)]),
    ];
    for (revision, changes) in rest {
        let revision = Revision(revision);
        let event = Event { revision, changes };
        assert_eq!(watch.next().await, Some(Ok(event)));
    }
    assert_eq!(now(&mut watch), Poll::Pending);
}

async fn a_commit_that_is_answered_is_seen_without_waiting(store: AnyStore) {
    let a = key(1, "a");
    for revision in 1..20 {
        let mut watch = store.watch(Revision(revision - 1));
        commit(&store, [put(&a, [])]).await;
        assert_eq!(now(&mut watch), Poll::Ready(wrote(&a, revision, [])));
    }
}

async fn a_watch_begins_after_its_revision(store: AnyStore) {
    let a = key(1, "a");
    for n in 1..=3 {
        commit(&store, [put(&a, [n])]).await;
    }
    let mut third = store.watch(Revision(2));
    assert_eq!(third.next().await, wrote(&a, 3, [3]));
    let mut fourth = store.watch(Revision(3));
    assert_eq!(now(&mut fourth), Poll::Pending);
    commit(&store, [put(&a, [4])]).await;
    assert_eq!(third.next().await, wrote(&a, 4, [4]));
    assert_eq!(fourth.next().await, wrote(&a, 4, [4]));
}

async fn a_waiting_watch_wakes_and_a_dropped_wait_loses_nothing(store: AnyStore) {
    let a = key(1, "a");
    let mut watch = store.watch(Revision(0));
    // Polled once and dropped.
    assert_eq!(now(&mut watch), Poll::Pending);
    // Polled first, so that the commit finds it waiting.
    let (event, _) = tokio::join!(biased; watch.next(), commit(&store, [put(&a, [1])]));
    assert_eq!(event, wrote(&a, 1, [1]));
    assert_eq!(now(&mut watch), Poll::Pending);
}

async fn a_watch_begins_before_as_many_commits_as_are_kept(store: AnyStore) {
    commit_many(&store, KEPT_LEN + 1).await;
    let mut watch = store.watch(Revision(1));
    for revision in 2..=KEPT_LEN as u64 + 1 {
        assert_eq!(watch.next().await.unwrap().unwrap().revision.0, revision);
    }
    assert_eq!(now(&mut watch), Poll::Pending);
}

async fn a_watch_from_before_what_is_kept_is_told_to_resync(store: AnyStore) {
    commit_many(&store, KEPT_LEN + 1).await;
    let mut watch = store.watch(Revision(0));
    assert_eq!(watch.next().await, Some(Err(Resync)));
    // It does not go on as if nothing was missing.
    assert_eq!(watch.next().await, Some(Err(Resync)));
}

async fn a_watch_that_was_overtaken_is_told_to_resync(store: AnyStore) {
    let mut watch = store.watch(Revision(0));
    commit_many(&store, 2).await;
    assert_eq!(watch.next().await.unwrap().unwrap().revision.0, 1);
    commit_many(&store, KEPT_LEN).await;
    assert_eq!(watch.next().await, Some(Err(Resync)));
}

async fn a_watch_from_the_future_is_told_to_resync(store: AnyStore) {
    commit_many(&store, 2).await;
    let mut near = store.watch(Revision(3));
    let mut far = store.watch(Revision(u64::MAX));
    // The third commit is not the one that was meant.
    commit_many(&store, 2).await;
    assert_eq!(near.next().await, Some(Err(Resync)));
    assert_eq!(far.next().await, Some(Err(Resync)));
}

async fn a_watch_of_a_store_that_is_gone_sees_what_is_left_and_ends(store: AnyStore) {
    let a = key(1, "a");
    let mut watch = store.watch(Revision(0));
    let clone = store.clone();
    commit(&store, [put(&a, [1])]).await;
    drop(store);
    commit(&clone, [put(&a, [2])]).await;
    drop(clone);
    assert_eq!(watch.next().await, wrote(&a, 1, [1]));
    assert_eq!(watch.next().await, wrote(&a, 2, [2]));
    assert_eq!(watch.next().await, None);
    assert_eq!(watch.next().await, None);
}
