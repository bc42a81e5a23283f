//! One connection, from its first byte to its last: which protocol it speaks, its limits, and its drain. Knows nothing of
//! what is answered.

use super::pace::Paced;
use super::preface::{Opening, Protocol};
use super::socket::{Socket, WriteDeadline};
use super::streams::{Ended, Streams};
use crate::config::Config;
use crate::shutdown::{Phase, Shutdown};
use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes read ahead, and bytes written behind.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Streams that a client of HTTP/2 may lose to its own mistakes in the life of a connection, which is ended then.
const STREAM_ERRORS_MAX: usize = 1_024;

/// How long a connection of HTTP/1.1 is left open when the node drains, for the request that may be on its way: its answer says
/// that the connection ends with it, which nothing else can tell the client before it sends.
const DRAIN_QUIET: Duration = Duration::from_millis(250);

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    header_timeout: Duration,
    header_bytes_max: usize,
    write_stall_max: Duration,
    streams_max: u32,
    stream_window_bytes: u32,
    connection_window_bytes: u32,
    ping_interval: Duration,
    ping_timeout: Duration,
}

impl ConnectionLimits {
    /// Takes what it needs of the configuration.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            header_timeout: config.header_timeout,
            header_bytes_max: config.header_bytes_max,
            write_stall_max: config.write_stall_max,
            streams_max: config.http2_streams_max,
            stream_window_bytes: config.http2_stream_window_bytes,
            connection_window_bytes: config.http2_connection_window_bytes,
            ping_interval: config.http2_ping_interval,
            ping_timeout: config.http2_ping_timeout,
        }
    }
}

/// Serves one connection until it ends, its client breaks a limit, or the node drains and the answers in flight are out.
/// Cancelling it drops what is in flight.
pub(crate) async fn serve<S, F, B>(
    mut stream: TcpStream,
    limits: ConnectionLimits,
    mut shutdown: Shutdown,
    respond: S,
) -> Ended
where
    S: Fn(Request<Incoming>, WriteDeadline) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    // A failure here means a socket that is closed already: the read will say so.
    let _ = stream.set_nodelay(true);
    let mut opening = Opening::default();
    let protocol = tokio::select! {
        biased;
        // A first request of HTTP/1.1 has its own time after this: twice as much only if it begins like the preface.
        read = timeout(limits.header_timeout, opening.read(&mut stream)) => match read {
            Ok(Ok(protocol)) => protocol,
            Ok(Err(_)) | Err(_) => return Ended::default(),
        },
        // It knows best what to do with what has only begun.
        () = shutdown.draining() => Protocol::Http1,
    };
    let deadline = WriteDeadline::default();
    let socket = Socket::new(stream, opening, limits.write_stall_max, deadline.clone());
    match protocol {
        Protocol::Http1 => {
            serve_http1(socket, limits, shutdown, |request| {
                respond(request, deadline.clone())
            })
            .await;
            Ended::default()
        }
        Protocol::Http2 => serve_http2(socket, limits, shutdown, respond).await,
        Protocol::Neither => Ended::default(),
    }
}

async fn serve_http1<S, F, B>(
    socket: Socket,
    limits: ConnectionLimits,
    mut shutdown: Shutdown,
    respond: S,
) where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let node = shutdown.clone();
    let service = service_fn(|request| {
        let (response, node) = (respond(request), &node);
        async move {
            let mut response = response.await;
            if node.phase() != Phase::Serve {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(BUFFER_BYTES_MAX.max(2 * limits.header_bytes_max))
        // Not `pipeline_flush`: with unread bytes behind a bad request, it never writes the answer that says so.
        .keep_alive(true)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // What a client did wrong was answered; what the network did is no news.
        _ = connection.as_mut() => return,
        () = shutdown.draining() => {}
    }
    // From here on each answer ends its connection, see above. To end one that is idle at once would lose a request that has
    // arrived and was not read yet.
    if timeout(DRAIN_QUIET, connection.as_mut()).await.is_ok() {
        return;
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn serve_http2<S, F, B>(
    socket: Socket,
    limits: ConnectionLimits,
    mut shutdown: Shutdown,
    respond: S,
) -> Ended
where
    S: Fn(Request<Incoming>, WriteDeadline) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut streams = Streams::new(limits.streams_max as usize, limits.write_stall_max);
    let service = service_fn(|request| {
        let (method, deadline) = (request.method().clone(), WriteDeadline::default());
        let response = respond(request, deadline.clone());
        async move { Ok::<_, Infallible>(Paced::answer(method, response, deadline).await) }
    });
    let connection = http2::Builder::new(streams.spawner())
        .timer(TokioTimer::new())
        // h2 takes lists below this size.
        .max_header_list_size(
            u32::try_from(limits.header_bytes_max.saturating_add(1)).unwrap_or(u32::MAX),
        )
        .max_concurrent_streams(limits.streams_max)
        // Streams that are cancelled before anybody saw them: no more than there may be at once.
        .max_pending_accept_reset_streams(limits.streams_max as usize)
        .max_local_error_reset_streams(STREAM_ERRORS_MAX)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_send_buf_size(BUFFER_BYTES_MAX)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return streams.ended(),
        () = streams.watch(limits.header_timeout) => {}
        () = shutdown.draining() => {}
    }
    // Says so, and ends once the streams in flight have; or without the client, if it does not let it.
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        _ = connection => {}
        () = streams.watch(limits.header_timeout) => {}
    }
    streams.ended()
}
