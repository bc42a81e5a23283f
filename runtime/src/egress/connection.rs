//! One connection to another server: made within its time, counted for as long as it is there, whoever uses it.

use super::resolver::Resolver;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower::Service;

/// Makes connections of one tenant.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) https: HttpsConnector<HttpConnector<Resolver>>,
    /// For name, TCP and TLS together.
    pub(super) timeout: Duration,
    /// Of the tenant, and of the node.
    pub(super) room: [Arc<Semaphore>; 2],
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotConnected {
    /// As many as there may be, used or kept.
    #[error("too many connections")]
    Full,
    /// It took too long.
    #[error("connecting took too long")]
    Late,
    /// See its source.
    #[error("not connected")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// A connection, and its places among its tenant's and the node's.
pub(super) struct Held {
    stream: Stream,
    _places: [OwnedSemaphorePermit; 2],
}

impl Connector {
    async fn connect(mut self, to: Uri) -> Result<Held, NotConnected> {
        let place = |room: &Arc<Semaphore>| room.clone().try_acquire_owned();
        let [own, all] = &self.room;
        let (Ok(own), Ok(all)) = (place(own), place(all)) else {
            return Err(NotConnected::Full);
        };
        match timeout(self.timeout, self.https.call(to)).await {
            Ok(Ok(stream)) => Ok(Held {
                stream,
                _places: [own, all],
            }),
            Ok(Err(failed)) => Err(NotConnected::Failed(failed)),
            Err(_) => Err(NotConnected::Late),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Held;
    type Error = NotConnected;
    type Future = Pin<Box<dyn Future<Output = Result<Held, NotConnected>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotConnected>> {
        self.https.poll_ready(cx).map_err(NotConnected::Failed)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(self.clone().connect(to))
    }
}

impl Connection for Held {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl Read for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }
}
