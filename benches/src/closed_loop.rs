//! A closed loop: so many connections, each of which asks again as soon as it is answered. Says how much a server can do, and
//! nothing of how it feels below that.

use crate::digits::Question;
use crate::exchange::Exchange;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::net::SocketAddr;
use std::sync::Arc;
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

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) address: SocketAddr,
    /// Of the connections in turn.
    pub(crate) paths: Vec<String>,
    /// What is sent, one after the other; without any it is a GET.
    pub(crate) questions: Arc<[Question]>,
    /// Streams of each connection, in HTTP/2; without them it is HTTP/1.1.
    pub(crate) streams: Option<usize>,
}

impl Asked {
    /// A page.
    pub(crate) fn page(address: SocketAddr, path: &str) -> Self {
        Self {
            address,
            paths: vec![path.to_owned()],
            questions: Arc::new([]),
            streams: None,
        }
    }
}

/// Asks for so long.
///
/// # Errors
/// The first answer that is not 200, or not the right one, or none.
pub(crate) async fn closed_loop(
    asked: &Asked,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Closed> {
    let mut exchanges = Vec::new();
    for _ in 0..connections {
        match asked.streams {
            None => exchanges.push(Exchange::open(asked.address).await?),
            Some(streams) => {
                exchanges.extend(Exchange::open_streams(asked.address, streams).await?);
            }
        }
    }
    let paths = asked.paths.iter().cycle();
    let (began, mut asking) = (Instant::now(), JoinSet::new());
    for ((n, mut exchange), path) in exchanges.into_iter().enumerate().zip(paths) {
        let (path, questions) = (path.clone(), asked.questions.clone());
        asking.spawn(async move {
            let mut questions = questions.iter().cycle().skip(n);
            let mut took = Vec::new();
            while began.elapsed() < time {
                let asked = Instant::now();
                ask(&mut exchange, &path, questions.next()).await?;
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

async fn ask(
    exchange: &mut Exchange,
    path: &str,
    question: Option<&Question>,
) -> anyhow::Result<()> {
    let request = match question {
        None => exchange.request(Method::GET, path, None, Bytes::new())?,
        Some(question) => exchange.request(Method::POST, path, None, question.body.clone())?,
    };
    let reply = exchange.send(request).await?;
    let right = question.is_none_or(|question| question.is_answered_by(&reply.body));
    anyhow::ensure!(
        reply.status == StatusCode::OK && right,
        "answered {} {}",
        reply.status,
        String::from_utf8_lossy(&reply.body)
    );
    Ok(())
}
