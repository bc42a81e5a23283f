//! A client of HTTP/2 that keeps its rules, on a connection of its own.

use crate::support::{Node, PATIENCE};
use bytes::Bytes;
use http::Request;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What a request carries.
pub(crate) type ClientBody = BoxBody<Bytes, Infallible>;

/// One connection.
pub(crate) struct Client {
    pub(crate) sender: SendRequest<ClientBody>,
    pub(crate) connection: JoinSet<hyper::Result<()>>,
}

/// A whole answer.
pub(crate) struct Reply {
    pub(crate) head: http::response::Parts,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<http::HeaderMap>,
}

impl Client {
    pub(crate) async fn new(node: &Node) -> Self {
        Self::connect(node.address).await
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, driven) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        let mut connection = JoinSet::new();
        connection.spawn(driven);
        Self { sender, connection }
    }

    /// Sends a request; comes back with the head of its answer.
    pub(crate) async fn send(&mut self, request: Request<ClientBody>) -> http::Response<Incoming> {
        let answered = timeout(PATIENCE, self.sender.send_request(request));
        answered.await.unwrap().unwrap()
    }

    pub(crate) async fn call(&mut self, request: Request<ClientBody>) -> Reply {
        whole(self.send(request).await).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.call(get(path)).await
    }
}

/// The rest of an answer.
pub(crate) async fn whole(response: http::Response<Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    let body = timeout(PATIENCE, body.collect()).await.unwrap().unwrap();
    let trailers = body.trailers().cloned();
    Reply {
        head,
        body: body.to_bytes(),
        trailers,
    }
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn status_and_code(&self) -> (u16, String) {
        let code = self.json()["error"]["code"].as_str().unwrap().to_owned();
        (self.status(), code)
    }
}

/// A request without a body.
pub(crate) fn get(path: &str) -> Request<ClientBody> {
    let target = format!("http://test{path}");
    Request::get(target)
        .body(Empty::new().map_err(|never| match never {}).boxed())
        .unwrap()
}

/// A request with a body.
pub(crate) fn post(path: &str, body: ClientBody) -> Request<ClientBody> {
    Request::post(format!("http://test{path}"))
        .body(body)
        .unwrap()
}

/// A body of known length.
pub(crate) fn bytes(body: Vec<u8>) -> ClientBody {
    Full::new(Bytes::from(body)).boxed()
}

/// A body that is sent frame by frame.
struct Open(mpsc::Receiver<Frame<Bytes>>);

impl Body for Open {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// A body, and what sends it.
pub(crate) fn open_body() -> (mpsc::Sender<Frame<Bytes>>, ClientBody) {
    let (sender, frames) = mpsc::channel(1);
    (sender, Open(frames).boxed())
}
