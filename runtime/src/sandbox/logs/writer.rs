//! What one invocation writes with: its stdout and stderr as the guest sees them, and its `wasi:logging`. A part of a line
//! is kept until its end comes, or the end of the guest, however that ends.

use super::line::{Line, Origin, Source, printable};
use super::ring::LogRing;
use crate::sandbox::messages::ComponentId;
use crate::wall_clock::unix_ms;
use bytes::Bytes;
use http::HeaderValue;
use shoal_host::logging::Level;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes of one write to a stream: what WIT's blocking write takes at most. Of nothing but newlines they are as many lines,
/// and no call into the host should take longer than those: 0.4 ms.
const WRITE_BYTES_MAX: usize = 4 << 10;

/// Writes to the log of one function, in the name of one invocation. Cheap to make, and cheap for a guest that never writes.
#[derive(Clone)]
pub struct LogWriter(Arc<Writer>);

struct Writer {
    ring: Arc<LogRing>,
    component: ComponentId,
    call: Mutex<Call>,
    stdout: Mutex<Vec<u8>>,
    stderr: Mutex<Vec<u8>>,
}

/// In whose name is written.
struct Call {
    request_id: HeaderValue,
    /// Made for the first line.
    origin: Option<Arc<Origin>>,
}

impl LogWriter {
    /// For the invocation of `component` that answers with this `x-request-id`.
    pub fn new(ring: Arc<LogRing>, component: ComponentId, request_id: HeaderValue) -> Self {
        Self(Arc::new(Writer {
            ring,
            component,
            call: Mutex::new(Call {
                request_id,
                origin: None,
            }),
            stdout: Mutex::default(),
            stderr: Mutex::default(),
        }))
    }

    /// The guest's standard output. It may be opened many times: all write to the same lines.
    pub(crate) fn stdout(&self) -> Stream {
        Stream {
            writer: self.0.clone(),
            is: Is::Stdout,
        }
    }

    /// The guest's standard error.
    pub(crate) fn stderr(&self) -> Stream {
        Stream {
            writer: self.0.clone(),
            is: Is::Stderr,
        }
    }

    /// What the client knows the invocation by.
    pub(crate) fn request_id(&self) -> String {
        String::from_utf8_lossy(self.0.call().request_id.as_bytes()).into_owned()
    }

    /// An invocation is over: lines without an end were its.
    pub(crate) fn end_call(&self) {
        self.0.end_lines();
    }

    /// Another begins, in the name of which `other` would write; the streams that its guest has stay.
    pub(crate) fn begin_call(&self, other: &LogWriter) {
        let request_id = other.0.call().request_id.clone();
        *self.0.call() = Call {
            request_id,
            origin: None,
        };
    }

    /// One line of `wasi:logging`.
    pub(crate) fn log(&self, level: Level, context: &str, message: &str) {
        let source = Source::log(level, context);
        self.0.line(unix_ms(), source, message.as_bytes());
    }
}

impl Writer {
    fn call(&self) -> MutexGuard<'_, Call> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, unix_ms: u64, source: Source, raw: &[u8]) {
        let origin = {
            let Call { request_id, origin } = &mut *self.call();
            let made = || Arc::new(Origin::new(request_id.as_bytes(), self.component));
            origin.get_or_insert_with(made).clone()
        };
        self.ring.push(Line {
            seq: 0,
            unix_ms,
            origin,
            source,
            text: printable(raw, self.ring.line_bytes_max()),
        });
    }
}

impl Writer {
    fn end_lines(&self) {
        for is in [Is::Stdout, Is::Stderr] {
            let last = std::mem::take(&mut *is.part(self));
            if !last.is_empty() {
                self.line(unix_ms(), is.source(), &last);
            }
        }
    }
}

/// A guest that was stopped in the middle of a line said something too.
impl Drop for Writer {
    fn drop(&mut self) {
        self.end_lines();
    }
}

#[derive(Clone, Copy)]
enum Is {
    Stdout,
    Stderr,
}

impl Is {
    fn source(self) -> Source {
        match self {
            Is::Stdout => Source::Stdout,
            Is::Stderr => Source::Stderr,
        }
    }

    /// The line of it that has no end yet.
    fn part(self, of: &Writer) -> MutexGuard<'_, Vec<u8>> {
        match self {
            Is::Stdout => &of.stdout,
            Is::Stderr => &of.stderr,
        }
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of a guest's standard streams. Always ready: what cannot be kept is lost, and no guest waits for a reader.
#[derive(Clone)]
pub(crate) struct Stream {
    writer: Arc<Writer>,
    is: Is,
}

impl Stream {
    fn take(&self, mut bytes: &[u8]) {
        let mut part = self.is.part(&self.writer);
        // Once for all of its lines: to read it costs as much as to keep a short line.
        let now = unix_ms();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            if part.is_empty() {
                self.writer.line(now, self.is.source(), &bytes[..end]);
            } else {
                self.keep(&mut part, &bytes[..end]);
                self.writer.line(now, self.is.source(), &part);
                part.clear();
            }
            bytes = &bytes[end + 1..];
        }
        self.keep(&mut part, bytes);
    }

    /// Of a line too long, one byte more than fits: so much says that it is.
    fn keep(&self, part: &mut Vec<u8>, bytes: &[u8]) {
        let room = (self.writer.ring.line_bytes_max() + 1).saturating_sub(part.len());
        part.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    /// The default would hand every write to a task of its own.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(WRITE_BYTES_MAX)];
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
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
    use super::super::Logs;
    use super::*;
    use crate::config::Config;
    use tokio::io::AsyncWriteExt as _;

    fn writer(log_line_bytes_max: usize) -> (Arc<LogRing>, LogWriter) {
        let config = Config {
            log_line_bytes_max,
            ..Config::default()
        };
        let ring = Logs::new(&config).ring();
        let request_id = HeaderValue::from_static("req_1");
        let writer = LogWriter::new(ring.clone(), ComponentId([7; 32]), request_id);
        (ring, writer)
    }

    fn texts(ring: &LogRing) -> Vec<String> {
        let lines = ring.after(0);
        lines.iter().map(|line| line.text.to_string()).collect()
    }

    #[test]
    fn all_handles_of_a_stream_write_to_the_same_line() {
        let (ring, writer) = writer(100);
        let mut first = writer.stdout().p2_stream();
        let mut second = writer.stdout().p2_stream();
        let mut other = writer.stderr().p2_stream();
        first.write("on".into()).unwrap();
        other.write("two".into()).unwrap();
        second.write("e\n".into()).unwrap();
        assert_eq!(texts(&ring), ["one"]);
        drop((first, second, other));
        assert_eq!(texts(&ring), ["one"]);
        // The last of the invocation: what has no end yet ends with it.
        drop(writer);
        assert_eq!(texts(&ring), ["one", "two"]);
        assert_eq!(ring.after(1)[0].source, Source::Stderr);
    }

    #[test]
    fn a_line_belongs_to_the_call_that_wrote_it() {
        let (ring, first) = writer(100);
        let mut stream = first.stdout().p2_stream();
        stream.write("one\ntwo".into()).unwrap();
        first.end_call();
        let request_id = HeaderValue::from_static("req_2");
        first.begin_call(&LogWriter::new(
            ring.clone(),
            ComponentId([7; 32]),
            request_id,
        ));
        stream.write("three\n".into()).unwrap();
        assert_eq!(first.request_id(), "req_2");
        let lines = ring.after(0);
        let written = lines
            .iter()
            .map(|line| (&*line.text, &*line.origin.request_id));
        assert_eq!(
            Vec::from_iter(written),
            [("one", "req_1"), ("two", "req_1"), ("three", "req_2")]
        );
    }

    #[test]
    fn a_line_without_an_end_is_held_up_to_the_limit() {
        let (ring, writer) = writer(16);
        let stream = writer.stdout();
        for _ in 0..10_000 {
            stream.take(&[b'x'; 1_000]);
            assert!(stream.is.part(&stream.writer).capacity() <= 40);
        }
        stream.take(b"\nnext\n");
        assert_eq!(texts(&ring), ["xxxxxxxxxxxxxxxx…", "next"]);
    }

    #[test]
    fn nothing_is_made_for_a_guest_that_never_writes() {
        let (ring, writer) = writer(100);
        let stream = writer.stdout();
        assert!(stream.writer.call().origin.is_none());
        assert_eq!(stream.is.part(&stream.writer).capacity(), 0);
        drop((stream, writer));
        assert!(ring.after(0).is_empty());
    }

    #[tokio::test]
    async fn the_asynchronous_stream_writes_the_same() {
        let (ring, writer) = writer(4_000);
        let mut stream = std::pin::Pin::from(writer.stdout().async_stream());
        let long = "x".repeat(3_000);
        stream
            .write_all(format!("{long}\n").as_bytes())
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(texts(&ring), [long]);
    }
}
