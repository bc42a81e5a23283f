//! An open loop: requests leave when they are due, whether or not earlier ones were answered. So a node that stands still for
//! a second shows it in every request that was due in that second, not in one.

use crate::exchange::Exchange;
use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, StatusCode};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Connections that are open before the first request; more are opened when all wait for an answer.
const CONNECTIONS: usize = 16;
/// Requests that may wait for an answer at once. One that is due beyond them is counted as failed.
const WAITING_MAX: usize = 1_000;

/// What is asked, and how often.
#[derive(Clone, Debug)]
pub(crate) struct OpenLoop {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// The only right answer.
    pub(crate) answer: &'static str,
    /// Requests a second.
    pub(crate) rate: u32,
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// From the moment that a request was due until its whole answer was here; of right answers.
    pub(crate) took: Vec<Duration>,
    /// Answered otherwise, or not at all.
    pub(crate) failed: u64,
}

impl Answers {
    pub(crate) fn add(&mut self, other: Self) {
        self.took.extend(other.took);
        self.failed += other.failed;
    }
}

impl OpenLoop {
    /// Asks for so long; what came back.
    pub(crate) async fn during(&self, time: Duration) -> anyhow::Result<Answers> {
        let over = async {
            sleep(time).await;
            Ok(())
        };
        let ((), answers) = self.beside(over).await?;
        Ok(answers)
    }

    /// Asks until `work` ends; what that gave, and what came back meanwhile.
    pub(crate) async fn beside<T>(
        &self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<(T, Answers)> {
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(Exchange::open(self.address).await?);
        }
        let (mut waiting, mut answers) = (JoinSet::new(), Answers::default());
        let interval = Duration::from_secs(1) / self.rate;
        let mut due = Instant::now();
        let ticks = Ticks::every(interval)?;
        let mut work = pin!(work);
        let done = loop {
            tokio::select! {
                biased;
                Some(asked) = waiting.join_next() => take(asked?, &mut idle, &mut answers),
                ticked = ticks.next() => for _ in 0..ticked? {
                    due += interval;
                    if waiting.len() == WAITING_MAX {
                        answers.failed += 1;
                    } else {
                        waiting.spawn(self.clone().ask(idle.pop(), due));
                    }
                },
                done = &mut work => break done?,
            }
        };
        while let Some(asked) = waiting.join_next().await {
            take(asked?, &mut idle, &mut answers);
        }
        Ok((done, answers))
    }

    async fn ask(self, idle: Option<Exchange>, due: Instant) -> Asked {
        let asked = async {
            let mut exchange = match idle {
                Some(exchange) => exchange,
                None => Exchange::open(self.address).await?,
            };
            let reply = exchange.ask(Method::GET, &self.path, None, Bytes::new());
            let reply = reply.await?;
            anyhow::ensure!(
                reply.status == StatusCode::OK && reply.body == self.answer,
                "answered {} {:?}",
                reply.status,
                reply.body
            );
            Ok((exchange, due.elapsed()))
        };
        asked.await
    }
}

/// A connection that is free again and how long it took, or why there was no right answer.
type Asked = anyhow::Result<(Exchange, Duration)>;

fn take(asked: Asked, idle: &mut Vec<Exchange>, answers: &mut Answers) {
    match asked {
        Ok((exchange, took)) => {
            idle.push(exchange);
            answers.took.push(took);
        }
        Err(why) => {
            eprintln!("not answered: {why:#}");
            answers.failed += 1;
        }
    }
}

/// The kernel's timer. tokio's is exact to a millisecond, which is more than most answers take.
struct Ticks(AsyncFd<OwnedFd>);

impl Ticks {
    fn every(interval: Duration) -> anyhow::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let interval = Timespec::try_from(interval).context("an interval for a timer")?;
        let times = Itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
        #[expect(
            deprecated,
            reason = "sound for an OwnedFd; what replaces it is unsafe"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    /// Waits for the next; how many there were since the last. Cancel safe: none is lost.
    async fn next(&self) -> anyhow::Result<u64> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut ticks = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut ticks)?));
            if let Ok(read) = read {
                read?;
                return Ok(u64::from_ne_bytes(ticks));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const INTERVAL: Duration = Duration::from_millis(10);

    /// Answers nothing for a while, then everything, each on its connection.
    async fn stand_still(listener: TcpListener, still: Duration) {
        let until = Instant::now() + still;
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                while stream.read(&mut [0; 1024]).await.unwrap_or(0) > 0 {
                    tokio::time::sleep_until(until).await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    }

    #[tokio::test]
    async fn a_node_that_stands_still_shows_in_all_that_were_due_meanwhile() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open_loop = OpenLoop {
            address: listener.local_addr().unwrap(),
            path: "/".to_owned(),
            answer: "ok",
            rate: 100,
        };
        let mut node = JoinSet::new();
        node.spawn(stand_still(listener, Duration::from_millis(400)));
        let answers = open_loop.during(Duration::from_millis(500)).await.unwrap();
        assert_eq!(answers.failed, 0);
        // Those of the first 300 ms waited for at least 100 ms, on more connections than were open.
        let late = answers.took.iter();
        let late = late.filter(|took| **took >= 10 * INTERVAL).count();
        assert!((25..=50).contains(&late), "{late}");
    }

    #[tokio::test]
    async fn ticks_that_nobody_waited_for_are_not_lost() {
        let ticks = Ticks::every(INTERVAL).unwrap();
        sleep(5 * INTERVAL).await;
        assert!(ticks.next().await.unwrap() >= 4);
    }
}
