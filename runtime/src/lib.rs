//! Shoal: sockets in, sandboxes out. [`run`] is the one place that wires a node together, and the one seam that the demo,
//! the tests and the benches use.
#![deny(unsafe_code)]

pub mod models;
pub mod sandbox;
pub mod store;

mod api;
mod child;
mod config;
mod control;
mod egress;
mod host;
mod http;
mod metrics;
mod shutdown;
mod tenancy;
mod wall_clock;

pub mod cli;

pub use child::ChildLimits;
pub use config::{Config, ConfigError};
pub use control::Seed;
pub use egress::{HostRule, HostRuleError, Networks};
pub use shutdown::{Phase, Shutdown, Trigger, on_signals, shutdown};
pub use tenancy::Access;

use crate::api::Api;
use crate::control::{Control, ControlParts};
use crate::http::{BodyLimits, RequestIds, Role, Service};
use crate::metrics::Metrics;
use crate::sandbox::{Allocator, CodeCache, Components, Registry, Runner, Sandbox};
use crate::store::Data;
use crate::tenancy::Directory;
use anyhow::Context as _;
use shoal_inference::{AnyDevice, Inference, start_thread};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Where a node listens.
#[derive(Debug)]
pub struct Listeners {
    /// Where functions are called.
    pub functions: TcpListener,
    /// Where the node is managed; `None`: there too, which only a node may that asks nobody for a key.
    pub admin: Option<TcpListener>,
}

/// What a node is made of.
pub struct Parts {
    /// Its limits.
    pub config: Config,
    /// Where it listens.
    pub listeners: Listeners,
    /// What it runs models on; every model is loaded on every device.
    pub devices: Vec<AnyDevice>,
    /// What it keeps.
    pub data: Data,
    /// Whether it asks who somebody is.
    pub access: Access,
    /// Whether it makes another admin key, for an operator who lost theirs.
    pub new_admin_key: bool,
    /// What it has besides what is in its data.
    pub seed: Seed,
}

/// A node that is about to accept its first connection.
pub struct Ready<'a> {
    /// Where instances come from.
    pub allocator: &'a Allocator,
    /// The inference engine under it.
    pub inference: &'a Inference,
    /// The functions it serves, each with its log.
    pub registry: &'a Arc<Registry>,
    /// An admin key that was made just now. It is shown here and kept nowhere.
    pub admin_key: Option<&'a str>,
}

impl Listeners {
    /// One listener for everything.
    pub fn one(listener: TcpListener) -> Self {
        Self {
            functions: listener,
            admin: None,
        }
    }

    /// Where functions are called, and where the node is managed.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        let functions = self.functions.local_addr()?;
        let admin = self
            .admin
            .as_ref()
            .map(TcpListener::local_addr)
            .transpose()?;
        Ok((functions, admin.unwrap_or(functions)))
    }
}

/// Runs a node until it is told to stop and has drained: reads what it keeps, calls `on_ready`, serves. Cancelling it leaves
/// socket threads that end with their connections; use `shutdown`.
///
/// # Errors
/// A configuration key out of its range, data that cannot be read, a seed that is refused, a device that cannot start.
/// Nothing is served then.
pub async fn run(
    parts: Parts,
    shutdown: Shutdown,
    on_ready: impl FnOnce(Ready<'_>),
) -> anyhow::Result<()> {
    let Parts {
        config,
        listeners,
        devices,
        data,
        access,
        new_admin_key,
        seed,
    } = parts;
    config.validate()?;
    check_access(access, &listeners)?;
    let sandbox = Arc::new(Sandbox::new(&config)?);
    let cache = CodeCache::open(data.code_folder(), sandbox.engine())?;
    let (inference, engine) = Inference::new(config.inference.clone(), devices)?;
    let engine = start_thread(engine)?;
    let node = ControlParts {
        store: data.store.clone(),
        blobs: data.blobs.clone(),
        registry: Arc::new(Registry::new(&sandbox, &config)),
        components: Arc::new(Components::new(sandbox, &config, cache)),
        directory: Arc::new(Directory::new(access)),
        inference: inference.clone(),
        config: Arc::new(config),
    };
    let (control, applier) = Control::start(node).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(applier.run());
    if data.is_kept() {
        control.components.cache().remove_unfinished()?;
        control.collect_garbage().await?;
    }
    if data.is_own() {
        tasks.spawn(control::collect(control.clone()));
    }
    tasks.spawn(control::watch_canaries(control.clone()));
    control.sow(seed).await?;
    let admin_key = match access {
        Access::Keys => control.admin_key_at_start(new_admin_key).await?,
        Access::Open => None,
    };
    let config = control.config.clone();
    let runner = Arc::new(Runner::new(control.components.clone(), &config));
    let expiring = runner.clone();
    tasks.spawn(async move { expiring.expire_kept().await });
    raise_files_max(&config);
    on_ready(Ready {
        allocator: runner.sandbox().allocator(),
        inference: &inference,
        registry: &control.registry,
        admin_key: admin_key.as_deref(),
    });
    let service = service(&control, &runner, &listeners, &shutdown)?;
    drop(inference);
    serve(listeners, service, &config, shutdown).await?;
    runner.sandbox().close();
    // The last handles go with these: the engine ends by itself.
    tasks.shutdown().await;
    drop((runner, control));
    tokio::task::spawn_blocking(move || engine.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the inference engine panicked"))?;
    data.close().await;
    Ok(())
}

/// What the connections of the functions' listener share.
fn service(
    control: &Arc<Control>,
    runner: &Arc<Runner>,
    listeners: &Listeners,
    shutdown: &Shutdown,
) -> anyhow::Result<Service> {
    let (functions_at, _) = listeners.addresses()?;
    let config = &control.config;
    let metrics = Metrics::new(
        runner.clone(),
        control.registry.clone(),
        control.inference.clone(),
    );
    Ok(Service {
        role: match listeners.admin {
            Some(_) => Role::Functions,
            None => Role::Both,
        },
        api: Api::new(control.clone(), functions_at, shutdown.clone()),
        directory: control.directory.clone(),
        registry: control.registry.clone(),
        runner: runner.clone(),
        inference: control.inference.clone(),
        metrics: Arc::new(metrics),
        shutdown: shutdown.clone(),
        domain: config.domain.clone(),
        body: BodyLimits {
            bytes_max: config.body_bytes_max,
            rate_min: config.body_rate_min,
            rate_grace: config.body_rate_grace,
        },
        invocation_timeout: config.invocation_timeout,
        ids: Arc::new(RequestIds::new()),
    })
}

/// Nobody is asked only where nobody else can come.
fn check_access(access: Access, listeners: &Listeners) -> anyhow::Result<()> {
    let (functions, admin) = listeners.addresses()?;
    match access {
        Access::Open => anyhow::ensure!(
            functions.ip().is_loopback() && admin.ip().is_loopback(),
            "a node that asks for no key listens on loopback only, not on {functions} and {admin}"
        ),
        Access::Keys => anyhow::ensure!(
            listeners.admin.is_some(),
            "a node that asks for keys is managed at an address of its own"
        ),
    }
    Ok(())
}

/// Raises the limit of open files as far as it goes, and says so if that is too few.
fn raise_files_max(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let files = sandbox::files_max();
    let needed = config
        .connections_max
        .saturating_add(config.components_mapped_max)
        .saturating_add(config.egress_connections_max);
    if files <= needed as u64 {
        tracing::warn!(
            files,
            needed,
            "fewer open files than connections_max, components_mapped_max and egress_connections_max: raise ulimit -n"
        );
    }
}

/// Serves and drains, at most for the grace time.
async fn serve(
    listeners: Listeners,
    service: Service,
    config: &Config,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let (insist, within_grace) = crate::shutdown::shutdown();
    let functions = listen(listeners.functions)?;
    let admin = listeners.admin.map(listen).transpose()?;
    let admin_service = Arc::new(Service {
        role: Role::Admin,
        ..service.clone()
    });
    let both = async {
        let threads = config.socket_threads;
        let functions = http::run(
            functions,
            Arc::new(service),
            config,
            threads,
            within_grace.clone(),
        );
        let Some(admin) = admin else {
            return functions.await;
        };
        let admin = http::run(admin, admin_service, config, 1, within_grace);
        tokio::try_join!(functions, admin).map(drop)
    };
    let mut serving = std::pin::pin!(both);
    let (mut drain, mut stop) = (shutdown.clone(), shutdown);
    tokio::select! {
        served = &mut serving => return served.context("serving"),
        () = drain.draining() => insist.again(),
    }
    tracing::info!(grace = ?config.shutdown_grace, "draining");
    tokio::select! {
        served = &mut serving => return served.context("draining"),
        () = stop.stopping() => {}
        () = tokio::time::sleep(config.shutdown_grace) => {
            tracing::warn!("grace is over: dropping what is left");
        }
    }
    insist.stop();
    serving.await.context("stopping")
}

fn listen(listener: TcpListener) -> anyhow::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    // Again, with room for a burst of connections: the standard library's 128 drops some, which come again a second later.
    rustix::net::listen(&listener, BACKLOG).context("listening")?;
    tokio::net::TcpListener::from_std(listener).context("listening")
}
