//! The connections: one client for each tenant, one thread for all of them.

use super::connection::Connector;
use super::failure::told;
use super::resolver::Resolver;
use crate::config::Config;
use anyhow::Context as _;
use dashmap::DashMap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioTimer;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use shoal_inference::TenantId;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinError, JoinHandle};
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HTTP2_STREAM_WINDOW_BYTES: u32 = 256 << 10;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Silence after which a server is asked whether it is still there, and time it has to say so.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// TLS sessions of a tenant that may be resumed.
const SESSIONS_MAX: usize = 64;

/// A tenant's connections.
pub(super) type Client = hyper_util::client::legacy::Client<Connector, WasiBody>;

/// The clients of all tenants.
pub(super) struct Clients {
    resolver: Resolver,
    tls: ClientConfig,
    connect_timeout: Duration,
    idle_max: Duration,
    idle_connections_max: usize,
    tenant_connections_max: usize,
    /// For connections of all tenants.
    room: Arc<Semaphore>,
    clients: DashMap<TenantId, Client>,
    /// Started by the first request: most nodes need none.
    thread: OnceLock<Option<Thread>>,
}

/// Where connections are driven. It ends when this is dropped, and all of them with it.
struct Thread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Clients {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            tls: tls(config.egress_roots.as_deref())?,
            resolver: Resolver::new(config.egress_networks.clone()),
            connect_timeout: config.egress_connect_timeout,
            idle_max: config.egress_idle_max,
            idle_connections_max: config.egress_idle_connections_max,
            tenant_connections_max: config.tenant_egress_connections_max,
            room: Arc::new(Semaphore::new(config.egress_connections_max)),
            clients: DashMap::new(),
            thread: OnceLock::new(),
        })
    }

    pub(super) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Sends a request over one of the tenant's connections, or a new one. Dropping the future ends it.
    pub(super) async fn send(
        &self,
        tenant: TenantId,
        request: Request<WasiBody>,
    ) -> Result<Response<Incoming>, HttpError> {
        let started = self.thread.get_or_init(|| {
            let thread = Thread::start();
            thread
                .inspect_err(|error| tracing::error!(%error, "outgoing requests cannot be sent"))
                .ok()
        });
        let Thread { handle, .. } = started.as_ref().ok_or(HttpError::InternalError(None))?;
        let client = self.clients.entry(tenant);
        let client = client.or_insert_with(|| self.client(handle)).clone();
        let sent = handle.spawn(client.request(request));
        match Ending(sent).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(failure)) => Err(told(&failure)),
            // The node is stopping.
            Err(_) => Err(HttpError::ConnectionTerminated),
        }
    }

    fn client(&self, handle: &Handle) -> Client {
        let mut tcp = HttpConnector::new_with_resolver(self.resolver.for_tenant());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(self.connect_timeout));
        tcp.set_keepalive(Some(KEEPALIVE));
        let mut tls = self.tls.clone();
        // A server that resumes one tenant's session for another would know that both are here.
        tls.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let own = Arc::new(Semaphore::new(self.tenant_connections_max));
        let connector = Connector {
            https,
            timeout: self.connect_timeout,
            room: [own, self.room.clone()],
        };
        hyper_util::client::legacy::Client::builder(OnThread(handle.clone()))
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(self.idle_max)
            .pool_max_idle_per_host(self.idle_connections_max)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .http2_max_header_list_size(HEAD_BYTES_MAX as u32)
            // What a guest does not read waits here: by default 2 and 5 MiB.
            .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE)
            .http2_keep_alive_timeout(KEEPALIVE)
            .build(connector)
    }
}

/// Servers are trusted by the authorities that Mozilla trusts, and by those in `file`.
fn tls(file: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(file) = file {
        let what = || format!("reading egress_roots, {}", file.display());
        for certificate in CertificateDer::pem_file_iter(file).with_context(what)? {
            roots
                .add(certificate.with_context(what)?)
                .with_context(what)?;
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    let tls = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(tls)
}

impl Thread {
    fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("making a runtime for outgoing requests")?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("egress".into())
            .spawn(move || {
                let _ = runtime.block_on(stopped);
                // A name that is being looked up is not waited for.
                runtime.shutdown_background();
            })
            .context("starting the thread of outgoing requests")?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It has nothing that could panic but tasks, whose panics are caught.
            let _ = thread.join();
        }
    }
}

/// Runs the connections' tasks on their thread, which owns them.
#[derive(Clone)]
struct OnThread(Handle);

impl<F> hyper::rt::Executor<F> for OnThread
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// A task that ends with whoever waits for it.
struct Ending<T>(JoinHandle<T>);

impl<T> Future for Ending<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
