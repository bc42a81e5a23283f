//! Rows in one SQLite file, owned by one thread. It takes whatever commits wait as one group, with one `fsync` for all of
//! them, and answers each when that is done: on a disk that syncs 500 times a second, thousands of commits a second are
//! durable. Knows no SQL: that is in `rows`, and what is asked of a file before it is used in `open`.

mod open;
mod rows;
mod thread;

use super::feed::{Feed, Watch, feed};
use super::limits::{check_commit, check_key};
use super::{Check, CommitError, Listing, Op, Revision, Row, RowKey, Store, StoreError};
use anyhow::Context as _;
use rows::Rows;
use rusqlite::Connection;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use thread::{Commit, Request, Worker};
use tokio::sync::{mpsc, oneshot};

/// Calls that wait for the thread. Past that a caller waits for its turn, in order, and is not refused: only those call who
/// administer the node, their number is limited where they come in, and one who is refused in the middle of a deployment
/// would only ask again.
const QUEUE_LEN: usize = 256;

/// Why a store has stopped, once it has.
type Stopped = Arc<OnceLock<String>>;

/// See the module's description. Clones are the same store; when the last one is dropped, that waits until the thread has
/// done what it was asked and closed the file. [`SqliteStore::close`] does so without holding up a thread.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    // Dropped before the thread is waited for, which ends when the last sender is gone.
    requests: mpsc::Sender<Request>,
    feed: Feed,
    stopped: Stopped,
    _thread: Arc<Joined>,
}

impl SqliteStore {
    /// Opens the store at `path`, or makes an empty one that only this user may read. Reads the whole file to find damage
    /// before it is served: some 50 ms for 20,000 rows of 300 bytes. Blocks.
    ///
    /// # Errors
    /// Another process has it open, it is damaged or no store, a newer version wrote it, or its folder is not there.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::start(open::open(path)?)
    }

    fn start(connection: Connection) -> anyhow::Result<Self> {
        let stopped = Stopped::default();
        let revision = Rows::prepare(&connection, stopped.clone())?.revision()?;
        let (publisher, feed) = feed(revision);
        let (sender, requests) = mpsc::channel(QUEUE_LEN);
        let worker = Worker {
            requests,
            publisher,
            stopped: stopped.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || worker.run(connection))
            .context("starting the store's thread")?;
        Ok(Self {
            requests: sender,
            feed,
            stopped,
            _thread: Arc::new(Joined(Some(thread))),
        })
    }

    /// Does what was asked before, closes the file and ends every watch. Later calls answer [`StoreError::Stopped`].
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.requests.send(Request::Close(done)).await.is_ok() {
            // An error is another call of this that came first: its end is ours.
            let _ = closed.await;
        }
    }

    async fn ask<T, E: From<StoreError>>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Request,
    ) -> Result<T, E> {
        let (sender, answer) = oneshot::channel();
        let sent = self.requests.send(request(sender)).await;
        sent.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    fn gone(&self) -> StoreError {
        let why = self.stopped.get().map_or("it is closed", String::as_str);
        StoreError::Stopped(why.to_owned())
    }
}

impl Store for SqliteStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.ask(Request::Revision).await
    }

    async fn get(&self, key: RowKey) -> Result<Option<Row>, StoreError> {
        check_key(&key)?;
        self.ask(|reply| Request::Get(key, reply)).await
    }

    async fn list(&self, listing: Listing) -> Result<Vec<Row>, StoreError> {
        self.ask(|reply| Request::List(listing, reply)).await
    }

    async fn commit(&self, checks: Vec<Check>, ops: Vec<Op>) -> Result<Revision, CommitError> {
        check_commit(&checks, &ops)?;
        let commit = Commit { checks, ops };
        self.ask(|reply| Request::Commit(commit, reply)).await
    }

    fn watch(&self, from: Revision) -> Watch {
        self.feed.watch(from)
    }
}

/// A thread that is waited for when nobody needs it any more.
#[derive(Debug)]
struct Joined(Option<JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // A panic in there was printed, and whoever waited for it was told.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Kind, OPERATOR, Resync};
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt as _;

    fn key(n: usize) -> RowKey {
        RowKey {
            tenant: OPERATOR,
            kind: Kind::Function,
            name: format!("{n:04}"),
        }
    }

    fn everything() -> Listing {
        Listing {
            kind: Kind::Function,
            tenant: None,
            after: None,
            limit: usize::MAX,
        }
    }

    #[tokio::test]
    async fn a_full_disk_refuses_a_commit_and_the_store_lives_on() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open::open(&dir.path().join("store.db")).unwrap();
        // A disk of 200 KB.
        connection
            .pragma_update(None, "max_page_count", 50)
            .unwrap();
        let store = SqliteStore::start(connection).unwrap();
        let mut watch = store.watch(Revision(0));
        let put = |n, bytes| store.commit(vec![], vec![Op::Put(key(n), vec![1; bytes])]);
        assert_eq!(put(0, 100_000).await, Ok(Revision(1)));
        let full = CommitError::Store(StoreError::Full);
        assert_eq!(put(1, 150_000).await, Err(full.clone()));
        assert_eq!(store.revision().await, Ok(Revision(1)));
        assert_eq!(store.get(key(1)).await, Ok(None));
        // Room is made, and used.
        let freed = store.commit(vec![], vec![Op::Delete(key(0))]).await;
        assert_eq!(freed, Ok(Revision(2)));
        assert_eq!(put(1, 150_000).await, Ok(Revision(3)));
        assert_eq!(put(2, 150_000).await, Err(full));
        for revision in 1..=3 {
            let event = watch.next().await.unwrap().unwrap();
            assert_eq!(event.revision, Revision(revision));
        }
    }

    #[tokio::test]
    async fn a_damaged_file_stops_the_store_and_nothing_is_acknowledged_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let store = SqliteStore::open(&path).unwrap();
        let ops = (0..900).map(|n| Op::Put(key(n), vec![1; 300])).collect();
        assert_eq!(store.commit(vec![], ops).await, Ok(Revision(1)));
        drop(store);
        let connection = open::open(&path).unwrap();
        // It has just read them all, and would remember.
        connection.pragma_update(None, "cache_size", 10).unwrap();
        let store = SqliteStore::start(connection).unwrap();
        let mut watch = store.watch(Revision(1));
        // Behind its back, all but the first pages, which are about the others.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        assert!(length > 250_000, "{length}");
        let zeros = vec![0; usize::try_from(length).unwrap() - 16_384];
        file.write_all_at(&zeros, 16_384).unwrap();
        let StoreError::Stopped(why) = store.list(everything()).await.unwrap_err() else {
            panic!("a damaged file is not a full one");
        };
        assert_eq!(why, "database disk image is malformed");
        let stopped = StoreError::Stopped(why);
        assert_eq!(store.revision().await, Err(stopped.clone()));
        assert_eq!(store.get(key(0)).await, Err(stopped.clone()));
        let commit = store.commit(vec![], vec![]).await;
        assert_eq!(commit, Err(CommitError::Store(stopped)));
        assert_eq!(watch.next().await, None);
        assert_eq!(store.watch(Revision(0)).next().await, Some(Err(Resync)));
        store.close().await;
    }
}
