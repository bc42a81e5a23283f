//! The seam between engine and device, over a socket: nothing but plain data crosses it, and nobody can tell.

use crate::device_conformance::{cpu, identity_spec, instant};
use crate::support::onnx_file::identity;
use crate::support::remote::over_a_socket;
use crate::support::start;
use shoal_inference::plan::{Command, Event, Rows, RowsDone, RunError, TensorRef, Ticket};
use shoal_inference::{
    Class, Compute, Config, DType, Device, Error, Inference, ModelId, ModelSource, Reply, Request,
    TenantId, Tensor, start_thread,
};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[test]
fn every_message_reads_back_as_it_was_written() {
    let tensor = TensorRef {
        dtype: DType::BF16,
        dims: vec![0, u32::MAX],
        offset: u64::MAX,
        len: 0,
    };
    let plan = Rows {
        model: ModelId(1),
        requests: vec![vec![tensor.clone()], vec![]],
    };
    let commands = [
        Command::Load { model: ModelId(7) },
        Command::Unload { model: ModelId(7) },
        Command::Submit {
            ticket: Ticket(u64::MAX),
            plan,
            remaining: Duration::new(3, 999_999_999),
        },
        Command::Cancel { ticket: Ticket(0) },
    ];
    for command in commands {
        let written = serde_json::to_vec(&command).unwrap();
        assert_eq!(
            serde_json::from_slice::<Command>(&written).unwrap(),
            command
        );
    }
    let model = ModelId(7);
    let ticket = Ticket(1);
    let done = RowsDone {
        requests: vec![vec![tensor]],
        device_ns: u64::MAX,
    };
    let results = [
        Ok(done),
        Err(RunError::Failed("no \"such\" axis\n".to_owned())),
        Err(RunError::OutOfMemory),
        Err(RunError::Cancelled),
    ];
    let outcomes = results.map(|result| Event::Outcome { ticket, result });
    let loads = [Ok(identity_spec()), Err("no".to_owned())];
    let loads = loads.map(|result| Event::Loaded { model, result });
    let unloaded = Event::Unloaded { model };
    for event in outcomes.into_iter().chain(loads).chain([unloaded]) {
        let written = serde_json::to_vec(&event).unwrap();
        assert_eq!(serde_json::from_slice::<Event>(&written).unwrap(), event);
    }
}

fn identity_source() -> ModelSource {
    ModelSource {
        name: "identity".to_owned(),
        onnx: identity().into(),
        tokenizer: None,
        dry_runs: Vec::new(),
    }
}

/// The answers of 64 requests of 4 tenants, each of 1 to 3 rows of its own.
async fn answers<D: Device>(device: D) -> Vec<Result<Vec<(String, Tensor)>, Error>> {
    let (inference, _engine) = start(Config::default(), vec![device]);
    let model = inference.load(identity_source()).await.unwrap().id;
    let mut callers = JoinSet::new();
    for n in 0..64_u16 {
        let rows = 1 + u32::from(n % 3);
        let values: Vec<f32> = (0..rows * 3).map(|at| f32::from(n) + at as f32).collect();
        let request = Request {
            tenant: TenantId(u64::from(n % 4)),
            model,
            class: Class::Default,
            deadline: Instant::now() + Duration::from_secs(60),
            inputs: vec![("x".to_owned(), Tensor::f32(vec![rows, 3], &values).unwrap())],
        };
        let inference = inference.clone();
        callers.spawn(async move { (n, inference.submit(request).await) });
    }
    let mut answers: Vec<(u16, Result<Reply, Error>)> = callers.join_all().await;
    answers.sort_by_key(|(n, _)| *n);
    answers
        .into_iter()
        .map(|(_, answer)| answer.map(|reply| reply.outputs))
        .collect()
}

#[tokio::test]
async fn a_device_behind_a_socket_answers_as_in_this_process() {
    let mut host = JoinSet::new();
    let echo = || instant(Compute::Echo(identity_spec()));
    let expected = answers(echo()).await;
    assert!(expected.iter().all(Result::is_ok));
    assert_eq!(answers(over_a_socket(echo(), &mut host)).await, expected);
    assert_eq!(answers(cpu()).await, expected);
    assert_eq!(answers(over_a_socket(cpu(), &mut host)).await, expected);
}

#[tokio::test]
async fn when_the_far_end_is_killed_callers_are_told() {
    let mut host = JoinSet::new();
    let hung = shoal_inference::SimDevice::new(shoal_inference::SimConfig {
        faults: vec![shoal_inference::Fault::HangRun(1)],
        compute: Compute::Echo(identity_spec()),
        ..crate::support::sim()
    });
    let device = over_a_socket(hung, &mut host);
    let (inference, _engine) = start(Config::default(), vec![device]);
    let model = inference.load(identity_source()).await.unwrap().id;
    let request = Request {
        tenant: TenantId(1),
        model,
        class: Class::Default,
        deadline: Instant::now() + Duration::from_secs(60),
        inputs: vec![("x".to_owned(), Tensor::f32(vec![1, 3], &[0.0; 3]).unwrap())],
    };
    let (answer, ()) = tokio::join!(inference.submit(request), async {
        while inference.stats().queued_rows > 0 {
            tokio::task::yield_now().await;
        }
        host.shutdown().await;
    });
    assert_eq!(answer, Err(Error::Stopped));
    assert!(!inference.is_live());
}

#[tokio::test]
async fn an_engine_on_a_thread_of_its_own_ends_with_its_last_handle() {
    let (inference, engine) = Inference::new(Config::default(), vec![cpu()]).unwrap();
    let thread = start_thread(engine).unwrap();
    assert_eq!(thread.thread().name(), Some("inference"));
    inference.load(identity_source()).await.unwrap();
    assert!(inference.is_live());
    drop(inference);
    thread.join().unwrap();
}
