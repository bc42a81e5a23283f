//! What every device must do, whatever it is and wherever it runs. The model is an identity over `[batch, 3]`, so that a
//! device that computes and one that gives back are held to the same values.

use crate::support::onnx_file::{Graph, INT64, identity, node};
use crate::support::remote::over_a_socket;
use crate::support::sim;
use shoal_inference::plan::{Command, Event, Rows, RowsDone, RunError, TensorRef, Ticket};
use shoal_inference::{
    Compute, CpuDevice, DType, Device, ModelId, ModelSpec, Payload, Port, SimConfig, SimDevice,
};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

const MODEL: ModelId = ModelId(3);
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn identity_spec() -> ModelSpec {
    let port = |name: &str| Port {
        name: name.to_owned(),
        dtype: DType::F32,
        dims: vec![None, Some(3)],
    };
    ModelSpec {
        inputs: vec![port("x")],
        outputs: vec![port("y")],
        batchable: true,
    }
}

/// A simulated device that takes no time, for tests over sockets and threads.
pub(crate) fn instant(compute: Compute) -> SimDevice {
    SimDevice::new(SimConfig {
        launch: Duration::ZERO,
        per_row: Duration::ZERO,
        compute,
        ..sim()
    })
}

pub(crate) fn cpu() -> CpuDevice {
    CpuDevice::new(NonZeroUsize::MIN).expect("a thread")
}

#[tokio::test(start_paused = true)]
async fn a_simulated_device_conforms() {
    let sim = |compute| SimDevice::new(SimConfig { compute, ..sim() });
    device_conformance(sim(Compute::Echo(identity_spec()))).await;
    device_conformance(sim(Compute::Onnx)).await;
    files_that_are_no_models(sim(Compute::Onnx)).await;
}

#[tokio::test]
async fn the_cpu_conforms() {
    device_conformance(cpu()).await;
    files_that_are_no_models(cpu()).await;
}

#[tokio::test]
async fn the_cpu_with_several_threads_conforms() {
    let threads = NonZeroUsize::new(3).expect("is not 0");
    device_conformance(CpuDevice::new(threads).expect("threads")).await;
}

#[tokio::test]
async fn devices_behind_a_socket_conform() {
    let mut host = JoinSet::new();
    device_conformance(over_a_socket(cpu(), &mut host)).await;
    let echo = instant(Compute::Echo(identity_spec()));
    device_conformance(over_a_socket(echo, &mut host)).await;
    files_that_are_no_models(over_a_socket(cpu(), &mut host)).await;
}

/// The suite. `device` is fresh.
pub(crate) async fn device_conformance(device: impl Device) {
    assert!(!device.describe().name.is_empty());
    let mut bench = Bench {
        device,
        last_ticket: 0,
    };
    bench.load().await;
    bench.each_request_gets_its_own_rows().await;
    bench.rows_may_lie_anywhere_in_the_payload().await;
    bench.two_in_flight_end_in_order().await;
    bench.a_cancelled_run_has_one_outcome().await;
    bench.a_dropped_recv_loses_nothing().await;
    bench.plans_that_do_not_fit_fail_and_nothing_else().await;
    bench.runs_well().await;
    bench
        .a_model_that_was_let_go_is_not_run_until_it_is_loaded_again()
        .await;
}

fn outcome_of(
    of: Ticket,
    answer: Option<(Event, Payload)>,
) -> (Result<RowsDone, RunError>, Payload) {
    let (event, payload) = answer.expect("the device lives");
    let Event::Outcome { ticket, result } = event else {
        panic!("expected an outcome, got {event:?}");
    };
    assert_eq!(ticket, of);
    (result, payload)
}

struct Bench<D> {
    device: D,
    last_ticket: u64,
}

/// A tensor of so many rows, counting up from `first`, appended to the payload.
fn put(payload: &mut Vec<u8>, rows: u32, first: f32) -> TensorRef {
    let offset = payload.len() as u64;
    for n in 0..rows * 3 {
        payload.extend((first + n as f32).to_le_bytes());
    }
    TensorRef {
        dtype: DType::F32,
        dims: vec![rows, 3],
        offset,
        len: u64::from(rows) * 12,
    }
}

/// One request of so many rows.
fn plan_of(rows: u32) -> (Vec<Vec<TensorRef>>, Vec<u8>) {
    let mut payload = Vec::new();
    let tensor = put(&mut payload, rows, 0.5);
    (vec![vec![tensor]], payload)
}

impl<D: Device> Bench<D> {
    async fn load(&mut self) {
        self.load_as(MODEL).await;
    }

    async fn load_as(&mut self, model: ModelId) {
        let file = Payload::Shared(identity().into());
        let result = Ok(identity_spec());
        self.change(
            Command::Load { model },
            file,
            Event::Loaded { model, result },
        )
        .await;
    }

    async fn unload(&mut self, model: ModelId) {
        let unloaded = Event::Unloaded { model };
        self.change(Command::Unload { model }, Payload::empty(), unloaded)
            .await;
    }

    async fn change(&mut self, command: Command, payload: Payload, answer: Event) {
        self.device
            .send(command, payload)
            .expect("the device lives");
        let (event, payload) = self.device.recv().await.expect("the device lives");
        assert_eq!(event, answer);
        assert!(payload.is_empty());
    }

    fn submit(&mut self, requests: Vec<Vec<TensorRef>>, payload: Vec<u8>) -> Ticket {
        let plan = Rows {
            model: MODEL,
            requests,
        };
        self.submit_plan(plan, payload, MINUTE)
    }

    fn submit_plan(&mut self, plan: Rows, payload: Vec<u8>, remaining: Duration) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let command = Command::Submit {
            ticket,
            plan,
            remaining,
        };
        self.device
            .send(command, Payload::Owned(payload))
            .expect("the device lives");
        ticket
    }

    async fn outcome(&mut self, of: Ticket) -> (Result<RowsDone, RunError>, Payload) {
        let answer = self.device.recv().await;
        outcome_of(of, answer)
    }

    /// Runs it and compares every request's output with its input.
    async fn check(&mut self, requests: Vec<Vec<TensorRef>>, payload: Vec<u8>) {
        let ticket = self.submit(requests.clone(), payload.clone());
        let (result, answer) = self.outcome(ticket).await;
        let done = result.expect("the run ends well");
        assert_eq!(done.requests.len(), requests.len());
        for (outputs, inputs) in done.requests.iter().zip(&requests) {
            let [output] = outputs.as_slice() else {
                panic!("expected one output, got {}", outputs.len());
            };
            assert_eq!((output.dtype, &output.dims), (DType::F32, &inputs[0].dims));
            assert_eq!(
                output.bytes(&answer).expect("lies in the payload"),
                inputs[0].bytes(&payload).expect("lies in the payload")
            );
        }
    }

    async fn runs_well(&mut self) {
        let (requests, payload) = plan_of(2);
        self.check(requests, payload).await;
    }

    async fn each_request_gets_its_own_rows(&mut self) {
        let mut payload = Vec::new();
        let rows = [1, 4, 2, 1].into_iter().zip([0.0, 100.0, 200.0, 300.0]);
        let requests = rows.map(|(rows, first)| vec![put(&mut payload, rows, first)]);
        let requests = requests.collect();
        self.check(requests, payload).await;
    }

    async fn rows_may_lie_anywhere_in_the_payload(&mut self) {
        // At an odd offset, with gaps and a tail, the second before the first.
        let mut payload = vec![0xff; 5];
        let second = put(&mut payload, 2, 20.0);
        payload.extend([0xff; 3]);
        let first = put(&mut payload, 1, 10.0);
        payload.extend([0xff; 64]);
        self.check(vec![vec![first.clone()], vec![second]], payload.clone())
            .await;
        // The same rows for two requests.
        self.check(vec![vec![first.clone()], vec![first]], payload)
            .await;
    }

    async fn two_in_flight_end_in_order(&mut self) {
        let (requests, payload) = plan_of(1);
        let first = self.submit(requests.clone(), payload.clone());
        let second = self.submit(requests, payload);
        for ticket in [first, second] {
            let (result, _) = self.outcome(ticket).await;
            assert!(result.is_ok());
        }
    }

    async fn a_cancelled_run_has_one_outcome(&mut self) {
        let (requests, payload) = plan_of(1);
        let first = self.submit(requests.clone(), payload.clone());
        let second = self.submit(requests, payload);
        for ticket in [second, Ticket(u64::MAX)] {
            self.device
                .send(Command::Cancel { ticket }, Payload::empty())
                .expect("the device lives");
        }
        let (result, _) = self.outcome(first).await;
        assert!(result.is_ok());
        // It may have begun before the cancellation came.
        let (result, _) = self.outcome(second).await;
        assert!(matches!(result, Ok(_) | Err(RunError::Cancelled)));
        self.runs_well().await;
    }

    async fn a_dropped_recv_loses_nothing(&mut self) {
        let (requests, payload) = plan_of(1);
        let ticket = self.submit(requests, payload);
        let mut answer = None;
        for _ in 0..10 {
            // Asked once and dropped, whether it was ready or not.
            answer = timeout(Duration::ZERO, self.device.recv()).await.ok();
            if answer.is_some() {
                break;
            }
        }
        let answer = match answer {
            Some(answer) => answer,
            None => self.device.recv().await,
        };
        assert!(outcome_of(ticket, answer).0.is_ok());
    }

    async fn a_model_that_was_let_go_is_not_run_until_it_is_loaded_again(&mut self) {
        let other = ModelId(4);
        self.load_as(other).await;
        self.unload(MODEL).await;
        // Let go twice, and what never came.
        self.unload(MODEL).await;
        self.unload(ModelId(5)).await;
        let (requests, payload) = plan_of(1);
        let ticket = self.submit(requests.clone(), payload.clone());
        let (result, _) = self.outcome(ticket).await;
        assert!(matches!(result, Err(RunError::Failed(_))), "{result:?}");
        let plan = Rows {
            model: other,
            requests,
        };
        let ticket = self.submit_plan(plan, payload, MINUTE);
        assert!(self.outcome(ticket).await.0.is_ok(), "the other is here");
        self.load().await;
        self.runs_well().await;
        self.unload(other).await;
    }

    async fn plans_that_do_not_fit_fail_and_nothing_else(&mut self) {
        type Change = fn(&mut Rows);
        let changes: [(&str, Change); 12] = [
            ("another model", |plan| plan.model = ModelId(9)),
            ("no requests", |plan| plan.requests.clear()),
            ("no inputs", |plan| plan.requests[0].clear()),
            ("an input too many", |plan| {
                let extra = plan.requests[0][0].clone();
                plan.requests[0].push(extra);
            }),
            ("an offset past the end", |plan| {
                plan.requests[0][0].offset = 1
            }),
            ("an offset that overflows", |plan| {
                plan.requests[0][0].offset = u64::MAX;
            }),
            ("a length past the end", |plan| {
                plan.requests[0][0].len = 1 << 40
            }),
            ("dimensions that ask for more", |plan| {
                plan.requests[0][0].dims = vec![1_000, 3];
            }),
            ("dimensions that overflow", |plan| {
                plan.requests[0][0].dims = vec![u32::MAX, 3];
                plan.requests[0][0].len = u64::MAX;
            }),
            ("another shape", |plan| {
                plan.requests[0][0].dims = vec![3, 2]
            }),
            ("another rank", |plan| plan.requests[0][0].dims = vec![6]),
            ("another element type", |plan| {
                plan.requests[0][0].dtype = DType::I32;
            }),
        ];
        for (what, change) in changes {
            let (requests, payload) = plan_of(2);
            let mut plan = Rows {
                model: MODEL,
                requests,
            };
            change(&mut plan);
            let ticket = self.submit_plan(plan, payload, MINUTE);
            let (result, _) = self.outcome(ticket).await;
            assert!(
                matches!(result, Err(RunError::Failed(_))),
                "{what}: {result:?}"
            );
            self.runs_well().await;
        }
    }
}

/// For devices that read the files: each is refused with a reason, and a good one still loads.
pub(crate) async fn files_that_are_no_models(mut device: impl Device) {
    let unknown = Graph::new()
        .input("x", INT64, "batch")
        .output("y", INT64, "batch")
        .node(node("NoSuchOperator", &["x"], &["y"]))
        .file();
    let half = identity().split_at(identity().len() / 2).0.to_vec();
    let files = [
        vec![],
        b"not a model".to_vec(),
        vec![0xff; 100],
        half,
        unknown,
    ];
    for file in files {
        let payload = Payload::Shared(Arc::from(file));
        device
            .send(Command::Load { model: MODEL }, payload)
            .expect("the device lives");
        let (event, _) = device.recv().await.expect("the device lives");
        let Event::Loaded { result, .. } = event else {
            panic!("expected an answer to the load, got {event:?}");
        };
        assert!(!result.expect_err("is no model").is_empty());
    }
    device_conformance(device).await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_would_begin_after_its_last_deadline_is_not_begun() {
    let mut bench = Bench {
        device: SimDevice::new(SimConfig {
            compute: Compute::Echo(identity_spec()),
            ..sim()
        }),
        last_ticket: 0,
    };
    bench.load().await;
    let began = tokio::time::Instant::now();
    let (requests, payload) = plan_of(1);
    let first = bench.submit(requests.clone(), payload.clone());
    let plan = Rows {
        model: MODEL,
        requests,
    };
    let second = bench.submit_plan(plan, payload, Duration::from_millis(4));
    assert!(bench.outcome(first).await.0.is_ok());
    assert_eq!(bench.outcome(second).await.0, Err(RunError::Cancelled));
    assert_eq!(began.elapsed(), Duration::from_millis(5));
}
