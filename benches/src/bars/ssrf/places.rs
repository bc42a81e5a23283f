//! What can be reached: servers at every address this machine has in the bar's network. They count what comes, and answer with
//! where it came.

use anyhow::Context as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The addresses of the Internet's hosts.
const PUBLIC: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(1, 2, 3, 4)),
    IpAddr::V6(Ipv6Addr::new(0x2a00, 0x1450, 0, 0, 0, 0, 0, 4)),
];
/// All that are added to what every machine has.
pub(super) const ADDRESSES: &[&str] = &[
    "1.2.3.4/32",
    "2a00:1450::4/128",
    "10.0.0.1/32",
    "172.16.0.1/32",
    "192.168.0.1/32",
    "100.64.0.1/32",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "169.254.169.254/32",
    "192.0.0.192/32",
    "192.0.2.1/32",
    "192.88.99.1/32",
    "198.18.0.1/32",
    "198.51.100.1/32",
    "203.0.113.1/32",
    "240.0.0.1/32",
    "64:ff9b::a9fe:a9fe/128",
    "64:ff9b:1::a9fe:a9fe/128",
    "100::1/128",
    "2001::1/128",
    "2001:db8::1/128",
    "2002:a9fe:a9fe::1/128",
    "3fff::1/128",
    "fc00::1/128",
    "fd00:ec2::254/128",
    "fec0::1/128",
];
const PORTS: [u16; 3] = [80, 443, 8080];
/// Longest wait for a request that is there.
const PATIENCE: Duration = Duration::from_secs(2);

/// The servers, and what came to addresses that are not the Internet's.
pub(super) struct Places {
    inside: Arc<Inside>,
    _servers: JoinSet<()>,
}

/// Connections that were made, and bytes that came over them.
#[derive(Debug, Default)]
pub(super) struct Inside {
    connections: AtomicU64,
    bytes: AtomicU64,
}

impl Places {
    pub(super) async fn serve() -> anyhow::Result<Self> {
        let (inside, mut servers) = (Arc::<Inside>::default(), JoinSet::new());
        for port in PORTS {
            // Of both kinds of address.
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await;
            let listener = listener.with_context(|| format!("listening on port {port}"))?;
            servers.spawn(accept(listener, inside.clone()));
        }
        Ok(Self {
            inside,
            _servers: servers,
        })
    }

    /// Connections so far that were made to what is nobody's business.
    pub(super) fn connections(&self) -> u64 {
        self.inside.connections.load(SeqCst)
    }

    /// Bytes that came over them.
    pub(super) fn bytes(&self) -> u64 {
        self.inside.bytes.load(SeqCst)
    }
}

async fn accept(listener: TcpListener, inside: Arc<Inside>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let inside = inside.clone();
        connections.spawn(async move {
            // Who goes away before the answer was counted all the same.
            let _ = serve(stream, &inside).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One request to a connection, so that the next looks its name up again.
async fn serve(mut stream: TcpStream, inside: &Inside) -> io::Result<()> {
    let local = stream.local_addr()?.ip().to_canonical();
    let is_inside = !PUBLIC.contains(&local);
    inside.connections.fetch_add(u64::from(is_inside), SeqCst);
    let (mut head, mut part) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = timeout(PATIENCE, stream.read(&mut part)).await??;
        if is_inside {
            inside.bytes.fetch_add(read as u64, SeqCst);
        }
        // No request, or one of TLS.
        if read == 0 || head.len() > part.len() {
            return Ok(());
        }
        head.extend_from_slice(&part[..read]);
    }
    let answer = answer(&String::from_utf8_lossy(&head), local);
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Where it came, or where to go instead: `/go?URL`.
fn answer(head: &str, local: IpAddr) -> String {
    let target = head.split(' ').nth(1).unwrap_or_default();
    let (status, body) = match target.strip_prefix("/go?") {
        Some(url) => (format!("302 Found\r\nlocation: {url}"), url.to_owned()),
        None => ("200 OK".to_owned(), said_by(local)),
    };
    let len = body.len();
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n{body}")
}

fn said_by(address: IpAddr) -> String {
    format!("reached {address}")
}

/// Whether a host of the Internet said this.
pub(super) fn is_from_outside(body: &[u8]) -> bool {
    PUBLIC.iter().any(|&host| said_by(host).as_bytes() == body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_where_it_was_reached() {
        let said = answer("GET / HTTP/1.1\r\n\r\n", PUBLIC[0]);
        let body = said.split("\r\n\r\n").nth(1).unwrap();
        assert!(is_from_outside(body.as_bytes()), "{said}");
        assert!(!is_from_outside(b"reached 127.0.0.1"));
        let said = answer("GET /go?http://ten.test/ HTTP/1.1\r\n\r\n", PUBLIC[1]);
        assert!(said.starts_with("HTTP/1.1 302 Found\r\nlocation: http://ten.test/\r\n"));
        assert!(said.ends_with("\r\n\r\nhttp://ten.test/"));
    }
}
