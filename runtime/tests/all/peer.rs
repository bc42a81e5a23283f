//! The same unmodified guest on our asynchronous `wasi:nn` and on `wasmtime-wasi-nn` itself: the same answers.

use crate::support::{Node, component, config, digits, root};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use shoal_host::nn::{BoxFuture, Infer, OpenError};
use shoal_host::nn_peer;
use shoal_inference::{
    AnyDevice, CpuDevice, EmbedRequest, Error, Inference, ModelId, ModelSpec, NamedTensor, Request,
    TenantId, Tensor, start_thread,
};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use wasmtime::Store;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};
use wasmtime_wasi_nn::wit::{WasiNnCtx, WasiNnView};

struct Direct(Inference);

impl Infer for Direct {
    fn open(&self, name: String) -> BoxFuture<Result<ModelId, OpenError>> {
        let model = self.0.model(&name).map(|model| model.id);
        Box::pin(std::future::ready(model.ok_or(OpenError::Unknown)))
    }

    fn describe(&self, model: ModelId) -> BoxFuture<Result<ModelSpec, Error>> {
        let model = self.0.model_of(model).ok_or(Error::NotLoaded);
        Box::pin(std::future::ready(model.map(|model| model.spec.clone())))
    }

    fn infer(
        &self,
        model: ModelId,
        inputs: Vec<NamedTensor>,
    ) -> BoxFuture<Result<Vec<NamedTensor>, Error>> {
        let inference = self.0.clone();
        Box::pin(async move {
            let request = Request {
                tenant: TenantId(1),
                model,
                deadline: Instant::now() + Duration::from_secs(10),
                inputs,
            };
            inference.submit(request).await.map(|reply| reply.outputs)
        })
    }

    fn embed(&self, model: ModelId, texts: Vec<String>) -> BoxFuture<Result<Tensor, Error>> {
        let inference = self.0.clone();
        Box::pin(async move {
            let request = EmbedRequest {
                tenant: TenantId(1),
                model,
                deadline: Instant::now() + Duration::from_secs(10),
                texts,
            };
            inference.embed(request).await.map(|reply| reply.vectors)
        })
    }
}

struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Denied,
    nn: WasiNnCtx,
}

struct Denied;

type Sent = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ),
    HttpError,
>;

impl WasiHttpHooks for Denied {
    fn send_request(
        &mut self,
        _: http::Request<WasiBody>,
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

/// The digits sample on `wasmtime-wasi-nn`, asked with one body.
async fn on_the_peer(
    linker: &Linker<State>,
    digits: &Component,
    nn: WasiNnCtx,
    body: String,
) -> Bytes {
    let state = State {
        table: ResourceTable::new(),
        wasi: WasiCtx::builder().build(),
        http: WasiHttpCtx::new(),
        hooks: Denied,
        nn,
    };
    let mut store = Store::new(linker.engine(), state);
    let proxy = Proxy::instantiate_async(&mut store, digits, linker)
        .await
        .unwrap();
    let request = http::Request::post("/")
        .header("host", "test")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let (sender, head) = tokio::sync::oneshot::channel();
    let request = store
        .data_mut()
        .http()
        .new_incoming_request(Scheme::Http, request)
        .unwrap();
    let out = store
        .data_mut()
        .http()
        .new_response_outparam(sender)
        .unwrap();
    let handler = proxy.wasi_http_incoming_handler();
    handler.call_handle(&mut store, request, out).await.unwrap();
    let response = head.await.unwrap().unwrap();
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn a_guest_gets_the_same_answers_from_the_synchronous_peer() {
    let devices: Vec<AnyDevice> = vec![CpuDevice::new(NonZeroUsize::MIN).unwrap().into()];
    let (inference, engine) = Inference::new(config().inference, devices).unwrap();
    start_thread(engine).unwrap();
    let models = [inference.load(digits()).await.unwrap()];
    let host: Arc<dyn Infer> = Arc::new(Direct(inference));

    let engine = wasmtime::Engine::default();
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
    wasmtime_wasi_nn::wit::add_to_linker(&mut linker, |state: &mut State| {
        WasiNnView::new(&mut state.table, &mut state.nn)
    })
    .unwrap();
    let component = Component::new(&engine, component("digits")).unwrap();

    let node = Node::start(config());
    let fixture = std::fs::read(root().join("samples/models/digits/fixture.json")).unwrap();
    let fixture: serde_json::Value = serde_json::from_slice(&fixture).unwrap();
    for image in fixture["images"].as_array().unwrap().iter().take(8) {
        let body = serde_json::json!({ "image": image }).to_string();
        let ours = node.post("/f/acme/digits/", body.as_bytes());
        let nn = nn_peer::context(&host, &models);
        let theirs = on_the_peer(&linker, &component, nn, body).await;
        assert_eq!(ours.status, 200);
        assert_eq!(ours.body, theirs);
    }
}
