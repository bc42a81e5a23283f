//! One connection: its socket with a limit on how long a client may leave it unread, and HTTP/1.1 on top, with a timer.

use crate::shutdown::Shutdown;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes read ahead, and bytes written behind.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    pub(crate) header_timeout: Duration,
    pub(crate) header_bytes_max: usize,
    pub(crate) write_stall_max: Duration,
}

/// Serves one connection until it ends, its client breaks a limit, or the node drains and the answer in flight is out.
pub(crate) async fn serve<S, F>(
    stream: TcpStream,
    limits: ConnectionLimits,
    mut shutdown: Shutdown,
    respond: S,
) where
    S: Fn(Request<Incoming>, WriteDeadline) -> F,
    F: Future<Output = Response<super::body::AnswerBody>>,
{
    // A failure here means a socket that is closed already: the read will say so.
    let _ = stream.set_nodelay(true);
    let deadline = WriteDeadline::default();
    let io = TokioIo::new(Stalling::new(
        stream,
        limits.write_stall_max,
        deadline.clone(),
    ));
    let service = service_fn(|request| {
        let response = respond(request, deadline.clone());
        async { Ok::<_, Infallible>(response.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(BUFFER_BYTES_MAX.max(2 * limits.header_bytes_max))
        // Not `pipeline_flush`: with unread bytes behind a bad request, it never writes the answer that says so.
        .keep_alive(true)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    tokio::select! {
        // What a client did wrong was answered; what the network did is no news.
        _ = connection.as_mut() => return,
        () = shutdown.draining() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Until when the answer in progress may be written. A body that a full socket keeps from being polled cannot see its own
/// deadline; the socket can.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteDeadline(Arc<Mutex<Option<Instant>>>);

impl WriteDeadline {
    /// `None`: no limit but that of a stalled write.
    pub(crate) fn set(&self, deadline: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    fn get(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Longest a closed connection is still read from. Closing a socket with unread bytes resets it, and the reset may overtake
/// the answer: the one that says what was wrong.
const LINGER_MAX: Duration = Duration::from_millis(500);

/// A socket whose writes fail once the other side has not read for too long, and whose close lets the last answer arrive.
struct Stalling {
    stream: TcpStream,
    stall_max: Duration,
    deadline: WriteDeadline,
    stalled: Option<Pin<Box<Sleep>>>,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Stalling {
    fn new(stream: TcpStream, stall_max: Duration, deadline: WriteDeadline) -> Self {
        Self {
            stream,
            stall_max,
            deadline,
            stalled: None,
            lingering: None,
        }
    }

    /// Reads and drops what comes, until the other side closes too or the time is up.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 4 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        self.lingering
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + LINGER_MAX)))
            .as_mut()
            .poll(cx)
    }

    /// Passes a write's result on, or fails if writes have been pending for too long.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let (stall_max, deadline) = (self.stall_max, &self.deadline);
        let stalled = self.stalled.get_or_insert_with(|| {
            let stalled_at = Instant::now() + stall_max;
            let until = deadline.get().map_or(stalled_at, |at| at.min(stalled_at));
            Box::pin(sleep_until(until))
        });
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Stalling {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stalling {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        self.poll_linger(cx).map(Ok)
    }
}
