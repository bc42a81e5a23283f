//! Which protocol a connection speaks, decided strictly by its first bytes: HTTP/2 with prior knowledge begins with a preface
//! that no request of HTTP/1.1 can begin with. Knows neither protocol beyond that.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

/// How a client of HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What of it no request begins with: the method `PRI` is reserved.
const RESERVED_LEN: usize = b"PRI ".len();

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
    /// It begins like HTTP/2 and is not: such a connection is closed (RFC 9113, section 3.4).
    Neither,
}

/// The first bytes of a connection: read to see what it speaks, to be given to whom speaks it.
#[derive(Debug, Default)]
pub(super) struct Opening {
    bytes: [u8; PREFACE.len()],
    read: usize,
    given: usize,
}

impl Opening {
    /// Reads, as far as the preface is long, until the protocol is clear. Cancel safe: what was read is kept.
    ///
    /// # Errors
    /// If the connection breaks or ends before.
    pub(super) async fn read<S>(&mut self, stream: &mut S) -> io::Result<Protocol>
    where
        S: AsyncRead + Unpin,
    {
        loop {
            if let Some(protocol) = protocol(&self.bytes[..self.read]) {
                return Ok(protocol);
            }
            match stream.read(&mut self.bytes[self.read..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.read += read,
            }
        }
    }

    /// Puts what was read, and not given yet, into `buffer`; whether there was any.
    pub(super) fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let left = &self.bytes[self.given..self.read];
        let given = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..given]);
        self.given += given;
        given > 0
    }
}

/// `None`: too early to say.
fn protocol(bytes: &[u8]) -> Option<Protocol> {
    let same = bytes.iter().zip(&PREFACE).take_while(|(a, b)| a == b);
    match same.count() {
        len if len == PREFACE.len() => Some(Protocol::Http2),
        len if len == bytes.len() => None,
        len if len < RESERVED_LEN => Some(Protocol::Http1),
        _ => Some(Protocol::Neither),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt as _, duplex};

    #[test]
    fn the_first_bytes_decide() {
        for (bytes, expected) in [
            (&b""[..], None),
            (b"P", None),
            (b"PRI", None),
            (b"PRI ", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Protocol::Http2)),
            (
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0",
                Some(Protocol::Http2),
            ),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", Some(Protocol::Neither)),
            (b"PRI * HTTP/1.1\r\n", Some(Protocol::Neither)),
            (b"PRI /", Some(Protocol::Neither)),
            (b"PRINT / HTTP/1.1", Some(Protocol::Http1)),
            (b"PUT", Some(Protocol::Http1)),
            (b"GET", Some(Protocol::Http1)),
            (b"pri * HTTP/2.0", Some(Protocol::Http1)),
            (b"\x16\x03\x01", Some(Protocol::Http1)),
        ] {
            let words = String::from_utf8_lossy(bytes);
            assert_eq!(protocol(bytes), expected, "{words}");
        }
    }

    #[tokio::test]
    async fn what_was_read_is_given_again() {
        for (sent, expected) in [
            (
                &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest"[..],
                Protocol::Http2,
            ),
            (b"POST / HTTP/1.1\r\n", Protocol::Http1),
        ] {
            let (mut client, mut server) = duplex(64);
            let mut opening = Opening::default();
            // Byte by byte, each read on its own.
            let mut parts = sent.chunks(1);
            let protocol = loop {
                client.write_all(parts.next().unwrap()).await.unwrap();
                tokio::select! {
                    biased;
                    protocol = opening.read(&mut server) => break protocol.unwrap(),
                    () = std::future::ready(()) => {}
                }
            };
            assert_eq!(protocol, expected);
            let mut bytes = [0; 5];
            let mut given = Vec::new();
            let mut buffer = ReadBuf::new(&mut bytes);
            while opening.give(&mut buffer) {
                given.extend_from_slice(buffer.filled());
                buffer.clear();
            }
            assert_eq!(given, sent[..given.len()]);
            assert_eq!(given.len() + parts.len(), sent.len());
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_before_it_is_clear_speaks_nothing() {
        for sent in [&b""[..], b"PRI * HT"] {
            let (mut client, mut server) = duplex(64);
            client.write_all(sent).await.unwrap();
            drop(client);
            let ended = Opening::default().read(&mut server).await.unwrap_err();
            assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
