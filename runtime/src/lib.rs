//! Shoal: sockets in, sandboxes out. [`run`] is the one place that wires a node together, and the one seam that the demo,
//! the tests and the benches use.
#![deny(unsafe_code)]

pub mod sandbox;

mod config;
mod host;
mod http;
mod metrics;
mod shutdown;

pub mod cli;

pub use config::{Config, ConfigError};
pub use shutdown::{Phase, Shutdown, Trigger, on_signals, shutdown};

use crate::http::{BodyLimits, RequestIds, Service};
use crate::metrics::Metrics;
use crate::sandbox::{Allocator, FunctionSource, Registry, Runner, Sandbox};
use anyhow::Context as _;
use shoal_inference::{AnyDevice, Inference, ModelSource, start_thread};
use std::net::TcpListener;
use std::sync::Arc;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// What a node is made of.
pub struct Parts {
    /// Its limits.
    pub config: Config,
    /// Where it listens.
    pub listener: TcpListener,
    /// What it runs models on; every model is loaded on every device.
    pub devices: Vec<AnyDevice>,
    /// The models it has.
    pub models: Vec<ModelSource>,
    /// The functions it serves.
    pub functions: Vec<FunctionSource>,
}

/// A node that is about to accept its first connection.
#[derive(Debug)]
pub struct Ready<'a> {
    /// Where instances come from.
    pub allocator: &'a Allocator,
    /// The inference engine under it.
    pub inference: &'a Inference,
}

/// Runs a node until it is told to stop and has drained: compiles the functions, loads the models, calls `on_ready`,
/// serves. Cancelling it leaves socket threads that end with their connections; use `shutdown`.
///
/// # Errors
/// A configuration key out of its range, a function or a model that is refused, a device that cannot start. Nothing is
/// served then.
pub async fn run(
    parts: Parts,
    shutdown: Shutdown,
    on_ready: impl FnOnce(Ready<'_>),
) -> anyhow::Result<()> {
    let Parts {
        config,
        listener,
        devices,
        models,
        functions,
    } = parts;
    config.validate()?;
    let sandbox = Sandbox::new(&config)?;
    let runner = Arc::new(Runner::new(sandbox, &config));
    let (inference, engine) = Inference::new(config.inference.clone(), devices, models)?;
    let engine = start_thread(engine)?;
    inference.loaded().await?;
    let metrics = Arc::new(Metrics::new(runner.clone(), inference.clone()));
    let registry = Registry::default();
    let compiled = |duration| metrics.compiled(duration);
    registry
        .add_all(runner.sandbox(), &config, functions, compiled)
        .await?;
    listener.set_nonblocking(true)?;
    // Again, with room for a burst of connections: the standard library's 128 drops some, which come again a second later.
    rustix::net::listen(&listener, BACKLOG).context("listening")?;
    let listener = tokio::net::TcpListener::from_std(listener).context("listening")?;
    raise_files_max(config.connections_max);
    on_ready(Ready {
        allocator: runner.sandbox().allocator(),
        inference: &inference,
    });
    let service = Arc::new(Service {
        runner,
        registry,
        inference,
        metrics,
        shutdown: shutdown.clone(),
        body: BodyLimits {
            bytes_max: config.body_bytes_max,
            rate_min: config.body_rate_min,
            rate_grace: config.body_rate_grace,
        },
        invocation_timeout: config.invocation_timeout,
        ids: RequestIds::new(),
    });
    let runner = service.runner.clone();
    serve(listener, service, &config, shutdown).await?;
    runner.sandbox().close();
    drop(runner);
    // The last handles went with the service: the engine ends by itself.
    tokio::task::spawn_blocking(move || engine.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the inference engine panicked"))
}

/// Raises the limit of open files as far as it goes, and says so if that is too few.
fn raise_files_max(connections_max: usize) {
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
    if files <= connections_max as u64 {
        tracing::warn!(
            files,
            connections_max,
            "fewer open files than connections: raise ulimit -n"
        );
    }
}

/// Serves and drains, at most for the grace time.
async fn serve(
    listener: tokio::net::TcpListener,
    service: Arc<Service>,
    config: &Config,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let (insist, within_grace) = crate::shutdown::shutdown();
    let mut serving = std::pin::pin!(http::run(listener, service, config, within_grace));
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
