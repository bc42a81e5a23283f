//! A node for each test, on a port of its own, and a client that shows every byte.

mod served;
pub(crate) mod upstream;

pub(crate) use served::{Served, served, served_with};

use bytes::Bytes;
use shoal::sandbox::{
    CodeCache, Components, FunctionSource, FunctionVersion, Grants, LogRing, Registry, Sandbox,
    Tenant,
};
use shoal::store::Data;
use shoal::{Access, Config, Listeners, Parts, Seed, Trigger, shutdown};
use shoal_inference::{AnyDevice, Compute, CpuDevice, ModelSource, SimConfig, SimDevice};
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

/// Longest any test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Random bytes of one test: the seed is printed, and taken from `SHOAL_SEED` to play a failure again.
pub(crate) fn random() -> blake3::OutputReader {
    let seed = std::env::var("SHOAL_SEED").unwrap_or_else(|_| {
        use std::hash::{BuildHasher as _, RandomState};
        RandomState::new().hash_one(0).to_string()
    });
    println!("SHOAL_SEED={seed}");
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof()
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A built sample.
pub(crate) fn component(name: &str) -> Arc<[u8]> {
    let path = root().join(format!("samples/components/{name}.wasm"));
    std::fs::read(path).unwrap().into()
}

/// The bundled model.
pub(crate) fn digits() -> ModelSource {
    named("digits")
}

/// The bundled model under another name.
pub(crate) fn named(name: &str) -> ModelSource {
    let path = root().join("samples/models/digits/digits.onnx");
    ModelSource {
        name: name.to_owned(),
        onnx: std::fs::read(path).unwrap().into(),
        tokenizer: None,
        dry_runs: Vec::new(),
    }
}

/// A function that may use `digits`.
pub(crate) fn function(project: &str, name: &str, component: Arc<[u8]>) -> FunctionSource {
    FunctionSource {
        project: project.to_owned(),
        name: name.to_owned(),
        wasm: component,
        grants: Grants {
            models: BTreeSet::from(["digits".to_owned()]),
            ..Grants::default()
        },
    }
}

/// A simulated accelerator that computes the real graph.
pub(crate) fn simulated(launch: Duration, per_row: Duration) -> AnyDevice {
    SimDevice::new(SimConfig {
        name: "simulated".to_owned(),
        launch,
        per_row,
        depth: 2,
        memory_bytes: None,
        compute: Compute::Onnx,
        faults: Vec::new(),
    })
    .into()
}

/// Limits that suit a test: a small pool, short waits.
pub(crate) fn config() -> Config {
    Config {
        socket_threads: 2,
        background_threads: 1,
        guests_max: 64,
        invocation_timeout: Duration::from_secs(20),
        shutdown_grace: Duration::from_secs(10),
        // Children run when nothing else wants to, and tests may share the machine with a build.
        compile_timeout: Duration::from_secs(240),
        model_check_timeout: Duration::from_secs(240),
        compile_cpu_max: Duration::from_secs(60),
        compiler: PathBuf::from(env!("CARGO_BIN_EXE_shoal")),
        ..Config::default()
    }
}

/// A directory that nobody else can write to, whatever the umask.
pub(crate) fn private_directory() -> TempDir {
    tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .unwrap()
}

/// What a node maps components with, its compiled code in `directory`.
pub(crate) fn components(config: &Config, directory: &Path) -> Components {
    let sandbox = Arc::new(Sandbox::new(config).unwrap());
    let cache = CodeCache::open(directory, sandbox.engine()).unwrap();
    Components::new(sandbox, config, cache)
}

/// Makes a component the function `name` of `acme`, as a node does.
pub(crate) async fn put(
    registry: &Registry,
    components: &Components,
    tenant: &Arc<Tenant>,
    name: &str,
    component: Arc<[u8]>,
) {
    let wasm = Bytes::from_owner(component);
    let prepared = components.prepare(tenant.id, wasm.clone()).await;
    registry.put(FunctionVersion {
        project: "acme".into(),
        name: name.into(),
        tenant: tenant.clone(),
        number: 1,
        component: prepared.unwrap(),
        grants: Grants {
            models: BTreeSet::from(["digits".to_owned()]),
            ..Grants::default()
        },
        wasm: Arc::new(move || Box::pin(std::future::ready(Ok(wasm.clone())))),
    });
}

/// A running node; dropped, it stops.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    registry: Arc<Registry>,
    trigger: Option<Trigger>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// The parts of a node that most tests leave as they are.
pub(crate) fn parts(config: Config, functions: Vec<FunctionSource>) -> Parts {
    Parts {
        config,
        listeners: Listeners::one(TcpListener::bind("127.0.0.1:0").unwrap()),
        devices: vec![CpuDevice::new(NonZeroUsize::MIN).unwrap().into()],
        data: Data::in_memory().unwrap(),
        access: Access::Open,
        new_admin_key: false,
        seed: Seed {
            models: vec![digits(), named("private")],
            functions,
        },
    }
}

impl Node {
    /// The sample functions and the probe, for one tenant.
    pub(crate) fn start(config: Config) -> Self {
        let functions = ["hello", "echo", "digits", "probe"]
            .map(|name| function("acme", name, component(name)));
        Self::run(parts(config, functions.into()))
    }

    /// The probe alone, for `acme`, and `hello` for `birch`.
    pub(crate) fn with_probe(config: Config) -> Self {
        let functions = vec![
            function("acme", "probe", component("probe")),
            function("birch", "hello", component("hello")),
        ];
        Self::run(parts(config, functions))
    }

    /// Runs a node of `parts`; comes back when it is about to accept.
    pub(crate) fn run(parts: Parts) -> Self {
        let address = parts.listeners.functions.local_addr().unwrap();
        let (trigger, shutdown) = shutdown();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(shoal::run(parts, shutdown, |node| {
                    let _ = ready.send(node.registry.clone());
                }))
        });
        let Ok(registry) = is_ready.recv_timeout(10 * PATIENCE) else {
            panic!("the node did not start: {:?}", thread.join());
        };
        Self {
            address,
            registry,
            trigger: Some(trigger),
            thread: Some(thread),
        }
    }

    /// Starts a node that is expected to refuse; its words.
    pub(crate) fn refused(parts: Parts) -> String {
        let (trigger, shutdown) = shutdown();
        // Should it start after all, it ends at once.
        drop(trigger);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let ran = runtime.block_on(shoal::run(parts, shutdown, |_| {}));
        format!("{:#}", ran.expect_err("the node was to refuse"))
    }

    /// Asks for a drain; asked again, for a stop.
    pub(crate) fn trigger(&self) {
        self.trigger.as_ref().unwrap().again();
    }

    /// Waits until the node has ended by itself.
    pub(crate) fn wait(mut self) -> anyhow::Result<()> {
        self.thread.take().unwrap().join().unwrap()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    pub(crate) fn connect(&self) -> Client {
        Client::new(self.address)
    }

    /// The log of the function `project/name`.
    pub(crate) fn log(&self, key: &str) -> Arc<LogRing> {
        self.registry.get(key).unwrap().log.clone()
    }

    /// One GET on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.connect().get(path)
    }

    /// One POST on a connection of its own.
    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Reply {
        self.connect().request("POST", path, None, body)
    }

    /// The value of a metric without labels, or of the line that starts with `name`.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").text();
        page.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no metric {name} in\n{page}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(trigger) = self.trigger.take() {
            trigger.stop();
        }
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as its framing said it would.
    pub(crate) complete: bool,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Code of an answer in our error shape, which is checked.
    pub(crate) fn error_code(&self) -> String {
        let json = self.json();
        let fields: Vec<_> = json["error"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(fields, ["code", "message", "param", "type"], "{json}");
        json["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// One connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Writes bytes as they are. A socket that was closed meanwhile shows at the next read.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.request("GET", path, None, b"")
    }

    /// One request, with a key if there is one.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &[u8],
    ) -> Reply {
        let key = key.map_or(String::new(), |key| {
            format!("authorization: Bearer {key}\r\n")
        });
        let length = if body.is_empty() && method == "GET" {
            String::new()
        } else {
            format!("content-length: {}\r\n", body.len())
        };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{key}{length}\r\n");
        self.send(head.as_bytes());
        self.send(body);
        self.reply()
    }

    /// Reads one answer to a request that was not HEAD.
    pub(crate) fn reply(&mut self) -> Reply {
        let mut reply = self.head();
        let length = reply.header("content-length").map(|n| n.parse().unwrap());
        if reply.header("transfer-encoding") == Some("chunked") {
            reply.complete = self.chunks(&mut reply.body);
        } else if let Some(length) = length {
            reply.complete = self.exactly(length, &mut reply.body);
        }
        reply
    }

    /// Reads one head.
    pub(crate) fn head(&mut self) -> Reply {
        let head = self.until(b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap();
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Reply {
            status,
            headers,
            body: Vec::new(),
            complete: true,
        }
    }

    /// Reads the head of a request, for a server; `None` at the end.
    pub(crate) fn request_head(&mut self) -> Option<String> {
        let head = self.until(b"\r\n\r\n")?;
        Some(String::from_utf8(head).unwrap())
    }

    /// Reads one chunk of a chunked body; `None` when the connection broke, empty at the end.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.until(b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).unwrap();
        let mut chunk = Vec::new();
        let whole = self.exactly(size + 2, &mut chunk);
        chunk.truncate(size);
        whole.then_some(chunk)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            match self.chunk() {
                Some(chunk) if chunk.is_empty() => return true,
                Some(chunk) => body.extend(chunk),
                None => return false,
            }
        }
    }

    /// Bytes up to and including `end`; `None` if the connection ends first.
    fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end) {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            self.more()?;
        }
    }

    /// Reads so many bytes; whether there were as many.
    pub(crate) fn exactly(&mut self, length: usize, into: &mut Vec<u8>) -> bool {
        while self.buffer.len() < length {
            if self.more().is_none() {
                into.append(&mut self.buffer);
                return false;
            }
        }
        into.extend(self.buffer.drain(..length));
        true
    }

    fn more(&mut self) -> Option<()> {
        let mut bytes = [0; 64 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => None,
            Ok(n) => {
                self.buffer.extend_from_slice(&bytes[..n]);
                Some(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("nothing came within {PATIENCE:?}: {error}"),
        }
    }

    /// Whether the node closes this connection without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && self.more().is_none()
    }
}
