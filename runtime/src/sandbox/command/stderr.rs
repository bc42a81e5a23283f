//! A command's standard error: the function's log, taken in turns. Preview 1 writes all that it is given in one call, of which
//! every 4 KiB may be as many lines; between them others have the thread.

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

pub(super) struct Paced<S>(pub(super) S);

struct PacedStream(Box<dyn OutputStream>);

impl<S: Send> IsTerminal for Paced<S> {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl<S: StdoutStream> StdoutStream for Paced<S> {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        self.0.async_stream()
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(PacedStream(self.0.p2_stream()))
    }
}

#[async_trait::async_trait]
impl Pollable for PacedStream {
    async fn ready(&mut self) {
        self.0.ready().await;
        tokio::task::yield_now().await;
    }
}

impl OutputStream for PacedStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.0.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.0.check_write()
    }
}
