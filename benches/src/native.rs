//! What a server costs that does nothing but answer: hyper, a thread for each processor, and the text of the sample `hello`.
//! The floor that a platform's own cost is measured from. In a process of its own, as its peers are.

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Version {
    One,
    Two,
}

/// How connections come to threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Accept {
    /// All threads wait at one socket.
    Shared,
    /// Each has a socket of its own at the same address (SO_REUSEPORT): the kernel chooses by the client's address and port.
    Reuseport,
    /// One thread accepts, and hands each to the one with the fewest, as a node does.
    Handed,
}

/// Serves until its parent is gone; says where in a line on stdout.
pub(crate) fn serve(version: Version, accept: Accept) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let first = listen(accept, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = first.local_addr()?;
    println!("http://{address}/");
    let threads: Vec<_> = match accept {
        Accept::Handed => {
            let threads = (0..count).map(|_| Handed::start(version)).collect();
            return hand_out(&first, threads);
        }
        Accept::Shared => (0..count).map(|_| first.try_clone()).collect(),
        Accept::Reuseport => {
            let others = (1..count).map(|_| listen(accept, address));
            std::iter::once(Ok(first)).chain(others).collect::<Vec<_>>()
        }
    };
    let threads: Vec<_> = threads
        .into_iter()
        .map(|listener| {
            let listener = listener?;
            listener.set_nonblocking(true)?;
            Ok(std::thread::spawn(move || answer(listener, version)))
        })
        .collect::<std::io::Result<_>>()?;
    for thread in threads {
        thread.join().ok().context("a thread panicked")??;
    }
    Ok(())
}

fn listen(accept: Accept, address: SocketAddr) -> std::io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseport(&socket, accept == Accept::Reuseport)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// A thread that is handed its connections.
struct Handed {
    streams: mpsc::Sender<TcpStream>,
    open: Arc<AtomicUsize>,
}

impl Handed {
    fn start(version: Version) -> Self {
        let (streams, mut handed) = mpsc::channel::<TcpStream>(BACKLOG as usize);
        let open = Arc::new(AtomicUsize::new(0));
        let counted = open.clone();
        std::thread::spawn(move || {
            runtime()?.block_on(async {
                let mut connections = JoinSet::new();
                while let Some(stream) = handed.recv().await {
                    let stream = tokio::net::TcpStream::from_std(stream)?;
                    let open = counted.clone();
                    connections.spawn(async move {
                        connection(stream, version).await;
                        open.fetch_sub(1, Relaxed);
                    });
                    while connections.try_join_next().is_some() {}
                }
                anyhow::Ok(())
            })
        });
        Self { streams, open }
    }
}

/// To whoever has fewest.
fn hand_out(listener: &TcpListener, threads: Vec<Handed>) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let fewest = threads
            .iter()
            .min_by_key(|thread| thread.open.load(Relaxed));
        let fewest = fewest.context("there is a thread")?;
        fewest.open.fetch_add(1, Relaxed);
        fewest.streams.blocking_send(stream)?;
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

fn answer(listener: TcpListener, version: Version) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            connections.spawn(connection(stream, version));
            while connections.try_join_next().is_some() {}
        }
    })
}

async fn connection(stream: tokio::net::TcpStream, version: Version) {
    let hello = |_: Request<Incoming>| async {
        let text = Bytes::from_static(b"Hello from Shoal\n");
        Ok::<_, Infallible>(Response::new(Full::new(text)))
    };
    let (io, hello) = (TokioIo::new(stream), service_fn(hello));
    // A client that goes away is no news.
    let _ = match version {
        Version::One => http1::Builder::new().serve_connection(io, hello).await,
        Version::Two => {
            let http2 = http2::Builder::new(TokioExecutor::new());
            http2.serve_connection(io, hello).await
        }
    };
}
