//! A closed loop: so many connections, each of which asks again as soon as it is answered. Says how much a server can do, and
//! nothing of how it feels below that.

use crate::exchange::Exchange;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closed {
    /// Of each right answer.
    pub(crate) took: Vec<Duration>,
    pub(crate) wall: Duration,
}

impl Closed {
    pub(crate) fn requests_per_second(&self) -> f64 {
        self.took.len() as f64 / self.wall.as_secs_f64()
    }
}

/// Asks for so long.
///
/// # Errors
/// The first answer that is not 200, or none.
pub(crate) async fn closed_loop(
    address: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Closed> {
    let mut exchanges = Vec::new();
    for _ in 0..connections {
        exchanges.push(Exchange::open(address).await?);
    }
    let (began, mut asking) = (Instant::now(), JoinSet::new());
    for mut exchange in exchanges {
        let path = path.to_owned();
        asking.spawn(async move {
            let mut took = Vec::new();
            while began.elapsed() < time {
                let asked = Instant::now();
                let request = exchange.request(Method::GET, &path, None, Bytes::new())?;
                let reply = exchange.send(request).await?;
                anyhow::ensure!(reply.status == StatusCode::OK, "answered {}", reply.status);
                took.push(asked.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    let mut all = Closed::default();
    while let Some(asked) = asking.join_next().await {
        all.took.extend(asked??);
    }
    all.wall = began.elapsed();
    Ok(all)
}
