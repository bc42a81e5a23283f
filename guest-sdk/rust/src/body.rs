//! Bodies as streams, in both directions: never more in memory than one chunk.
//!
//! Waiting parks the function without using CPU time.

use std::io::{self, Read, Write};

use crate::Error;
use crate::bindings::wasi::http::types::IncomingBody;
use crate::bindings::wasi::io::streams::{InputStream, OutputStream, StreamError};

const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// The body of a request, chunk by chunk or through [`Read`].
pub struct Body {
    // Before the body it belongs to: fields are dropped in this order, and the host wants it so.
    stream: Option<InputStream>,
    _body: Option<IncomingBody>,
}

impl Body {
    /// `None` is an empty body.
    pub(crate) fn new(body: Option<IncomingBody>) -> Self {
        let stream = body.as_ref().and_then(|body| body.stream().ok());
        Self {
            stream,
            _body: body,
        }
    }

    /// The next bytes, at most 64 KiB, as soon as some are there; `None` at the end.
    ///
    /// # Errors
    /// [`Error::BodyIncomplete`] where the client or the connection broke off before the end.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        self.read_up_to(CHUNK_BYTES_MAX)
            .map_err(Error::BodyIncomplete)
    }

    fn read_up_to(&mut self, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(stream) = &self.stream else {
            return Ok(None);
        };
        loop {
            match stream.blocking_read(bytes_max as u64) {
                Ok(chunk) if chunk.is_empty() => {} // allowed, and means: not yet
                Ok(chunk) => return Ok(Some(chunk)),
                Err(StreamError::Closed) => return Ok(None),
                Err(error) => return Err(io_error(error)),
            }
        }
    }
}

/// Joins the chunks that `next` yields, holding no more than `limit_bytes` and one chunk.
pub(crate) fn read_whole(
    limit_bytes: usize,
    mut next: impl FnMut() -> Result<Option<Vec<u8>>, Error>,
) -> Result<Vec<u8>, Error> {
    let mut whole = Vec::new();
    while let Some(chunk) = next()? {
        if chunk.len() > limit_bytes - whole.len() {
            return Err(Error::BodyTooLarge { limit_bytes });
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let chunk = self.read_up_to(buffer.len())?.unwrap_or_default();
        buffer[..chunk.len()].copy_from_slice(&chunk);
        Ok(chunk.len())
    }
}

/// The body of a streamed response. A slow client slows the writer down: [`Write::write`] waits until the host takes more.
pub struct BodyWriter {
    stream: OutputStream,
}

impl BodyWriter {
    pub(crate) fn new(stream: OutputStream) -> Self {
        Self { stream }
    }

    /// Waits until the host takes bytes, and says how many: to write more would be a trap.
    fn permitted_bytes(&self) -> Result<usize, StreamError> {
        loop {
            match self.stream.check_write()? {
                0 => self.stream.subscribe().block(),
                permitted => return Ok(usize::try_from(permitted).unwrap_or(usize::MAX)),
            }
        }
    }
}

impl Write for BodyWriter {
    /// Hands bytes to the host, which sends them on their way at once.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let permitted = self.permitted_bytes().map_err(io_error)?;
        let taken = &bytes[..bytes.len().min(permitted)];
        self.stream.write(taken).map_err(io_error)?;
        Ok(taken.len())
    }

    /// Waits until the host has passed everything on. Not needed for a client to see what was written.
    fn flush(&mut self) -> io::Result<()> {
        self.stream.blocking_flush().map_err(io_error)
    }
}

fn io_error(error: StreamError) -> io::Error {
    match error {
        StreamError::Closed => io::ErrorKind::BrokenPipe.into(),
        StreamError::LastOperationFailed(cause) => io::Error::other(cause.to_debug_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in_chunks_of_4(body_bytes: usize, limit_bytes: usize) -> Result<Vec<u8>, Error> {
        let body = vec![7; body_bytes];
        let mut chunks = body.chunks(4);
        read_whole(limit_bytes, || Ok(chunks.next().map(<[u8]>::to_vec)))
    }

    #[test]
    fn a_body_at_its_limit_is_read_whole() {
        assert_eq!(read_in_chunks_of_4(10, 10).expect("at the limit"), [7; 10]);
        assert_eq!(read_in_chunks_of_4(0, 0).expect("at the limit"), [0; 0]);
    }

    #[test]
    fn a_body_over_its_limit_is_refused() {
        for body_bytes in [11, 12, 13, 1000] {
            let refused = read_in_chunks_of_4(body_bytes, 10);
            assert!(
                matches!(refused, Err(Error::BodyTooLarge { limit_bytes: 10 })),
                "{body_bytes} bytes"
            );
        }
    }

    #[test]
    fn a_body_that_breaks_off_is_not_taken_for_a_short_one() {
        let mut chunks = vec![
            Err(Error::BodyIncomplete(io::ErrorKind::BrokenPipe.into())),
            Ok(Some(vec![7])),
        ];
        let refused = read_whole(10, || chunks.pop().unwrap_or(Ok(None)));
        assert!(matches!(refused, Err(Error::BodyIncomplete(_))));
    }

    #[test]
    fn a_request_without_a_body_reads_as_empty() {
        let mut body = Body::new(None);
        assert!(matches!(body.chunk(), Ok(None)));
        assert_eq!(
            body.read(&mut [0; 8]).expect("an empty body ends at once"),
            0
        );
    }
}
