//! The streams of one HTTP/2 connection: each a task, all owned by the connection.

use super::pace::{Outcome, run};
use hyper::rt::Executor;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What the streams of a connection that has ended leave to count. HTTP/1.1 has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Streams that a bug of ours ended.
    pub(crate) panics: usize,
    /// Whether the client cancelled more of them than it may.
    pub(crate) flooded: bool,
}

/// The tasks of a connection's streams. Dropping it drops them.
pub(super) struct Streams {
    tasks: Arc<Tasks>,
    /// Streams that were cancelled before their answer, less those that were answered.
    cancelled: usize,
    cancelled_max: usize,
    panics: usize,
}

struct Tasks {
    running: Mutex<JoinSet<Outcome>>,
    spawned: Notify,
    stall_max: Duration,
}

impl Streams {
    /// A client may cancel `cancelled_max` streams more than it waits for, and leave a frame of an answer for `stall_max`.
    pub(super) fn new(cancelled_max: usize, stall_max: Duration) -> Self {
        Self {
            tasks: Arc::new(Tasks {
                running: Mutex::default(),
                spawned: Notify::new(),
                stall_max,
            }),
            cancelled: 0,
            cancelled_max,
            panics: 0,
        }
    }

    /// Starts streams, as long as the connection is there.
    pub(super) fn spawner(&self) -> Spawner {
        Spawner(Arc::downgrade(&self.tasks))
    }

    /// Waits for the streams, and comes back when there has been none for `idle_max`, or when too many were cancelled. Cancel
    /// safe.
    pub(super) async fn watch(&mut self, idle_max: Duration) {
        while self.cancelled <= self.cancelled_max {
            let ended = poll_fn(|cx| self.tasks.running().poll_join_next(cx)).await;
            match ended {
                Some(Ok(Outcome::Answered)) => self.cancelled = self.cancelled.saturating_sub(1),
                Some(Ok(Outcome::Cancelled)) => self.cancelled += 1,
                Some(Err(error)) => self.panics += usize::from(error.is_panic()),
                None => {
                    if timeout(idle_max, self.tasks.spawned.notified())
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
            }
        }
    }

    /// What is to count.
    pub(super) fn ended(&self) -> Ended {
        Ended {
            panics: self.panics,
            flooded: self.cancelled > self.cancelled_max,
        }
    }
}

impl Tasks {
    fn running(&self) -> MutexGuard<'_, JoinSet<Outcome>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What hyper starts streams with. It keeps one in each: a strong reference would keep all of them alive.
#[derive(Clone)]
pub(super) struct Spawner(Weak<Tasks>);

impl<F> Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // Without its connection a stream has nothing to do.
        if let Some(tasks) = self.0.upgrade() {
            tasks.running().spawn(run(stream, tasks.stall_max));
            tasks.spawned.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pace::Paced;
    use super::super::socket::WriteDeadline;
    use super::*;
    use bytes::Bytes;
    use http::{Method, Response};
    use http_body_util::Full;
    use tokio::time::Instant;

    const STALL_MAX: Duration = Duration::from_secs(10);

    /// Whether a client may do this: `c` is a stream that it cancels, `a` one that it waits for.
    async fn floods(client: &str) -> bool {
        let mut streams = Streams::new(3, STALL_MAX);
        let spawner = streams.spawner();
        for stream in client.chars() {
            match stream {
                'c' => spawner.execute(std::future::ready(())),
                _ => spawner.execute(async {
                    let response = std::future::ready(Response::new(Full::new(Bytes::new())));
                    Paced::answer(Method::GET, response, WriteDeadline::default()).await;
                }),
            }
        }
        streams.watch(STALL_MAX).await;
        streams.ended().flooded
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_cancel_as_many_streams_more_than_it_waits_for() {
        for (client, expected) in [
            ("ccc", false),
            ("cccc", true),
            ("cccac", false),
            ("cccacc", true),
            // Good behaviour is not saved up.
            ("aaaaaaaacccc", true),
            ("cacacacacacacacacacac", false),
        ] {
            assert_eq!(floods(client).await, expected, "{client}");
        }
        assert!(floods(&"c".repeat(1_000)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_once_its_last_stream_has_ended() {
        let mut streams = Streams::new(3, STALL_MAX);
        let spawner = streams.spawner();
        let began = Instant::now();
        spawner.execute(tokio::time::sleep(Duration::from_secs(25)));
        streams.watch(STALL_MAX).await;
        assert_eq!(began.elapsed(), Duration::from_secs(35));
    }

    #[tokio::test]
    async fn a_panic_ends_its_stream_only_and_is_counted() {
        let mut streams = Streams::new(3, STALL_MAX);
        let spawner = streams.spawner();
        let (sender, other) = tokio::sync::oneshot::channel();
        spawner.execute(async { panic!("a bug") });
        spawner.execute(async move {
            let _ = sender.send(());
        });
        streams.watch(Duration::from_millis(1)).await;
        other.await.unwrap();
        let expected = Ended {
            panics: 1,
            flooded: false,
        };
        assert_eq!(streams.ended(), expected);
    }

    #[tokio::test]
    async fn streams_end_with_their_connection() {
        let streams = Streams::new(3, STALL_MAX);
        let spawner = streams.spawner();
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        let inner = spawner.clone();
        spawner.execute(async move {
            let _held = (held, inner);
            std::future::pending::<()>().await;
        });
        drop(streams);
        assert!(dropped.await.is_err());
        // Too late: dropped at once.
        spawner.execute(async { panic!("nobody owns this stream") });
    }
}
