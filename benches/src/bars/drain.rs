//! `drain`: a node that is asked to end (SIGTERM) answers what it was asked. 100 times, at a moment that follows from the
//! seed, with requests in flight on eight connections, of which four have guests that wait 50 ms before they answer. None is
//! dropped, each time the node ends by itself and with success.
//!
//! A request is dropped if it was sent on a connection that the node had not closed, and was not answered whole. Whether it had
//! is asked of the kernel, right after each write (`watched`): on one machine what is sent is with the node's kernel then, and
//! so is the end of a connection that the node has closed with the client's.
//!
//! A request that is sent on a connection that was closed before met that end on its way. No server can keep clients from
//! sending one (RFC 9112, section 9.5), and they send it again on another connection. Those are counted and said on stderr, as
//! are the answers that refuse: a request that came when the drain had begun gets 503 and `retry-after`, whole.

use super::watched::Watched;
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
    /// Sent when the node had closed the connection.
    crossed: u64,
    /// Sent before, and not answered whole.
    dropped: u64,
    /// Answered with something else than what the function says or the refusal.
    wrong: u64,
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
    while let Some(ended) = connections.join_next().await {
        counts.add(ended??);
    }
    node.ended().await?;
    Ok((counts, asked_at.elapsed()))
}

/// Calls a function on one connection, without a pause, until the connection ends.
async fn ask_until_closed(
    address: SocketAddr,
    path: &'static str,
    begun: Arc<Barrier>,
) -> anyhow::Result<Counts> {
    let stream = TcpStream::connect(address).await.context("connecting")?;
    let (stream, watch) = Watched::new(stream)?;
    let mut exchange = Exchange::over(stream, address).await?;
    let mut counts = Counts::default();
    for n in 0_u64.. {
        let request = exchange.request(Method::GET, path, None, Bytes::new())?;
        match exchange.send(request).await {
            Ok(reply) => counts.answer(&reply),
            Err(Lost::Unsent) => break,
            Err(_) if watch.wrote_to_closed() => {
                counts.crossed += 1;
                break;
            }
            Err(lost) => {
                eprintln!("drain: dropped: {path}: {lost:?}");
                counts.dropped += 1;
                break;
            }
        }
        if n == 0 {
            begun.wait().await;
        }
    }
    Ok(counts)
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.crossed += other.crossed;
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
