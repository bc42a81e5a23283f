//! Other servers, for functions to reach: they count their connections.

use super::Client;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A server on loopback that answers by the path, as long as the test's process runs.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        Self::on("127.0.0.1:0").unwrap()
    }

    /// `None` where this machine does not have the address.
    pub(crate) fn on(address: &str) -> Option<Self> {
        let listener = TcpListener::bind(address).ok()?;
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            open: Arc::default(),
        };
        let (connections, open) = (upstream.connections.clone(), upstream.open.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                connections.fetch_add(1, SeqCst);
                open.fetch_add(1, SeqCst);
                let open = open.clone();
                std::thread::spawn(move || {
                    serve(stream.unwrap());
                    open.fetch_sub(1, SeqCst);
                });
            }
        });
        Some(upstream)
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Connections now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn serve(stream: TcpStream) {
    let mut client = Client::over(stream);
    client.stream.set_read_timeout(None).unwrap();
    while let Some(head) = client.request_head() {
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if !answer(&mut client, &head, &target) {
            return;
        }
    }
}

/// Whether the connection goes on.
fn answer(client: &mut Client, head: &str, target: &str) -> bool {
    let field = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.to_owned())
    };
    let whole = |client: &mut Client, body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        client.send(head.as_bytes());
        client.send(body);
    };
    let (path, count) = target.rsplit_once('/').unwrap_or((target, ""));
    match path {
        // What it was asked.
        "/head" => whole(client, head.as_bytes()),
        "/redirect" => client.send(
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        ),
        "/bytes" => whole(client, &vec![b'.'; count.parse().unwrap()]),
        // Sends each part of the body back as it comes.
        "/echo" => {
            client.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            assert_eq!(field("transfer-encoding").as_deref(), Some("chunked"));
            while let Some(chunk) = client.chunk() {
                client.send(format!("{:x}\r\n", chunk.len()).as_bytes());
                client.send(&chunk);
                client.send(b"\r\n");
                if chunk.is_empty() {
                    return true;
                }
            }
            return false;
        }
        // Begins an answer of 10 bytes and breaks off.
        "/break" => {
            client.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nbegun");
            return false;
        }
        // Begins one and goes silent.
        "/stall" => {
            client.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nbegun");
            return wait_for_the_end(client);
        }
        "/silent" => return wait_for_the_end(client),
        _ => client.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
    }
    true
}

fn wait_for_the_end(client: &mut Client) -> bool {
    let _ = client.stream.read(&mut [0; 64]);
    false
}

/// A server that speaks HTTP/2 over TLS, as `localhost`. It answers with the version and the host that it was asked for.
pub(crate) struct SecureUpstream {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl SecureUpstream {
    /// Writes the certificate that it is to be trusted by.
    pub(crate) fn start(roots: &Path) -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(roots, certified.cert.pem()).unwrap();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = rustls::crypto::ring::default_provider();
        let mut tls = ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let accepted = connections.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve_tls(
                listener,
                TlsAcceptor::from(Arc::new(tls)),
                accepted,
            ));
        });
        Self {
            address,
            connections,
        }
    }

    /// Connections so far whose handshake came to its end.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

async fn serve_tls(listener: TcpListener, tls: TlsAcceptor, accepted: Arc<AtomicUsize>) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, accepted) = (tls.clone(), accepted.clone());
        connections.spawn(async move {
            // Who does not trust it breaks off.
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            accepted.fetch_add(1, SeqCst);
            let answer = service_fn(|request: Request<Incoming>| async move {
                let host = request.uri().host().unwrap_or_default();
                let said = format!("{:?} {host}", request.version());
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(said))))
            });
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}
