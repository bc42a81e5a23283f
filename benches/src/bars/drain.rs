//! `drain`: a node that is asked to end (SIGTERM) answers what it was asked. 100 times, at a moment that follows from the
//! seed, with requests in flight on eight connections, of which four have guests that wait 50 ms before they answer. None is
//! dropped, each time the node ends by itself and with success.
//!
//! A request is dropped if the node took it and did not answer it whole. What the node took is what it read: whether it did is
//! seen from the kernel. Where a connection ends with a request of which the node never read the last byte, its kernel resets
//! the connection; where all was read, the end is an orderly one, without a reset. So once the node's process is gone, each
//! connection that ended without an answer tells which it was: `witness`.
//!
//! A request that was not read met the node's closing of an idle connection on the way. No server can avoid that (RFC 9112,
//! section 9.5), and clients send such a request again on another connection. They are counted and said on stderr, as are the
//! answers that refuse: a request that came on an open connection when the drain had begun gets 503 and `retry-after`, whole.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::exchange::{Exchange, Lost, Reply};
use crate::node::{Home, Served};
use crate::random::draw;
use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const PROBE: &[u8] = include_bytes!("../../../samples/components/probe.wasm");
const CONNECTIONS: usize = 8;
/// The node is asked to end within so long after every connection had its first answer.
const MOMENT_MAX: Duration = Duration::from_millis(120);
const SLOW: &str = "/f/acme/probe/sleep/50";
const FAST: &str = "/f/acme/probe/burn-cpu/1";

/// What became of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    answered: u64,
    /// 503, because the node drains.
    refused: u64,
    /// Not read by the node.
    not_read: u64,
    /// Read by the node, and not answered whole.
    dropped: u64,
    /// Answered with something else than what the function says or the refusal.
    wrong: u64,
}

/// How the requests of a connection ended.
struct Ended {
    counts: Counts,
    /// The last request, if it has no answer: why, and the connection as the kernel has it.
    open: Option<(Lost, std::net::TcpStream)>,
}

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let drains: u64 = if run.quick { 10 } else { 100 };
    let mut home = Home::new()?;
    let node = home.start().await?;
    let mut admin = node.admin().await?;
    admin.make_project("acme").await?;
    let probe = Bytes::from_static(PROBE);
    admin.deploy("acme", "probe", probe).await?;
    node.stop().await?;
    let (mut counts, mut longest) = (Counts::default(), Duration::ZERO);
    for drain in 0..drains {
        let node = home.start().await?;
        let moment = MOMENT_MAX.mul_f64(draw(run.seed, drain) as f64 / u64::MAX as f64);
        let (of_one, took) = drained(node, moment).await?;
        counts.add(of_one);
        longest = longest.max(took);
    }
    eprintln!("drain: {counts:?}, the longest drain took {longest:.3?}");
    let none = |value: u64, unit| Figure {
        value: value as f64,
        unit,
        target: Target::Exactly(0.0),
    };
    Ok(Outcome::Measured {
        figures: vec![
            none(counts.dropped, "dropped_requests"),
            none(counts.wrong, "wrong_answers"),
        ],
        n: drains,
    })
}

/// Loads a node, asks it to end at that moment, and waits until it has: what became of the requests, and how long it took.
async fn drained(node: Served, moment: Duration) -> anyhow::Result<(Counts, Duration)> {
    let mut connections = JoinSet::new();
    let begun = Arc::new(Barrier::new(CONNECTIONS + 1));
    for n in 0..CONNECTIONS {
        let path = if n % 2 == 0 { SLOW } else { FAST };
        connections.spawn(ask_until_closed(node.functions(), path, begun.clone()));
    }
    tokio::select! {
        _ = begun.wait() => {}
        Some(_) = connections.join_next() => anyhow::bail!("a connection ended before the drain"),
    }
    sleep(moment).await;
    node.terminate()?;
    let asked_at = Instant::now();
    let mut counts = Counts::default();
    let mut open = Vec::new();
    while let Some(ended) = connections.join_next().await {
        let ended = ended??;
        counts.add(ended.counts);
        open.extend(ended.open);
    }
    node.ended().await?;
    let took = asked_at.elapsed();
    for (lost, witness) in open {
        if was_reset(&lost, &witness)? {
            counts.not_read += 1;
        } else {
            eprintln!("drain: dropped: {lost:?}");
            counts.dropped += 1;
        }
    }
    Ok((counts, took))
}

/// Calls a function on one connection, without a pause, until the connection ends.
async fn ask_until_closed(
    address: SocketAddr,
    path: &'static str,
    begun: Arc<Barrier>,
) -> anyhow::Result<Ended> {
    let stream = TcpStream::connect(address).await.context("connecting")?;
    let stream = stream.into_std()?;
    let witness = stream.try_clone()?;
    let stream = TcpStream::from_std(stream)?;
    let mut exchange = Exchange::over(stream, address).await?;
    let mut counts = Counts::default();
    for n in 0_u64.. {
        let request = exchange.request(Method::GET, path, None, Bytes::new())?;
        match exchange.send(request).await {
            Ok(reply) => counts.answer(&reply),
            Err(Lost::Unsent) => break,
            Err(lost) => {
                let open = Some((lost, witness));
                return Ok(Ended { counts, open });
            }
        }
        if n == 0 {
            begun.wait().await;
        }
    }
    Ok(Ended { counts, open: None })
}

/// Whether the connection was reset, which the node's kernel does to one that is closed with bytes that nobody read. To be
/// asked when the node's process is gone, and all it had is closed.
fn was_reset(lost: &Lost, witness: &std::net::TcpStream) -> std::io::Result<bool> {
    // Kept until somebody asks, and then forgotten: the connection may have.
    let pending = witness.take_error()?;
    let seen = match lost {
        Lost::Unanswered(error) => io_error(error),
        Lost::Unsent | Lost::Late => None,
    };
    Ok(pending.as_ref().or(seen).is_some_and(is_reset))
}

/// An operating system's error among the causes.
fn io_error(error: &hyper::Error) -> Option<&std::io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

fn is_reset(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), ConnectionReset | BrokenPipe)
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.not_read += other.not_read;
        self.dropped += other.dropped;
        self.wrong += other.wrong;
    }

    fn answer(&mut self, reply: &Reply) {
        let is_refusal = reply.status == StatusCode::SERVICE_UNAVAILABLE
            && reply.header("retry-after").is_some();
        if reply.status == StatusCode::OK && reply.body == "ok\n" {
            self.answered += 1;
        } else if is_refusal {
            self.refused += 1;
        } else {
            eprintln!("drain: {} {:?}", reply.status, reply.body);
            self.wrong += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// What the witness says of a request to a server that reads so many bytes of it and closes.
    async fn witnessed(reads: usize) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut servers = JoinSet::new();
        servers.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut first = vec![0; 64];
            // A whole answer to the first request, so that the caller gets past the barrier.
            let _ = stream.read(&mut first).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
            stream.write_all(answer).await.unwrap();
            stream.readable().await.unwrap();
            let mut rest = vec![0; reads];
            let _ = stream.read(&mut rest).await.unwrap();
        });
        let begun = Arc::new(Barrier::new(1));
        let ended = ask_until_closed(address, "/", begun).await.unwrap();
        servers.join_next().await.unwrap().unwrap();
        assert_eq!(ended.counts.answered, 1);
        let (lost, witness) = ended.open.unwrap();
        was_reset(&lost, &witness).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_was_read_is_dropped_and_one_that_was_not_is_not() {
        for (reads, reset) in [(64, false), (0, true), (1, true)] {
            assert_eq!(witnessed(reads).await, reset, "{reads} bytes");
        }
    }
}
