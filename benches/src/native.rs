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
use std::net::TcpListener;
use tokio::task::JoinSet;

/// Of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Version {
    One,
    Two,
}

/// Serves until its parent is gone; says where in a line on stdout.
pub(crate) fn serve(version: Version) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    println!("http://{}/", listener.local_addr()?);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let listener = listener.try_clone()?;
            Ok(std::thread::spawn(move || answer(listener, version)))
        })
        .collect::<std::io::Result<_>>()?;
    for thread in threads {
        thread.join().ok().context("a thread panicked")??;
    }
    Ok(())
}

fn answer(listener: TcpListener, version: Version) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            connections.spawn(async move {
                let hello = |_: Request<Incoming>| async {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(
                        b"Hello from Shoal\n",
                    ))))
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
            });
            while connections.try_join_next().is_some() {}
        }
    })
}
