//! The thread that owns the file: takes what waits, answers reads, commits the rest as one group, tells the watches, answers
//! the commits.

use super::rows::Rows;
use super::{QUEUE_LEN, Stopped};
use crate::store::feed::Publisher;
use crate::store::{Check, CommitError, Listing, Op, Revision, Row, RowKey, StoreError};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tokio::sync::{mpsc, oneshot};

type Reply<T, E = StoreError> = oneshot::Sender<Result<T, E>>;

/// What the thread is asked.
#[derive(Debug)]
pub(super) enum Request {
    Revision(Reply<Revision>),
    Get(RowKey, Reply<Option<Row>>),
    List(Listing, Reply<Vec<Row>>),
    Commit(Commit, Reply<Revision, CommitError>),
    Close(oneshot::Sender<()>),
}

/// All or nothing.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) checks: Vec<Check>,
    pub(super) ops: Vec<Op>,
}

/// What the thread has besides the file.
pub(super) struct Worker {
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) publisher: Publisher,
    pub(super) stopped: Stopped,
}

impl Worker {
    /// Serves until all handles are gone, somebody closes it or it has to stop.
    pub(super) fn run(mut self, connection: Connection) {
        let closing = self.serve(&connection);
        if let Some(error) = self.stopped.get() {
            tracing::error!(%error, "the store has stopped; the node has to start again");
            // What was acknowledged is in the file or in its log: the next start finds it. Until then a disk that failed
            // is better not written to, which is all that an error here could be about.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
        if let Err((_, error)) = connection.close() {
            tracing::warn!(%error, "closing the store; its log is left for the next start");
        }
        // Whoever still waits in the queue, or closed it, is told by the end of their channels, now that the file is free.
        drop((closing, self));
    }

    /// Who wants to know when the file is closed.
    fn serve(&mut self, connection: &Connection) -> Vec<oneshot::Sender<()>> {
        let mut closing = Vec::new();
        let mut rows = match Rows::prepare(connection, self.stopped.clone()) {
            Ok(rows) => rows,
            // It says so in `stopped`.
            Err(_) => return closing,
        };
        let mut queue = Vec::with_capacity(QUEUE_LEN);
        while closing.is_empty()
            && self.stopped.get().is_none()
            && self.requests.blocking_recv_many(&mut queue, QUEUE_LEN) > 0
        {
            let (mut commits, mut replies) = (Vec::new(), Vec::new());
            for request in queue.drain(..) {
                // Reads come before the commits that wait with them, none of which was acknowledged. Whoever asked may have
                // gone, here and below.
                match request {
                    Request::Revision(reply) => drop(reply.send(rows.revision())),
                    Request::Get(key, reply) => drop(reply.send(rows.get(key))),
                    Request::List(listing, reply) => drop(reply.send(rows.list(&listing))),
                    Request::Commit(commit, reply) => {
                        commits.push(commit);
                        replies.push(reply);
                    }
                    Request::Close(done) => closing.push(done),
                }
            }
            self.commit(&mut rows, commits, replies);
        }
        closing
    }

    fn commit(
        &mut self,
        rows: &mut Rows<'_>,
        commits: Vec<Commit>,
        replies: Vec<Reply<Revision, CommitError>>,
    ) {
        if commits.is_empty() {
            return;
        }
        let answers: Vec<Result<Revision, CommitError>> = match rows.commit(commits) {
            // Watches first: whoever is answered may watch from there at once.
            Ok(outcomes) => outcomes
                .into_iter()
                .map(|outcome| {
                    let event = outcome.map_err(CommitError::Conflict)?;
                    let revision = event.revision;
                    self.publisher.publish(event);
                    Ok(revision)
                })
                .collect(),
            Err(error) => vec![Err(error.into()); replies.len()],
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            let _ = reply.send(answer);
        }
    }
}
