//! The seam between gateway and sandbox, driven over a socket pair: one side has the guests and no identity, the other has
//! the tenants, the grants and the engine and no guests. All that passes between them is `sandbox::messages`.

use crate::compass;
use crate::support::{component, components, config, digits, private_directory, put, root};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal::sandbox::messages::{
    Answer, Ask, BodyChunk, End, FromSandbox, HostCall, HostReply, InvocationId, Start, ToSandbox,
    pack, unpack,
};
use shoal::sandbox::{Bound, Function, LogWriter, Registry, Runner, Tenant};
use shoal_host::nn::{BoxFuture, Infer, OpenError, Outcomes};
use shoal_inference::{
    AnyDevice, Class, CpuDevice, EmbedRequest, Error, Inference, ModelId, ModelSource, ModelSpec,
    NamedTensor, Request, TenantId, Tensor, start_thread,
};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A message and its payload, each behind its length.
async fn write_frame(to: &mut OwnedWriteHalf, message: &impl Serialize, payload: &[u8]) {
    let header = serde_json::to_vec(message).unwrap();
    to.write_u32(header.len() as u32).await.unwrap();
    to.write_u32(payload.len() as u32).await.unwrap();
    to.write_all(&header).await.unwrap();
    to.write_all(payload).await.unwrap();
}

/// `None` when the other side is gone.
async fn read_frame<M: DeserializeOwned>(from: &mut OwnedReadHalf) -> Option<(M, Vec<u8>)> {
    let header = from.read_u32().await.ok()? as usize;
    let payload = from.read_u32().await.ok()? as usize;
    let mut bytes = vec![0; header + payload];
    from.read_exact(&mut bytes).await.ok()?;
    let payload = bytes.split_off(header);
    Some((serde_json::from_slice(&bytes).unwrap(), payload))
}

/// A request's body that arrives in messages.
struct Chunks(mpsc::Receiver<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(cx)
            .map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
    }
}

type Outbox = mpsc::Sender<(FromSandbox, Vec<u8>)>;
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<(Answer, Vec<u8>)>>>>;

/// Host calls of one invocation, as messages.
struct Remote {
    invocation: InvocationId,
    next: AtomicU64,
    outbox: Outbox,
    waiting: Waiting,
}

impl Remote {
    fn ask(&self, ask: Ask, payload: Vec<u8>) -> BoxFuture<(Answer, Vec<u8>)> {
        let call = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.waiting.lock().unwrap().insert(call, reply);
        let call = HostCall {
            invocation: self.invocation,
            call,
            ask,
        };
        let outbox = self.outbox.clone();
        Box::pin(async move {
            outbox
                .send((FromSandbox::Call(call), payload))
                .await
                .unwrap();
            answer.await.unwrap()
        })
    }
}

impl Infer for Remote {
    fn open(&self, name: String) -> BoxFuture<Result<ModelId, OpenError>> {
        let asked = self.ask(Ask::Open { model: name }, Vec::new());
        Box::pin(async move {
            match asked.await.0 {
                Answer::Opened(model) => Ok(model),
                _ => Err(OpenError::Unknown),
            }
        })
    }

    fn describe(&self, model: ModelId) -> BoxFuture<Result<ModelSpec, Error>> {
        let asked = self.ask(Ask::Describe { model }, Vec::new());
        Box::pin(async move {
            match asked.await.0 {
                Answer::Described(spec) => Ok(spec),
                _ => Err(Error::NotLoaded),
            }
        })
    }

    fn infer(
        &self,
        model: ModelId,
        inputs: Vec<NamedTensor>,
    ) -> BoxFuture<Result<Vec<NamedTensor>, Error>> {
        let mut payload = Vec::new();
        let inputs = pack(inputs, &mut payload);
        let asked = self.ask(Ask::Infer { model, inputs }, payload);
        Box::pin(async move {
            match asked.await {
                (Answer::Inferred(outputs), payload) => Ok(unpack(outputs, &payload)?),
                (Answer::Refused { message, .. }, _) => Err(Error::Invalid(message)),
                _ => Err(Error::Stopped),
            }
        })
    }

    fn infer_many(&self, model: ModelId, requests: Vec<Vec<NamedTensor>>) -> BoxFuture<Outcomes> {
        let asked: Vec<_> = requests
            .into_iter()
            .map(|inputs| self.infer(model, inputs))
            .collect();
        Box::pin(async move {
            let mut outcomes = Vec::new();
            for asked in asked {
                outcomes.push(asked.await);
            }
            outcomes
        })
    }

    fn embed(&self, model: ModelId, texts: Vec<String>) -> BoxFuture<Result<Tensor, Error>> {
        let asked = self.ask(Ask::Embed { model, texts }, Vec::new());
        Box::pin(async move {
            match asked.await {
                (Answer::Embedded(vectors), payload) => {
                    let named = unpack(vec![(String::new(), vectors)], &payload)?;
                    Ok(named.into_iter().next().unwrap().1)
                }
                (Answer::Refused { message, .. }, _) => Err(Error::Invalid(message)),
                _ => Err(Error::Stopped),
            }
        })
    }
}

/// The side with the guests: what `shoal sandbox` will be.
async fn sandbox(stream: UnixStream, runner: Arc<Runner>, function: Arc<Function>) {
    let (mut from, mut to) = stream.into_split();
    let (outbox, mut outgoing) = mpsc::channel::<(FromSandbox, Vec<u8>)>(16);
    let waiting = Waiting::default();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some((message, payload)) = outgoing.recv().await {
            write_frame(&mut to, &message, &payload).await;
        }
    });
    let mut bodies = HashMap::new();
    while let Some((message, payload)) = read_frame::<ToSandbox>(&mut from).await {
        match message {
            ToSandbox::Start(start) => {
                assert_eq!(start.component, function.component);
                let (body, chunks) = mpsc::channel(4);
                bodies.insert(start.invocation, body);
                let remote = Remote {
                    invocation: start.invocation,
                    next: AtomicU64::new(1),
                    outbox: outbox.clone(),
                    waiting: waiting.clone(),
                };
                let id = start.invocation;
                let bound = Bound {
                    host: Arc::new(remote),
                    log: LogWriter::new(
                        function.log.clone(),
                        function.component,
                        HeaderValue::from_static("req_seam"),
                    ),
                    account: Arc::new(()),
                };
                let invoked = runner.invoke(function.clone(), *start, Chunks(chunks), bound);
                tasks.spawn(answer(id, invoked.unwrap(), outbox.clone()));
            }
            ToSandbox::Body(chunk) => {
                let _ = bodies[&chunk.invocation].send(payload.into()).await;
                if chunk.last {
                    bodies.remove(&chunk.invocation);
                }
            }
            ToSandbox::Reply(reply) => {
                let waiting = waiting.lock().unwrap().remove(&reply.call).unwrap();
                waiting.send((reply.answer, payload)).unwrap();
            }
            ToSandbox::Credit { .. } | ToSandbox::Cancel(_) => {}
        }
    }
    tasks.shutdown().await;
}

async fn answer(id: InvocationId, invocation: shoal::sandbox::Invocation, outbox: Outbox) {
    let cpu = invocation.cpu();
    let result = async {
        let response = invocation.answer().await?.response;
        let head = FromSandbox::Head {
            invocation: id,
            status: response.status(),
            headers: response.headers().clone(),
        };
        outbox.send((head, Vec::new())).await.unwrap();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let data = frame.map_err(|error| error.0)?.into_data().unwrap();
            let chunk = BodyChunk {
                invocation: id,
                last: false,
            };
            outbox
                .send((FromSandbox::Body(chunk), data.to_vec()))
                .await
                .unwrap();
        }
        Ok(())
    };
    let end = End {
        invocation: id,
        result: result.await,
        cpu: cpu.used(),
    };
    outbox
        .send((FromSandbox::End(end), Vec::new()))
        .await
        .unwrap();
}

/// The side with the tenants: whose an invocation is, is known here and in no message.
struct Gateway {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    inference: Inference,
    tenants: HashMap<InvocationId, TenantId>,
}

impl Gateway {
    /// One request in chunks; status and body of the answer, and how it ended.
    async fn request(&mut self, start: Start, chunks: &[&[u8]]) -> (StatusCode, Vec<u8>, End) {
        let invocation = start.invocation;
        self.tenants.insert(invocation, TenantId(7));
        write_frame(&mut self.to, &ToSandbox::Start(Box::new(start)), b"").await;
        for (n, chunk) in chunks.iter().enumerate() {
            let last = n + 1 == chunks.len();
            let message = ToSandbox::Body(BodyChunk { invocation, last });
            write_frame(&mut self.to, &message, chunk).await;
        }
        let (mut status, mut body) = (StatusCode::IM_A_TEAPOT, Vec::new());
        loop {
            let (message, payload) = read_frame::<FromSandbox>(&mut self.from).await.unwrap();
            match message {
                FromSandbox::Head { status: head, .. } => status = head,
                FromSandbox::Body(_) => body.extend(payload),
                FromSandbox::Call(call) => self.call(call, &payload).await,
                FromSandbox::Credit { .. } => {}
                FromSandbox::End(end) => {
                    assert_eq!(end.invocation, invocation);
                    return (status, body, end);
                }
            }
        }
    }

    async fn call(&mut self, call: HostCall, payload: &[u8]) {
        let tenant = self.tenants[&call.invocation];
        let mut outputs = Vec::new();
        let answer = match call.ask {
            Ask::Open { model } => Answer::Opened(self.inference.model(&model).unwrap().id),
            Ask::Infer { model, inputs } => {
                let request = Request {
                    tenant,
                    model,
                    class: Class::Default,
                    deadline: Instant::now() + Duration::from_secs(10),
                    inputs: unpack(inputs, payload).unwrap(),
                };
                let reply = self.inference.submit(request).await.unwrap();
                Answer::Inferred(pack(reply.outputs, &mut outputs))
            }
            Ask::Describe { model } => {
                Answer::Described(self.inference.model_of(model).unwrap().spec.clone())
            }
            Ask::Embed { model, texts } => {
                let request = EmbedRequest {
                    tenant,
                    model,
                    class: Class::Default,
                    deadline: Instant::now() + Duration::from_secs(10),
                    texts,
                };
                let reply = self.inference.embed(request).await.unwrap();
                let vectors = pack(vec![(String::new(), reply.vectors)], &mut outputs);
                Answer::Embedded(vectors.into_iter().next().unwrap().1)
            }
        };
        let reply = HostReply {
            invocation: call.invocation,
            call: call.call,
            answer,
        };
        write_frame(&mut self.to, &ToSandbox::Reply(reply), &outputs).await;
    }
}

fn start(function: &Function, id: u64) -> Start {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("test"));
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    Start {
        invocation: InvocationId(id),
        component: function.component,
        method: Method::POST,
        uri: Uri::from_static("/some/path?q"),
        headers,
        remaining: Duration::from_secs(10),
    }
}

/// What the sample `embed` takes for its model.
fn compass() -> ModelSource {
    ModelSource {
        name: "minilm".to_owned(),
        onnx: compass::onnx().into(),
        tokenizer: Some(compass::tokenizer(512).into()),
        dry_runs: Vec::new(),
    }
}

/// Both sides for the sample `name`, with `test` on the gateway's.
async fn with_pair<F>(name: &str, test: impl FnOnce(Gateway, Arc<Function>) -> F)
where
    F: Future<Output = ()>,
{
    let config = config();
    let devices: Vec<AnyDevice> = vec![CpuDevice::new(NonZeroUsize::MIN).unwrap().into()];
    let (inference, engine) = Inference::new(config.inference.clone(), devices).unwrap();
    start_thread(engine).unwrap();
    inference.load(digits()).await.unwrap();
    inference.load(compass()).await.unwrap();
    let directory = private_directory();
    let components = Arc::new(components(&config, directory.path()));
    let runner = Arc::new(Runner::new(components.clone(), &config));
    let registry = Registry::new(components.sandbox(), &config);
    let tenant = Tenant::new(TenantId(1));
    put(&registry, &components, &tenant, name, component(name)).await;
    let function = registry.get(&format!("acme/{name}")).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (from, to) = ours.into_split();
    let gateway = Gateway {
        from,
        to,
        inference,
        tenants: HashMap::new(),
    };
    let sandbox = sandbox(theirs, runner, function.clone());
    tokio::join!(sandbox, test(gateway, function));
}

#[tokio::test]
async fn bodies_pass_both_ways_as_messages() {
    with_pair("echo", |mut gateway, function| async move {
        for id in 1..4 {
            let chunks: [&[u8]; 3] = [b"first ", b"second ", b"third"];
            let (status, body, end) = gateway.request(start(&function, id), &chunks).await;
            assert_eq!(
                (status, body.as_slice()),
                (StatusCode::OK, &b"first second third"[..])
            );
            assert_eq!(end.result, Ok(()));
            assert!(end.cpu > Duration::ZERO);
        }
    })
    .await;
}

#[tokio::test]
async fn a_guest_has_texts_embedded_on_the_other_side() {
    with_pair("embed", |mut gateway, function| async move {
        let body = br#"{"texts": ["west", "north far"]}"#;
        let (status, body, _) = gateway.request(start(&function, 1), &[body]).await;
        assert_eq!(status, StatusCode::OK);
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["vectors"][0], serde_json::json!([-1.0, 0.0]));
    })
    .await;
}

#[tokio::test]
async fn a_guest_runs_its_model_on_the_other_side() {
    let fixture = root().join("samples/models/digits/fixture.json");
    let fixture: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
    with_pair("digits", |mut gateway, function| async move {
        for id in 0..8 {
            let image = serde_json::json!({ "image": fixture["images"][id as usize] });
            let body = image.to_string();
            let (status, body, end) = gateway
                .request(start(&function, id), &[body.as_bytes()])
                .await;
            assert_eq!(status, StatusCode::OK);
            let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(answer["digit"], fixture["labels"][id as usize]);
            assert_eq!(end.result, Ok(()));
        }
    })
    .await;
}

#[test]
fn a_reference_outside_its_payload_is_refused() {
    use shoal_inference::DType;
    use shoal_inference::plan::TensorRef;
    for (offset, len) in [(0, 9), (1, 8), (u64::MAX, 8), (8, u64::MAX), (9, 0)] {
        let reference = TensorRef {
            dtype: DType::F32,
            dims: vec![2],
            offset,
            len,
        };
        let unpacked = unpack(vec![("x".to_owned(), reference)], &[0; 8]);
        assert!(unpacked.is_err(), "{offset} {len}");
    }
}
