//! What holds for the rows of every kind of store.

use super::{absent, at, commit, delete, everything, key, put, row};
use shoal::store::{
    AnyStore, COMMIT_BYTES_MAX, COMMIT_LEN_MAX, Check, CommitError, Kind, Listing, NAME_BYTES_MAX,
    OPERATOR, Op, Revision, RowKey, Store as _, StoreError, VALUE_BYTES_MAX,
};
use shoal_inference::TenantId;
use tokio::task::JoinSet;

laws! {
    a_row_that_was_never_written_is_absent
    a_row_is_read_as_it_was_written
    a_row_is_apart_from_its_namesakes_of_another_tenant_or_kind
    a_deleted_row_is_absent_and_may_be_deleted_again
    a_listing_is_in_the_order_of_tenant_and_name
    pages_make_up_the_whole_listing
    a_listing_ends_at_its_limit
    a_row_checked_to_be_absent_must_be
    a_row_checked_at_a_revision_must_be_at_that_one
    a_conflict_names_the_first_row_that_differs_and_changes_nothing
    operations_happen_in_order_and_share_a_revision
    checks_see_what_was_there_before_the_operations
    every_commit_counts_even_an_empty_one_and_a_conflict_does_not
    of_commits_on_one_row_at_once_exactly_one_wins
    commits_asked_for_at_once_all_happen
    names_have_a_limit
    values_have_a_limit
    commits_have_a_limit_of_checks_and_operations
    commits_have_a_limit_of_bytes
}

async fn a_row_that_was_never_written_is_absent(store: AnyStore) {
    assert_eq!(store.get(key(1, "a")).await, Ok(None));
    assert_eq!(store.list(everything()).await, Ok(vec![]));
    assert_eq!(store.revision().await, Ok(Revision(0)));
}

async fn a_row_is_read_as_it_was_written(store: AnyStore) {
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let names = ["", "\0", "a\0b", "ü/…", "%_*'\""];
    for (name, revision) in names.into_iter().zip(1..) {
        let key = key(u64::MAX, name);
        commit(&store, [put(&key, every_byte.clone())]).await;
        let found = store.get(key.clone()).await.unwrap();
        assert_eq!(found, Some(row(&key, revision, every_byte.clone())));
    }
    let empty = key(1, "empty");
    commit(&store, [put(&empty, [])]).await;
    assert_eq!(store.get(empty.clone()).await, Ok(Some(row(&empty, 6, []))));
}

async fn a_row_is_apart_from_its_namesakes_of_another_tenant_or_kind(store: AnyStore) {
    let mine = key(1, "a");
    commit(&store, [put(&mine, [1])]).await;
    assert_eq!(store.get(key(2, "a")).await, Ok(None));
    for kind in [Kind::Project, Kind::Key, Kind::Version, Kind::Model] {
        let other = RowKey {
            kind,
            ..mine.clone()
        };
        assert_eq!(store.get(other).await, Ok(None));
        let listing = Listing {
            kind,
            ..everything()
        };
        assert_eq!(store.list(listing).await, Ok(vec![]));
    }
}

async fn a_deleted_row_is_absent_and_may_be_deleted_again(store: AnyStore) {
    let a = key(1, "a");
    commit(&store, [put(&a, [1])]).await;
    assert_eq!(commit(&store, [delete(&a)]).await, Revision(2));
    assert_eq!(store.get(a.clone()).await, Ok(None));
    assert_eq!(commit(&store, [delete(&a)]).await, Revision(3));
}

/// Rows of tenants at both ends of their range and in its middle, with names of which some begin as others do, written
/// neither in their order nor against it; in their order.
async fn scattered(store: &AnyStore) -> Vec<RowKey> {
    let tenants = [0, 1, i64::MAX as u64, 1 << 63, u64::MAX];
    let names = [
        "",
        "\0",
        "B",
        "a",
        "a\0",
        "a\0\0",
        "a\u{1}",
        "ab",
        "é",
        "\u{10ffff}",
    ];
    let keys: Vec<RowKey> = tenants
        .into_iter()
        .flat_map(|tenant| names.map(|name| key(tenant, name)))
        .collect();
    // 7 and 50 have no common divisor: each row once.
    let ops: Vec<Op> = (0..keys.len())
        .map(|n| put(&keys[n * 7 % keys.len()], []))
        .collect();
    commit(store, ops).await;
    keys
}

async fn keys_of(store: &AnyStore, listing: Listing) -> Vec<RowKey> {
    let rows = store.list(listing).await.unwrap();
    rows.into_iter().map(|row| row.key).collect()
}

async fn a_listing_is_in_the_order_of_tenant_and_name(store: AnyStore) {
    let keys = scattered(&store).await;
    assert_eq!(keys_of(&store, everything()).await, keys);
    for tenant in [OPERATOR, TenantId(1 << 63), TenantId(u64::MAX)] {
        let listing = Listing {
            tenant: Some(tenant),
            ..everything()
        };
        let of_tenant = keys.iter().filter(|key| key.tenant == tenant);
        let of_tenant: Vec<RowKey> = of_tenant.cloned().collect();
        assert_eq!(of_tenant.len(), 10);
        assert_eq!(keys_of(&store, listing).await, of_tenant);
    }
}

async fn pages_make_up_the_whole_listing(store: AnyStore) {
    let keys = scattered(&store).await;
    for tenant in [None, Some(TenantId(1 << 63))] {
        let mut listing = Listing {
            tenant,
            limit: 3,
            ..everything()
        };
        let mut pages = Vec::new();
        loop {
            let page = keys_of(&store, listing.clone()).await;
            let Some(last) = page.last() else {
                break;
            };
            listing.after = Some((last.tenant, last.name.clone()));
            pages.extend(page);
        }
        let wanted = |key: &&RowKey| tenant.is_none_or(|tenant| key.tenant == tenant);
        let whole: Vec<RowKey> = keys.iter().filter(wanted).cloned().collect();
        assert_eq!(pages, whole);
    }
}

async fn a_listing_ends_at_its_limit(store: AnyStore) {
    let keys = scattered(&store).await;
    for limit in [0, 1, 49, 50, 51] {
        let listing = Listing {
            limit,
            ..everything()
        };
        let expected = &keys[..limit.min(50)];
        assert_eq!(keys_of(&store, listing).await, expected, "limit {limit}");
    }
    // What comes after another tenant's row is all of one's own, or nothing.
    for (after, len) in [(0, 10), (2, 0)] {
        let listing = Listing {
            tenant: Some(TenantId(1)),
            after: Some((TenantId(after), "zz".to_owned())),
            ..everything()
        };
        assert_eq!(keys_of(&store, listing).await.len(), len);
    }
}

/// Expects that a commit is refused for this row.
pub(super) async fn conflicts(store: &AnyStore, checks: Vec<Check>, ops: Vec<Op>, with: &RowKey) {
    let refused = store.commit(checks, ops).await;
    assert_eq!(refused, Err(CommitError::Conflict(with.clone())));
}

async fn a_row_checked_to_be_absent_must_be(store: AnyStore) {
    let a = key(1, "a");
    let first = store.commit(vec![absent(&a)], vec![put(&a, [1])]).await;
    assert_eq!(first, Ok(Revision(1)));
    conflicts(&store, vec![absent(&a)], vec![put(&a, [2])], &a).await;
    commit(&store, [delete(&a)]).await;
    let again = store.commit(vec![absent(&a)], vec![put(&a, [3])]).await;
    assert_eq!(again, Ok(Revision(3)));
}

async fn a_row_checked_at_a_revision_must_be_at_that_one(store: AnyStore) {
    let (a, b) = (key(1, "a"), key(1, "b"));
    conflicts(&store, vec![at(&a, 0)], vec![put(&a, [1])], &a).await;
    commit(&store, [put(&a, [1])]).await;
    // Another row's commit does not count.
    commit(&store, [put(&b, [1])]).await;
    for wrong in [0, 2, 3, u64::MAX] {
        conflicts(&store, vec![at(&a, wrong)], vec![put(&a, [2])], &a).await;
    }
    let right = store.commit(vec![at(&a, 1)], vec![put(&a, [2])]).await;
    assert_eq!(right, Ok(Revision(3)));
    // The same value written again is another revision.
    commit(&store, [put(&a, [2])]).await;
    conflicts(&store, vec![at(&a, 3)], vec![delete(&a)], &a).await;
}

async fn a_conflict_names_the_first_row_that_differs_and_changes_nothing(store: AnyStore) {
    let (a, b, c) = (key(1, "a"), key(1, "b"), key(1, "c"));
    commit(&store, [put(&a, [1]), put(&b, [1])]).await;
    let checks = vec![at(&a, 1), at(&c, 1), absent(&b)];
    let ops = vec![put(&a, [2]), delete(&b), put(&c, [2])];
    conflicts(&store, checks, ops, &c).await;
    let rows = store.list(everything()).await.unwrap();
    assert_eq!(rows, [row(&a, 1, [1]), row(&b, 1, [1])]);
    assert_eq!(store.revision().await, Ok(Revision(1)));
}

async fn operations_happen_in_order_and_share_a_revision(store: AnyStore) {
    let (a, b, c) = (key(1, "a"), key(2, "b"), key(3, "c"));
    let ops = [
        put(&a, [1]),
        put(&b, [1]),
        delete(&b),
        delete(&c),
        put(&c, [1]),
        put(&a, [2]),
    ];
    commit(&store, ops).await;
    let rows = store.list(everything()).await.unwrap();
    assert_eq!(rows, [row(&a, 1, [2]), row(&c, 1, [1])]);
}

async fn checks_see_what_was_there_before_the_operations(store: AnyStore) {
    let a = key(1, "a");
    let checks = vec![absent(&a), absent(&a)];
    let first = store.commit(checks, vec![put(&a, [1])]).await;
    assert_eq!(first, Ok(Revision(1)));
}

async fn every_commit_counts_even_an_empty_one_and_a_conflict_does_not(store: AnyStore) {
    let a = key(1, "a");
    assert_eq!(commit(&store, []).await, Revision(1));
    assert_eq!(commit(&store, [delete(&a)]).await, Revision(2));
    conflicts(&store, vec![at(&a, 1)], vec![], &a).await;
    assert_eq!(commit(&store, [put(&a, [1])]).await, Revision(3));
    assert_eq!(store.revision().await, Ok(Revision(3)));
}

async fn of_commits_on_one_row_at_once_exactly_one_wins(store: AnyStore) {
    let a = key(1, "a");
    let mut tasks = JoinSet::new();
    for n in 0..64 {
        let (store, a) = (store.clone(), a.clone());
        tasks.spawn(async move { (n, store.commit(vec![absent(&a)], vec![put(&a, [n])]).await) });
    }
    let mut winner = None;
    while let Some(ended) = tasks.join_next().await {
        match ended.unwrap() {
            (n, Ok(revision)) => {
                assert_eq!(winner, None);
                assert_eq!(revision, Revision(1));
                winner = Some(n);
            }
            (_, refused) => assert_eq!(refused, Err(CommitError::Conflict(a.clone()))),
        }
    }
    let winner = winner.unwrap();
    assert_eq!(store.get(a.clone()).await, Ok(Some(row(&a, 1, [winner]))));
}

/// Commits so many times, at once.
pub(super) async fn commit_many(store: &AnyStore, commits: usize) {
    let mut tasks = JoinSet::new();
    for n in 0..commits {
        let store = store.clone();
        tasks.spawn(async move { commit(&store, [put(&key(n as u64, "a"), [])]).await });
    }
    let mut revisions: Vec<Revision> = tasks.join_all().await;
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), commits);
}

async fn commits_asked_for_at_once_all_happen(store: AnyStore) {
    // More than wait in a file's queue at a time.
    commit_many(&store, 1_000).await;
    assert_eq!(store.revision().await, Ok(Revision(1_000)));
    assert_eq!(store.list(everything()).await.unwrap().len(), 1_000);
}

fn too_large(what: &str) -> StoreError {
    StoreError::TooLarge(what.to_owned())
}

async fn names_have_a_limit(store: AnyStore) {
    // Bytes, not characters.
    let longest = key(1, &"é".repeat(NAME_BYTES_MAX / 2));
    commit(&store, [put(&longest, [])]).await;
    let found = store.get(longest.clone()).await.unwrap();
    assert_eq!(found, Some(row(&longest, 1, [])));
    for (bytes, refused) in [
        (NAME_BYTES_MAX + 1, "129 bytes of name, at most 128"),
        (1 << 20, "1048576 bytes of name, at most 128"),
    ] {
        let long = key(1, &"a".repeat(bytes));
        assert_eq!(store.get(long.clone()).await, Err(too_large(refused)));
        let refused = Err(CommitError::Store(too_large(refused)));
        let commits = [
            (vec![], vec![put(&long, [])]),
            (vec![], vec![delete(&long)]),
            (vec![absent(&long)], vec![]),
            (vec![at(&long, 1)], vec![]),
        ];
        for (checks, ops) in commits {
            assert_eq!(store.commit(checks, ops).await, refused);
        }
    }
    assert_eq!(store.revision().await, Ok(Revision(1)));
}

async fn values_have_a_limit(store: AnyStore) {
    let a = key(1, "a");
    let largest = vec![7; VALUE_BYTES_MAX];
    commit(&store, [put(&a, largest.clone())]).await;
    assert_eq!(store.get(a.clone()).await, Ok(Some(row(&a, 1, largest))));
    for (bytes, refused) in [
        (
            VALUE_BYTES_MAX + 1,
            "1048577 bytes of value, at most 1048576",
        ),
        (1 << 26, "67108864 bytes of value, at most 1048576"),
    ] {
        let refused = CommitError::Store(too_large(refused));
        let ops = vec![put(&a, vec![0; bytes])];
        assert_eq!(store.commit(vec![], ops).await, Err(refused));
    }
    assert_eq!(store.revision().await, Ok(Revision(1)));
}

async fn commits_have_a_limit_of_checks_and_operations(store: AnyStore) {
    let a = key(1, "a");
    let of = |checks: usize, ops: usize| {
        let (checks, ops) = (vec![absent(&a); checks], vec![put(&a, []); ops]);
        store.commit(checks, ops)
    };
    assert_eq!(of(400, COMMIT_LEN_MAX - 400).await, Ok(Revision(1)));
    for (len, refused) in [
        (
            COMMIT_LEN_MAX + 1,
            "1001 checks and operations, at most 1000",
        ),
        (1_000_000, "1000000 checks and operations, at most 1000"),
    ] {
        let refused = Err(CommitError::Store(too_large(refused)));
        assert_eq!(of(0, len).await, refused);
        assert_eq!(of(len - 1, 1).await, refused);
    }
    assert_eq!(store.revision().await, Ok(Revision(1)));
}

async fn commits_have_a_limit_of_bytes(store: AnyStore) {
    let a = key(1, "a");
    // 4 values that fill it together with their names, and what is over.
    let of = |over: usize| {
        let quarter = COMMIT_BYTES_MAX / 4 - a.name.len();
        let mut ops = vec![put(&a, vec![0; quarter]); 4];
        ops.push(put(&key(1, ""), vec![0; over]));
        store.commit(vec![], ops)
    };
    assert_eq!(of(0).await, Ok(Revision(1)));
    for (over, refused) in [
        (1, "4194305 bytes of names and values, at most 4194304"),
        (
            1 << 20,
            "5242880 bytes of names and values, at most 4194304",
        ),
    ] {
        let refused = CommitError::Store(too_large(refused));
        assert_eq!(of(over).await, Err(refused));
    }
    assert_eq!(store.revision().await, Ok(Revision(1)));
}
