//! A connection's socket: it gives back what was read to see which protocol it speaks, fails once the other side leaves it
//! unread for too long, and lets the last answer arrive when it is closed.

use super::preface::Opening;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// Until when the answer in progress may be written. A body that a full socket keeps from being polled cannot see its own
/// deadline; the socket can.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteDeadline(Arc<Mutex<Option<Instant>>>);

impl WriteDeadline {
    /// `None`: no limit but that of a stalled write.
    pub(crate) fn set(&self, deadline: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    pub(super) fn get(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Longest a closed connection is still read from. Closing a socket with unread bytes resets it, and the reset may overtake
/// the answer: the one that says what was wrong.
const LINGER_MAX: Duration = Duration::from_millis(500);

/// See above.
pub(super) struct Socket {
    stream: TcpStream,
    opening: Opening,
    stall_max: Duration,
    deadline: WriteDeadline,
    stalled: Option<Pin<Box<Sleep>>>,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// Writes may wait for `stall_max`, and not past the `deadline`.
    pub(super) fn new(
        stream: TcpStream,
        opening: Opening,
        stall_max: Duration,
        deadline: WriteDeadline,
    ) -> Self {
        Self {
            stream,
            opening,
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

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.opening.give(buffer) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
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
