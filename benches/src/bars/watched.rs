//! A connection that is looked at whenever something was written to it: had the other side closed it by then?

use std::io;
use std::net::TcpStream as Kernels;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// See above.
pub(super) struct Watched {
    stream: TcpStream,
    /// The same connection, to be asked without tokio, which knows only what it was told last.
    kernels: Kernels,
    watch: Watch,
}

/// What was seen at the last write.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch(Arc<AtomicBool>);

impl Watch {
    /// Whether the other side had closed the connection when the last write was done.
    pub(super) fn wrote_to_closed(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl Watched {
    pub(super) fn new(stream: TcpStream) -> io::Result<(Self, Watch)> {
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let kernels = stream.try_clone()?;
        let (stream, watch) = (TcpStream::from_std(stream)?, Watch::default());
        let watched = Self {
            stream,
            kernels,
            watch: watch.clone(),
        };
        Ok((watched, watch))
    }

    fn look(&self) {
        // Nothing to read is what an open connection has; 0 bytes is the end of one that is closed.
        let is_closed = match self.kernels.peek(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        self.watch.0.store(is_closed, Relaxed);
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            self.look();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn pair() -> (Watched, Watch, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (watched, watch) = Watched::new(client.unwrap()).unwrap();
        (watched, watch, server.unwrap().0)
    }

    #[tokio::test]
    async fn a_write_to_an_open_connection_is_told_from_one_that_came_too_late() {
        let (mut client, watch, mut server) = pair().await;
        client.write_all(b"in time").await.unwrap();
        assert!(!watch.wrote_to_closed());
        server.write_all(b"answer").await.unwrap();
        client.stream.readable().await.unwrap();
        client
            .write_all(b"with an answer to be read")
            .await
            .unwrap();
        assert!(!watch.wrote_to_closed());
        assert_eq!(client.read(&mut [0; 6]).await.unwrap(), 6);
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 6]).await.unwrap(), 0);
        client.write_all(b"too late").await.unwrap();
        assert!(watch.wrote_to_closed());
    }

    #[tokio::test]
    async fn a_reset_connection_is_a_closed_one() {
        let (mut client, watch, server) = pair().await;
        client.write_all(b"never read").await.unwrap();
        server.readable().await.unwrap();
        drop(server);
        client.stream.readable().await.unwrap();
        let _ = client.write_all(b"too late").await;
        assert!(watch.wrote_to_closed());
    }
}
