//! The server beside which ours is measured: hyper, and a fresh instance from wasmtime's pool for each request, with
//! `wasmtime-wasi-nn` as it is. Nothing else of what a node does.

use super::backend;
use crate::node::{DIGITS, DeviceSpec, digits};
use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use shoal_inference::{Config, Inference, Model, start_thread};
use std::future::Future;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};
use wasmtime_wasi_nn::wit::{WasiNnCtx, WasiNnView};

/// Longest wait until it says where it is.
const START_MAX: Duration = Duration::from_secs(60);

/// What it is to be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Blocking {
    device: DeviceSpec,
    threads: Threads,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Threads {
    /// Each with its share of the connections, as an asynchronous server has them.
    Exactly(usize),
    OnePerConnection,
}

impl Blocking {
    pub(super) fn new(device: DeviceSpec, threads: Threads) -> Self {
        Self { device, threads }
    }
}

/// One that runs. It is killed when this is dropped.
pub(super) struct Server {
    _child: Child,
    address: SocketAddr,
}

impl Server {
    pub(super) async fn start(what: &Blocking) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("blocking")
            .arg(serde_json::to_string(what)?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a server")?;
        let stdout = child.stdout.take().context("the server has no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let said = timeout(START_MAX, lines.next_line()).await;
        let address = said.context("waiting for the server")??;
        let address = address.context("the server ended")?;
        Ok(Self {
            _child: child,
            address: address.parse()?,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves until its parent is gone; says where in a line on stdout.
pub(crate) fn blocking(spec: &str) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let what: Blocking = serde_json::from_str(spec).context("reading what the server is to be")?;
    let starting = runtime()?;
    let guests = Arc::new(starting.block_on(Guests::new(what.device))?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    match what.threads {
        Threads::OnePerConnection => loop {
            let (stream, _) = listener.accept()?;
            let guests = guests.clone();
            std::thread::spawn(move || runtime()?.block_on(serve(stream, guests)));
        },
        Threads::Exactly(threads) => {
            listener.set_nonblocking(true)?;
            let spawned = (0..threads).map(|_| {
                let (listener, guests) = (listener.try_clone()?, guests.clone());
                Ok(std::thread::spawn(move || accept(listener, guests)))
            });
            for thread in spawned.collect::<std::io::Result<Vec<_>>>()? {
                thread.join().ok().context("a thread panicked")??;
            }
            Ok(())
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

fn accept(listener: TcpListener, guests: Arc<Guests>) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            connections.spawn(serve(stream.into_std()?, guests.clone()));
            while connections.try_join_next().is_some() {}
        }
    })
}

async fn serve(stream: TcpStream, guests: Arc<Guests>) -> anyhow::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let stream = tokio::net::TcpStream::from_std(stream)?;
    let answer = |request: Request<hyper::body::Incoming>| {
        let guests = guests.clone();
        async move { guests.answer(request).await }
    };
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await?;
    Ok(())
}

/// The sample `digits` on `wasmtime-wasi-nn`.
struct Guests {
    pre: ProxyPre<State>,
    inference: Inference,
    model: Arc<Model>,
}

impl Guests {
    async fn new(device: DeviceSpec) -> anyhow::Result<Self> {
        let config = Config {
            rows_max: super::ROWS_MAX,
            ..Config::default()
        };
        let (inference, engine) = Inference::new(config, vec![device.start()?])?;
        start_thread(engine)?;
        let model = inference.load(digits()).await?;
        let mut pool = PoolingAllocationConfig::new();
        // As a node of ours has it: what is compared is how guests wait, not how their memory is cleared.
        pool.total_component_instances(2 * super::CONNECTIONS as u32)
            .max_unused_warm_slots(100)
            .linear_memory_keep_resident(1 << 20)
            .table_keep_resident(4 << 10)
            .async_stack_keep_resident(32 << 10);
        if PoolingAllocationConfig::is_pagemap_scan_available() {
            pool.pagemap_scan(Enabled::Yes);
        }
        let mut config = wasmtime::Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        wasmtime_wasi_nn::wit::add_to_linker(&mut linker, |state: &mut State| {
            WasiNnView::new(&mut state.table, &mut state.nn)
        })?;
        let component = Component::new(&engine, DIGITS)?;
        Ok(Self {
            pre: ProxyPre::new(linker.instantiate_pre(&component)?)?,
            inference,
            model,
        })
    }

    async fn answer<B>(&self, request: Request<B>) -> anyhow::Result<Response<Full<Bytes>>>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<HttpError>> + Send + 'static,
    {
        let state = State {
            table: ResourceTable::new(),
            wasi: WasiCtx::builder().build(),
            http: WasiHttpCtx::new(),
            hooks: Denied,
            nn: backend::context(&self.inference, &self.model),
        };
        let mut store = Store::new(self.pre.engine(), state);
        let proxy = self.pre.instantiate_async(&mut store).await?;
        let (sender, head) = tokio::sync::oneshot::channel();
        let mut http = store.data_mut().http();
        let request = http.new_incoming_request(Scheme::Http, request)?;
        let out = http.new_response_outparam(sender)?;
        let handler = proxy.wasi_http_incoming_handler();
        handler.call_handle(&mut store, request, out).await?;
        let (head, body) = head.await??.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Response::from_parts(head, Full::new(body)))
    }
}

struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Denied,
    nn: WasiNnCtx,
}

/// Its guests send nothing.
struct Denied;

type Sent = Result<
    (
        Response<WasiBody>,
        Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ),
    HttpError,
>;

impl WasiHttpHooks for Denied {
    fn send_request(
        &mut self,
        _: Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(std::future::ready(Err(HttpError::HttpRequestDenied)))
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digits::Pictures;

    /// What makes a comparison one: the guest as it is, and the digits that it gives on a node of ours.
    #[tokio::test]
    async fn the_same_guest_gives_the_same_digits_on_the_synchronous_interface() {
        let guests = Guests::new(DeviceSpec::Cpu).await.unwrap();
        for question in Pictures::read().unwrap().pick(8, 3) {
            let request = Request::post("/")
                .header("host", "test")
                .header("content-type", "application/json")
                .body(Full::new(question.body.clone()))
                .unwrap();
            let answer = guests.answer(request).await.unwrap();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(question.is_answered_by(&body), "{body:?}");
        }
    }
}
