//! The child's side: a node as `shoal` runs it, with the bundled model on a simulated device, until it is asked to stop.

use super::{Ready, Spec};
use crate::digits::DIGITS_ONNX;
use anyhow::Context as _;
use rustix::process::{Signal, set_parent_process_death_signal};
use shoal::sandbox::{Allocator, FunctionSource, Grants};
use shoal::store::Data;
use shoal::{Access, Config, Listeners, Parts, Seed};
use shoal_inference::ModelSource;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// The sample that asks it.
pub(crate) const DIGITS: &[u8] = include_bytes!("../../../samples/components/digits.wasm");
/// Connections that the node has not accepted yet. std's 128 overflow when thousands come at once, and each that is dropped
/// tries again after a second.
const BACKLOG: u32 = 4_096;

/// The name of a tenant.
pub(super) fn tenant(n: usize) -> String {
    format!("tenant-{n}")
}

/// Runs the node that `spec` describes; ends when it is told to, or when its parent is gone.
pub(crate) fn serve(spec: &str) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .init();
    let spec: Spec = serde_json::from_str(spec).context("reading what the node is to be")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = listen()?;
        let address = listener.local_addr()?;
        let mut signals = JoinSet::new();
        let stopped = shoal::on_signals(&mut signals)?;
        shoal::run(parts(&spec, listener)?, stopped, |node| {
            say_ready(address, node.allocator);
        })
        .await
    })
}

/// Listens on loopback, on a port that is free.
fn listen() -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(BACKLOG)?.into_std()
}

fn parts(spec: &Spec, listener: TcpListener) -> std::io::Result<Parts> {
    let mut config = Config {
        socket_threads: spec.socket_threads,
        background_threads: spec.background_threads,
        guests_max: spec.guests_max,
        ..Config::default()
    };
    config.inference.rows_max = spec.rows_max;
    let wasm: Arc<[u8]> = Arc::from(DIGITS);
    let function = |n| FunctionSource {
        project: tenant(n),
        name: "digits".to_owned(),
        wasm: wasm.clone(),
        grants: Grants {
            models: BTreeSet::from(["digits".to_owned()]),
            ..Grants::default()
        },
    };
    Ok(Parts {
        config,
        listeners: Listeners::one(listener),
        devices: vec![spec.device.start()?],
        data: Data::in_memory()?,
        access: Access::Open,
        new_admin_key: false,
        seed: Seed {
            models: vec![digits()],
            functions: (0..spec.tenants).map(function).collect(),
        },
    })
}

/// The bundled model.
pub(crate) fn digits() -> ModelSource {
    ModelSource {
        name: "digits".to_owned(),
        onnx: Arc::from(DIGITS_ONNX),
        tokenizer: None,
        dry_runs: Vec::new(),
    }
}

fn say_ready(address: SocketAddr, allocator: &Allocator) {
    let ready = Ready {
        address,
        pool: match allocator {
            Allocator::Pool { guests, .. } => Ok(*guests),
            Allocator::OnDemand { why } => Err(why.clone()),
        },
    };
    // Strings and numbers can always be written as JSON.
    println!("{}", serde_json::to_string(&ready).unwrap_or_default());
}
