//! A node of simulated devices, and what its callers ask.

pub(crate) mod compass;
pub(crate) mod numbers;
pub(crate) mod onnx_file;
pub(crate) mod remote;
pub(crate) mod seed;

use shoal_inference::{
    Class, Compute, Config, DType, Device, Error, Fault, Inference, Model, ModelSource, ModelSpec,
    Port, Reply, Request, SimConfig, SimDevice, TenantId, Tensor,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// Rows of one f32 each, given back as they are.
pub(crate) fn echo_spec() -> ModelSpec {
    let port = |name: &str| Port {
        name: name.to_owned(),
        dtype: DType::F32,
        dims: vec![None, Some(1)],
    };
    ModelSpec {
        inputs: vec![port("x")],
        outputs: vec![port("y")],
        batchable: true,
    }
}

/// 4 ms a run and 1 ms a row: a batch of eight takes 12 ms.
pub(crate) fn sim() -> SimConfig {
    SimConfig {
        name: "sim".to_owned(),
        launch: 4 * MS,
        per_row: MS,
        depth: 2,
        memory_bytes: None,
        compute: Compute::Echo(echo_spec()),
        faults: Vec::new(),
    }
}

pub(crate) fn sim_with(faults: &[Fault]) -> SimDevice {
    SimDevice::new(SimConfig {
        faults: faults.to_vec(),
        ..sim()
    })
}

/// Batches of at most eight rows.
pub(crate) fn eight_rows() -> Config {
    Config {
        rows_max: 8,
        ..Config::default()
    }
}

/// An engine that runs, its handle, and one model, `echo`.
pub(crate) struct Node {
    pub(crate) inference: Inference,
    pub(crate) echo: Arc<Model>,
    pub(crate) engine: JoinSet<()>,
}

impl Node {
    /// One device as described, batches of eight rows.
    pub(crate) async fn of(device: SimConfig) -> Self {
        Self::start(eight_rows(), vec![SimDevice::new(device)]).await
    }

    pub(crate) async fn start<D: Device>(config: Config, devices: Vec<D>) -> Self {
        let (inference, engine) = start(config, devices);
        let echo = inference.load(source("echo")).await.expect("loads");
        Self {
            inference,
            echo,
            engine,
        }
    }

    /// A request of one row for each value.
    pub(crate) fn request(&self, tenant: u64, values: &[f32]) -> Request {
        request(&self.echo, tenant, values)
    }

    pub(crate) async fn ask(&self, tenant: u64, values: &[f32]) -> Result<Reply, Error> {
        self.inference.submit(self.request(tenant, values)).await
    }

    /// The same in a task, submitted as soon as this one waits.
    pub(crate) fn spawn_ask(&self, callers: &mut Callers, tenant: u64, values: &[f32]) {
        let inference = self.inference.clone();
        let request = self.request(tenant, values);
        callers.spawn(async move { inference.submit(request).await });
    }
}

/// Callers in tasks of their own.
pub(crate) type Callers = JoinSet<Result<Reply, Error>>;

/// Starts an engine, without models.
pub(crate) fn start<D: Device>(config: Config, devices: Vec<D>) -> (Inference, JoinSet<()>) {
    let (inference, engine) = Inference::new(config, devices).expect("valid");
    let mut tasks = JoinSet::new();
    tasks.spawn(engine.run());
    (inference, tasks)
}

/// A model for devices that do not look at the file.
pub(crate) fn source(name: &str) -> ModelSource {
    ModelSource {
        name: name.to_owned(),
        onnx: Arc::from([]),
        tokenizer: None,
        dry_runs: Vec::new(),
    }
}

/// One row for each value, due in a minute.
pub(crate) fn request(model: &Model, tenant: u64, values: &[f32]) -> Request {
    let rows = u32::try_from(values.len()).unwrap();
    Request {
        tenant: TenantId(tenant),
        model: model.id,
        class: Class::Default,
        deadline: Instant::now() + Duration::from_secs(60),
        inputs: vec![("x".to_owned(), Tensor::f32(vec![rows, 1], values).unwrap())],
    }
}

/// The values of the one output.
pub(crate) fn values(reply: &Reply) -> Vec<f32> {
    let [(name, tensor)] = reply.outputs.as_slice() else {
        panic!("expected one output, got {}", reply.outputs.len());
    };
    assert_eq!(name, "y");
    tensor.to_f32().expect("is f32")
}

/// Lets every task that can go on do so, without time passing.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn alive_tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}
