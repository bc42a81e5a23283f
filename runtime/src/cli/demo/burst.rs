//! A burst of real requests over real sockets: every tenant's connections at once, each sending its next request when the
//! last was answered. An answer counts only if it names the right digit.

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use shoal_inference::{Inference, Stats};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

/// Held-out images, as committed beside the model.
const FIXTURE: &str = include_str!("../../../../samples/models/digits/fixture.json");
/// Connections of each tenant.
const CONNECTIONS: u32 = 32;
/// Longest a request may take before it counts as an error.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
struct Fixture {
    images: Vec<Vec<f32>>,
    labels: Vec<u32>,
}

#[derive(Deserialize)]
struct Answer {
    digit: u32,
}

/// The requests to send.
pub(super) struct Burst {
    tenants: [&'static str; 3],
    requests: u32,
    bodies: Arc<[(Bytes, u32)]>,
}

/// What came back.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) requests: u32,
    pub(super) errors: u32,
    pub(super) wall: Duration,
    /// Sorted.
    pub(super) latencies: Vec<Duration>,
    pub(super) rows: u64,
    pub(super) runs: u64,
    pub(super) device_ns: u64,
}

impl Burst {
    /// `requests` in all, shared by the tenants.
    pub(super) fn new(tenants: [&'static str; 3], requests: u32) -> anyhow::Result<Self> {
        let fixture: Fixture = serde_json::from_str(FIXTURE).context("reading the fixture")?;
        let bodies = fixture
            .images
            .iter()
            .zip(fixture.labels)
            .map(|(image, label)| {
                let body = serde_json::json!({ "image": image }).to_string();
                (Bytes::from(body), label)
            })
            .collect();
        Ok(Self {
            tenants,
            requests,
            bodies,
        })
    }

    /// Sends the burst to the node at `address`, whose engine is `inference`.
    pub(super) async fn run(
        &self,
        address: SocketAddr,
        inference: &Inference,
    ) -> anyhow::Result<Measured> {
        // One round that is not counted: connections, first instances, the engine's first estimate of a run.
        self.round(address, CONNECTIONS * self.tenants.len() as u32)
            .await?;
        let before = inference.stats();
        let began = Instant::now();
        let (mut latencies, errors) = self.round(address, self.requests).await?;
        let wall = began.elapsed();
        latencies.sort_unstable();
        Ok(Measured {
            requests: self.requests,
            errors,
            wall,
            latencies,
            ..since(&before, &inference.stats())
        })
    }

    async fn round(
        &self,
        address: SocketAddr,
        requests: u32,
    ) -> anyhow::Result<(Vec<Duration>, u32)> {
        let left = Rc::new(Cell::new(requests));
        let local = LocalSet::new();
        let mut connections = JoinSet::new();
        for tenant in self.tenants {
            for first in 0..CONNECTIONS {
                let client = Client {
                    address,
                    path: format!("/f/{tenant}/digits/"),
                    bodies: self.bodies.clone(),
                    next: first as usize,
                    left: left.clone(),
                };
                connections.spawn_local_on(client.run(), &local);
            }
        }
        local
            .run_until(async {
                let (mut latencies, mut errors) = (Vec::with_capacity(requests as usize), 0);
                while let Some(ended) = connections.join_next().await {
                    let (of_one, wrong) = ended??;
                    latencies.extend(of_one);
                    errors += wrong;
                }
                Ok((latencies, errors))
            })
            .await
    }
}

fn since(before: &Stats, after: &Stats) -> Measured {
    Measured {
        requests: 0,
        errors: 0,
        wall: Duration::ZERO,
        latencies: Vec::new(),
        rows: after.rows - before.rows,
        runs: after.runs - before.runs,
        device_ns: after.device_busy_ns - before.device_busy_ns,
    }
}

/// One connection of one tenant.
struct Client {
    address: SocketAddr,
    path: String,
    bodies: Arc<[(Bytes, u32)]>,
    next: usize,
    left: Rc<Cell<u32>>,
}

impl Client {
    /// Sends requests until none are left; their latencies, and how many went wrong.
    async fn run(mut self) -> anyhow::Result<(Vec<Duration>, u32)> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        let requests = async {
            let (mut latencies, mut errors) = (Vec::new(), 0);
            while let Some(left) = self.left.get().checked_sub(1) {
                self.left.set(left);
                let began = Instant::now();
                let answered = tokio::time::timeout(PATIENCE, self.one(&mut sender)).await;
                match answered {
                    Ok(Ok(true)) => latencies.push(began.elapsed()),
                    Ok(Ok(false)) => errors += 1,
                    // The connection cannot be used again.
                    Ok(Err(_)) | Err(_) => return (latencies, errors + 1),
                }
            }
            drop(sender);
            (latencies, errors)
        };
        let (measured, _closed) = tokio::join!(requests, connection);
        Ok(measured)
    }

    /// One request; whether its answer was right.
    async fn one(&mut self, sender: &mut SendRequest<Full<Bytes>>) -> anyhow::Result<bool> {
        let (body, label) = &self.bodies[self.next % self.bodies.len()];
        self.next += 1;
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(HOST, self.address.to_string())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(body.clone()))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status != StatusCode::OK {
            return Ok(false);
        }
        let answer: Answer = serde_json::from_slice(&body)?;
        Ok(answer.digit == *label)
    }
}
