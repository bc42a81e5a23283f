//! Requests of any kind on one connection, of HTTP/1.1 or HTTP/2: all of each answer, or whether the request had left when the connection
//! ended.

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest wait for one answer; a deploy may wait for its turn to compile.
const PATIENCE: Duration = Duration::from_secs(300);

/// A connection that is used again and again.
pub(crate) struct Exchange {
    address: SocketAddr,
    sender: Sender,
    /// Moves its bytes; what goes wrong shows at the request. Ends with the last that shares the connection.
    _driver: Arc<JoinSet<()>>,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// No byte of the request was written: the connection had ended before.
    #[error("the connection had ended before the request")]
    Unsent,
    /// The request was written, some of it at least.
    #[error("the connection ended before the answer did")]
    Unanswered(#[source] hyper::Error),
    /// Nothing came for too long.
    #[error("no answer within {PATIENCE:?}")]
    Late,
}

impl Exchange {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        Self::over(stream, address).await
    }

    /// Over a connection to `address` that is open already.
    pub(crate) async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let _ = connection.await;
        });
        Ok(Self {
            address,
            sender: Sender::One(sender),
            _driver: Arc::new(driver),
        })
    }

    /// So many streams of one new connection of HTTP/2, each of which is used again and again.
    pub(crate) async fn open_streams(
        address: SocketAddr,
        streams: usize,
    ) -> anyhow::Result<Vec<Self>> {
        let stream = TcpStream::connect(address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let _ = connection.await;
        });
        let driver = Arc::new(driver);
        let open = (0..streams).map(|_| Self {
            address,
            sender: Sender::Two(sender.clone()),
            _driver: driver.clone(),
        });
        Ok(open.collect())
    }

    /// One request, with a key if there is one. Where the node has closed the connection meanwhile, on a new one.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<Reply> {
        let request = || self.request(method.clone(), path, key, body.clone());
        let (first, again) = (request()?, request()?);
        match self.send(first).await {
            Err(Lost::Unsent) => {
                *self = Self::open(self.address).await?;
                Ok(self.send(again).await?)
            }
            answered => Ok(answered?),
        }
    }

    /// Of the node.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A request for this connection's node.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let request = Request::builder().method(method);
        let request = match &self.sender {
            Sender::One(_) => request.uri(path).header(HOST, self.address.to_string()),
            Sender::Two(_) => request.uri(format!("http://{}{path}", self.address)),
        };
        let request = match key {
            Some(key) => request.header(AUTHORIZATION, format!("Bearer {key}")),
            None => request,
        };
        Ok(request.body(Full::new(body))?)
    }

    /// One request, on this connection or not at all.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, Lost> {
        let exchanged = async {
            if self.sender.ready().await.is_err() {
                return Err(Lost::Unsent);
            }
            let sent = self.sender.try_send(request).await;
            let response = sent.map_err(|mut failed| match failed.take_message() {
                Some(_) => Lost::Unsent,
                None => Lost::Unanswered(failed.into_error()),
            })?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(Lost::Unanswered)?;
            Ok(Reply {
                status: head.status,
                headers: head.headers,
                body: body.to_bytes(),
            })
        };
        timeout(PATIENCE, exchanged)
            .await
            .unwrap_or(Err(Lost::Late))
    }
}

impl Sender {
    async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::One(sender) => sender.ready().await,
            Self::Two(sender) => sender.ready().await,
        }
    }

    async fn try_send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        match self {
            Self::One(sender) => sender.try_send_request(request).await,
            Self::Two(sender) => sender.try_send_request(request).await,
        }
    }
}

impl Reply {
    /// The body of an answer that must be 200.
    pub(crate) fn ok<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        anyhow::ensure!(
            self.status == StatusCode::OK,
            "answered {} {}",
            self.status,
            String::from_utf8_lossy(&self.body)
        );
        serde_json::from_slice(&self.body).context("reading an answer")
    }

    /// A header that is text and stands once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A text as it stands in a query.
pub(crate) fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).into(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_query_is_escaped() {
        assert_eq!(
            escaped("http://a-b.c/?x=é"),
            "http%3A%2F%2Fa-b.c%2F%3Fx%3D%C3%A9"
        );
    }
}
