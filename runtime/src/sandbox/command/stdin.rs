//! A request's body as a command's standard input. It is read as the command reads: what it does not ask for stays with the
//! client.

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi_http::Error as HttpError;

/// Every handle to it reads the same bytes, each once.
#[derive(Clone)]
pub(super) struct Stdin(Arc<Mutex<Source>>);

struct Source {
    body: UnsyncBoxBody<Bytes, HttpError>,
    /// Read, and not taken yet.
    kept: Bytes,
    end: Option<End>,
}

#[derive(Clone, Copy)]
enum End {
    Whole,
    /// The client went away, or broke a limit.
    Broken,
}

impl Stdin {
    pub(super) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<HttpError>,
    {
        Self(Arc::new(Mutex::new(Source {
            body: body.map_err(Into::into).boxed_unsync(),
            kept: Bytes::new(),
            end: None,
        })))
    }

    fn with<T>(&self, then: impl FnOnce(&mut Source) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Source {
    /// Waits until there is something to take, or nothing more will come.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.kept.is_empty() && self.end.is_none() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                // Trailers are nothing that a command could read.
                Some(Ok(frame)) => self.kept = frame.into_data().unwrap_or_default(),
                Some(Err(_)) => self.end = Some(End::Broken),
                None => self.end = Some(End::Whole),
            }
        }
        Poll::Ready(())
    }

    fn take(&mut self, size: usize) -> Result<Bytes, End> {
        match self.end {
            Some(end) if self.kept.is_empty() => Err(end),
            _ => Ok(self.kept.split_to(size.min(self.kept.len()))),
        }
    }
}

fn broken() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionAborted)
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    /// The default would read in a task of its own.
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Stdin {
    async fn ready(&mut self) {
        poll_fn(|cx| self.with(|source| source.poll_ready(cx))).await;
    }
}

impl InputStream for Stdin {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.with(|source| source.take(size))
            .map_err(|end| match end {
                End::Whole => StreamError::Closed,
                End::Broken => StreamError::LastOperationFailed(broken().into()),
            })
    }
}

impl AsyncRead for Stdin {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|source| {
            ready!(source.poll_ready(cx));
            match source.take(buffer.remaining()) {
                Ok(bytes) => buffer.put_slice(&bytes),
                Err(End::Whole) => {}
                Err(End::Broken) => return Poll::Ready(Err(broken())),
            }
            Poll::Ready(Ok(()))
        })
    }
}
