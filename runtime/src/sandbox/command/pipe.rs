//! A command's standard output as the body of its answer. So much is kept that most answers are whole when their head leaves,
//! and then a command that fails is answered as a failure; one that writes more begins its answer, and waits for its reader.

use crate::sandbox::invoke::Head;
use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// Bytes that are kept.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Both ends; clones are the same pipe.
#[derive(Clone)]
pub(super) struct Pipe(Arc<Mutex<Kept>>);

struct Kept {
    bytes: BytesMut,
    /// `None` once the answer has begun.
    answer: Option<oneshot::Sender<Head>>,
    ended: bool,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    /// `answer` is given the head.
    pub(super) fn new(answer: oneshot::Sender<Head>) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            bytes: BytesMut::new(),
            answer: Some(answer),
            ended: false,
            reader_gone: false,
            reader: None,
            writer: None,
        })))
    }

    /// The command has ended well: nothing more will be written.
    pub(super) fn end(&self) {
        let whole = self.with(|kept| {
            kept.ended = true;
            wake(&mut kept.reader);
            let answer = kept.answer.take()?;
            Some((answer, kept.bytes.split().freeze()))
        });
        if let Some((answer, bytes)) = whole {
            let body = Full::new(bytes).map_err(|never| match never {});
            // Whoever asked may have left.
            let _ = answer.send(Ok(Response::new(body.boxed_unsync())));
        }
    }

    fn with<T>(&self, then: impl FnOnce(&mut Kept) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins the answer once no more can be kept.
    fn push(&self, bytes: &[u8]) -> usize {
        let (taken, answer) = self.with(|kept| {
            let taken = bytes.len().min(kept.room());
            kept.bytes.extend_from_slice(&bytes[..taken]);
            wake(&mut kept.reader);
            let is_full = kept.room() == 0;
            (taken, kept.answer.take_if(|_| is_full))
        });
        // Not under the lock: where nobody waits for the answer any more, it comes back, and its body takes the lock too.
        if let Some(answer) = answer {
            let body = Reader(self.clone()).map_err(|never| match never {});
            let _ = answer.send(Ok(Response::new(body.boxed_unsync())));
        }
        taken
    }
}

impl Kept {
    fn room(&self) -> usize {
        KEPT_BYTES_MAX.saturating_sub(self.bytes.len())
    }

    /// Waits for room. Where there is no reader any more, there is no need to.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.room() > 0 || self.reader_gone {
            return Poll::Ready(());
        }
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The answer's body, while it is written.
struct Reader(Pipe);

impl Body for Reader {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.with(|kept| {
            if kept.bytes.is_empty() && !kept.ended {
                kept.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let bytes = kept.bytes.split().freeze();
            wake(&mut kept.writer);
            let frame = (!bytes.is_empty()).then(|| Ok(Frame::data(bytes)));
            Poll::Ready(frame)
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.with(|kept| {
            kept.reader_gone = true;
            wake(&mut kept.writer);
        });
    }
}

impl IsTerminal for Pipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Pipe {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    /// The default would hand every write to a task of its own.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Pipe {
    async fn ready(&mut self) {
        poll_fn(|cx| self.with(|kept| kept.poll_room(cx))).await;
    }
}

impl OutputStream for Pipe {
    /// Of no more than [`OutputStream::check_write`] allowed.
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.push(&bytes) < bytes.len() {
            return Err(StreamError::trap("wrote more than was allowed"));
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.with(|kept| match kept.reader_gone {
            true => Err(StreamError::Closed),
            false => Ok(kept.room()),
        })
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.with(|kept| kept.poll_room(cx)));
        match self.push(bytes) {
            0 if !bytes.is_empty() => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            taken => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_left_keeps_nobody_waiting() {
        let (answer, head) = oneshot::channel();
        let pipe = Pipe::new(answer);
        drop(head);
        assert_eq!(pipe.push(&[b'x'; 2 * KEPT_BYTES_MAX]), KEPT_BYTES_MAX);
        // Its body came back and was dropped: there is nobody to write for.
        assert!(matches!(
            pipe.clone().check_write(),
            Err(StreamError::Closed)
        ));
        pipe.end();
    }

    #[test]
    fn an_answer_that_fits_is_whole() {
        let (answer, mut head) = oneshot::channel();
        let pipe = Pipe::new(answer);
        assert_eq!(pipe.push(&[b'x'; KEPT_BYTES_MAX - 1]), KEPT_BYTES_MAX - 1);
        assert!(head.try_recv().is_err());
        pipe.end();
        let body = head.try_recv().unwrap().unwrap().into_body();
        assert_eq!(body.size_hint().exact(), Some(KEPT_BYTES_MAX as u64 - 1));
    }
}
