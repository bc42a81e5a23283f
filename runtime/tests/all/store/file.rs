//! What only a store in a file does: stay, be locked, be refused.

use super::{commit, everything, key, put, row};
use rusqlite::Connection;
use shoal::store::{
    AnyStore, CommitError, Op, Resync, Revision, SqliteStore, Store as _, StoreError,
};
use std::fs::{self, OpenOptions};
use std::future::Future as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use tempfile::TempDir;
use tokio::task::JoinSet;

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    (dir, path)
}

fn open(path: &Path) -> AnyStore {
    SqliteStore::open(path).unwrap().into()
}

/// The words with which a file is refused.
fn refused(path: &Path) -> String {
    let opened = SqliteStore::open(path);
    format!("{:#}", opened.expect_err("the file was to be refused"))
}

/// Enough rows for some hundred pages of the file.
async fn filled(path: &Path) {
    let store = open(path);
    let ops: Vec<Op> = (0..1_000)
        .map(|n| put(&key(n, "a"), vec![n as u8; 300]))
        .collect();
    commit(&store, ops).await;
}

#[tokio::test]
async fn a_store_that_is_opened_again_has_everything() {
    let (_dir, path) = place();
    let a = key(u64::MAX, "a");
    let store = open(&path);
    commit(&store, [put(&a, [1])]).await;
    commit(&store, [put(&a, [2])]).await;
    drop(store);
    let store = open(&path);
    assert_eq!(store.revision().await, Ok(Revision(2)));
    assert_eq!(store.get(a.clone()).await, Ok(Some(row(&a, 2, [2]))));
    // Commits of another run are not kept for watches.
    assert_eq!(store.watch(Revision(1)).next().await, Some(Err(Resync)));
    let mut watch = store.watch(Revision(2));
    assert_eq!(commit(&store, [put(&a, [3])]).await, Revision(3));
    assert_eq!(watch.next().await.unwrap().unwrap().revision, Revision(3));
}

#[tokio::test]
async fn commits_that_are_asked_for_when_the_last_handle_goes_are_done() {
    let (_dir, path) = place();
    let store = open(&path);
    let mut tasks = JoinSet::new();
    for n in 0..100 {
        let store = store.clone();
        tasks.spawn(async move {
            let asked = pin!(store.commit(vec![], vec![put(&key(n, "a"), [])]));
            // Asked for, and not waited for.
            let polled = asked.poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(polled, Poll::Pending);
        });
    }
    tasks.join_all().await;
    drop(store);
    let rows = open(&path).list(everything()).await.unwrap();
    assert_eq!(rows.len(), 100);
}

#[tokio::test]
async fn a_closed_store_answers_nothing_and_its_file_is_free() {
    let (_dir, path) = place();
    let store = SqliteStore::open(&path).unwrap();
    let mut watch = store.watch(Revision(0));
    let committed = store.commit(vec![], vec![put(&key(1, "a"), [])]).await;
    assert_eq!(committed, Ok(Revision(1)));
    tokio::join!(store.close(), store.close());
    let again = open(&path);
    store.close().await;
    let closed = StoreError::Stopped("it is closed".to_owned());
    assert_eq!(store.revision().await, Err(closed.clone()));
    let refused = store.commit(vec![], vec![]).await;
    assert_eq!(refused, Err(CommitError::Store(closed)));
    assert_eq!(watch.next().await.unwrap().unwrap().revision, Revision(1));
    assert_eq!(watch.next().await, None);
    assert_eq!(again.revision().await, Ok(Revision(1)));
}

#[tokio::test]
async fn a_file_is_for_one_node_at_a_time() {
    let (_dir, path) = place();
    let store = open(&path);
    let words = refused(&path);
    let expected = format!("the store {} is open in another process", path.display());
    assert_eq!(words, expected);
    // The one that has it does not notice.
    commit(&store, [put(&key(1, "a"), [])]).await;
    assert_eq!(refused(&path), expected);
    drop(store);
    assert_eq!(open(&path).revision().await, Ok(Revision(1)));
}

#[tokio::test]
async fn only_its_user_may_read_the_file_and_its_log() {
    let (dir, path) = place();
    let store = open(&path);
    commit(&store, [put(&key(1, "a"), [])]).await;
    let mut files = Vec::new();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        files.push((entry.file_name().into_string().unwrap(), mode));
    }
    files.sort_unstable();
    let expected = ["store.db", "store.db-wal"].map(|name| (name.to_owned(), 0o600));
    assert_eq!(files, expected);
}

#[tokio::test]
async fn tables_of_a_newer_version_are_refused_and_left_alone() {
    let (_dir, path) = place();
    filled(&path).await;
    let raw = Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 2).unwrap();
    drop(raw);
    let before = fs::read(&path).unwrap();
    let words = refused(&path);
    let expected = "its tables have version 2, and this program knows version 1 only";
    assert!(words.ends_with(expected), "{words}");
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let (_dir, path) = place();
    fs::write(&path, "garbage ".repeat(1_000)).unwrap();
    let words = refused(&path);
    assert!(words.ends_with("file is not a database"), "{words}");
}

#[test]
fn an_empty_file_is_refused_and_not_taken_for_a_new_store() {
    let (_dir, path) = place();
    fs::write(&path, "").unwrap();
    let words = refused(&path);
    assert!(
        words.ends_with("the file is no store of Shoal's"),
        "{words}"
    );
}

#[test]
fn a_database_of_another_program_is_refused() {
    let (_dir, path) = place();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE rows (a)").unwrap();
    drop(other);
    let words = refused(&path);
    assert!(
        words.ends_with("the file is no store of Shoal's"),
        "{words}"
    );
}

#[tokio::test]
async fn a_file_that_was_cut_off_is_refused() {
    let (_dir, path) = place();
    filled(&path).await;
    let length = fs::metadata(&path).unwrap().len();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for left in [length - 4_096, length / 2, 4_096, 100] {
        file.set_len(left).unwrap();
        let words = refused(&path);
        assert!(
            words.contains("malformed") || words.contains("damaged"),
            "{left} of {length} bytes: {words}"
        );
    }
}

#[tokio::test]
async fn a_file_with_a_page_of_zeros_is_refused() {
    let (_dir, path) = place();
    filled(&path).await;
    let mut bytes = fs::read(&path).unwrap();
    bytes[40_960..45_056].fill(0);
    fs::write(&path, bytes).unwrap();
    let words = refused(&path);
    assert!(words.contains("it is damaged"), "{words}");
}

#[tokio::test]
async fn a_log_without_its_file_is_not_taken_for_a_new_ones() {
    let (dir, path) = place();
    let store = open(&path);
    commit(&store, [put(&key(1, "a"), [])]).await;
    fs::remove_file(&path).unwrap();
    let words = refused(&path);
    let log = dir.path().join("store.db-wal");
    let expected = format!("it is missing, and its log is there: {}", log.display());
    assert!(words.ends_with(&expected), "{words}");
}

#[test]
fn a_store_needs_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing/store.db");
    let words = refused(&path);
    assert!(words.contains("creating the store"), "{words}");
    assert!(words.contains("No such file or directory"), "{words}");
}
