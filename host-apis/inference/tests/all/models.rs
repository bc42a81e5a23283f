//! Models that come and go while the engine serves.

use crate::support::numbers::Numbers;
use crate::support::seed::seed;
use crate::support::{MS, Node, eight_rows, request, settle, sim, sim_with, source, start, values};
use shoal_inference::plan::{Command, Event};
use shoal_inference::{
    Config, Device, DeviceGone, DeviceInfo, Error, Fault, LoadError, ModelSource, Payload,
    SimConfig, SimDevice, UnloadError,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// A model whose file has so many bytes.
fn sized(name: &str, bytes: usize) -> ModelSource {
    ModelSource {
        onnx: vec![0; bytes].into(),
        ..source(name)
    }
}

/// A simulated device with so many bytes of memory.
fn with_memory(memory_bytes: u64) -> SimDevice {
    SimDevice::new(SimConfig {
        memory_bytes: Some(memory_bytes),
        ..sim()
    })
}

fn duplicate(model: &str) -> LoadError {
    let model = model.to_owned();
    LoadError::Duplicate { model }
}

/// A simulated device that keeps the answer to each load back until it is let through.
struct Gated {
    device: SimDevice,
    held: Option<(Event, Payload)>,
    gate: Arc<Semaphore>,
    told: Arc<Mutex<Vec<Command>>>,
}

impl Gated {
    fn new(device: SimDevice) -> Self {
        Self {
            device,
            held: None,
            gate: Arc::new(Semaphore::new(0)),
            told: Arc::default(),
        }
    }
}

impl Device for Gated {
    fn describe(&self) -> DeviceInfo {
        self.device.describe()
    }

    fn send(&mut self, command: Command, payload: Payload) -> Result<(), DeviceGone> {
        self.told.lock().unwrap().push(command.clone());
        self.device.send(command, payload)
    }

    async fn recv(&mut self) -> Option<(Event, Payload)> {
        loop {
            tokio::select! {
                permit = self.gate.acquire(), if self.held.is_some() => {
                    permit.unwrap().forget();
                    return self.held.take();
                }
                answer = self.device.recv() => match answer {
                    Some((Event::Loaded { .. }, _)) => self.held = answer,
                    other => return other,
                },
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_is_in_the_catalogue_from_when_every_device_has_it_until_it_is_unloaded() {
    let (inference, _engine) = start(eight_rows(), vec![sim_with(&[]), sim_with(&[])]);
    assert_eq!(inference.models(), []);
    let first = inference.load(source("first")).await.unwrap();
    let second = inference.load(source("second")).await.unwrap();
    assert_eq!(inference.models(), [first.clone(), second.clone()]);
    assert_eq!(inference.model("second"), Some(second.clone()));
    assert_eq!(inference.model_of(second.id), Some(second.clone()));

    assert_eq!(inference.unload("first").await, Ok(()));
    assert_eq!(inference.models(), [second]);
    assert_eq!(inference.model("first"), None);
    assert_eq!(inference.model_of(first.id), None);
    let again = inference.unload("first").await;
    assert_eq!(again, Err(UnloadError::NotLoaded("first".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_node_without_models_is_live() {
    let (inference, engine) = start(eight_rows(), vec![sim_with(&[])]);
    settle().await;
    assert!(inference.is_live());
    drop(inference);
    engine.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_is_taken_once_however_close_two_loads_are() {
    let (inference, _engine) = start(eight_rows(), vec![sim_with(&[])]);
    let (one, other) = tokio::join!(inference.load(source("a")), inference.load(source("a")));
    let one = one.unwrap();
    assert_eq!(other, Err(duplicate("a")));
    assert_eq!(inference.load(source("a")).await, Err(duplicate("a")));
    assert_eq!(inference.models(), [one]);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_loaded_again_has_another_id() {
    let node = Node::of(sim()).await;
    node.inference.unload("echo").await.unwrap();
    let again = node.inference.load(source("echo")).await.unwrap();
    assert_ne!(again.id, node.echo.id);
    assert_eq!(node.ask(1, &[1.0]).await, Err(Error::NotLoaded));
    let reply = node.inference.submit(request(&again, 1, &[1.0])).await;
    assert_eq!(values(&reply.unwrap()), [1.0]);
}

#[tokio::test(start_paused = true)]
async fn what_one_device_cannot_load_is_taken_from_the_others_again() {
    let (inference, _engine) = start(eight_rows(), vec![with_memory(15), with_memory(10)]);
    let refused = LoadError::Model {
        model: "large".to_owned(),
        device: "sim".to_owned(),
        reason: "out of device memory".to_owned(),
    };
    assert_eq!(inference.load(sized("large", 11)).await, Err(refused));
    assert_eq!(inference.models(), []);
    // 11 and 9 bytes would be too many for the first device.
    inference.load(sized("small", 9)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unloaded_model_leaves_its_memory_to_others() {
    let (inference, _engine) = start(eight_rows(), vec![with_memory(10)]);
    inference.load(sized("a", 6)).await.unwrap();
    assert!(inference.load(sized("b", 5)).await.is_err());
    inference.unload("a").await.unwrap();
    inference.load(sized("b", 10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_models_a_node_may_have() {
    let config = Config {
        models_max: 2,
        ..eight_rows()
    };
    let (inference, _engine) = start(config, vec![sim_with(&[])]);
    inference.load(source("a")).await.unwrap();
    inference.load(source("b")).await.unwrap();
    for name in ["c", "d"] {
        let refused = inference.load(source(name)).await;
        assert_eq!(refused, Err(LoadError::TooMany { limit: 2 }));
    }
    assert_eq!(inference.load(source("a")).await, Err(duplicate("a")));
    inference.unload("a").await.unwrap();
    inference.load(source("c")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unload_answers_what_is_queued_and_waits_for_what_runs() {
    let node = Node::of(sim()).await;
    let other = node.inference.load(source("other")).await.unwrap();
    let began = Instant::now();
    let ask = |model, rows: usize| {
        let request = request(model, 1, &vec![1.0; rows]);
        let inference = &node.inference;
        async move { (inference.submit(request).await, began.elapsed()) }
    };
    let unload = async {
        settle().await;
        let unloaded = node.inference.unload("echo").await;
        (unloaded, began.elapsed())
    };
    let late = async {
        settle().await;
        settle().await;
        (ask(&node.echo, 1).await, ask(&other, 1).await)
    };
    let (running, next, queued, (late, of_other), unloaded) = tokio::join!(
        ask(&node.echo, 8),
        ask(&node.echo, 8),
        ask(&node.echo, 8),
        late,
        unload,
    );
    assert_eq!(values(&running.0.unwrap()), [1.0; 8]);
    assert_eq!(running.1, 12 * MS);
    // Two were on the device; the one that was queued, and one that comes later, are told at once.
    assert_eq!(values(&next.0.unwrap()), [1.0; 8]);
    assert_eq!(next.1, 24 * MS);
    assert_eq!(queued, (Err(Error::NotLoaded), Duration::ZERO));
    assert_eq!(late, (Err(Error::NotLoaded), Duration::ZERO));
    assert_eq!(unloaded, (Ok(()), 24 * MS));
    assert_eq!(values(&of_other.0.unwrap()), [1.0]);
    assert_eq!(of_other.1, 29 * MS);
}

#[tokio::test(start_paused = true)]
async fn what_fails_after_its_model_was_unloaded_is_not_run_again() {
    let node = Node::start(eight_rows(), vec![sim_with(&[Fault::FailRun(1)])]).await;
    let began = Instant::now();
    let unload = async {
        settle().await;
        node.inference.unload("echo").await
    };
    let (one, other, unloaded) = tokio::join!(node.ask(1, &[1.0]), node.ask(2, &[2.0]), unload);
    assert_eq!((one, other), (Err(Error::Device), Err(Error::Device)));
    assert_eq!(unloaded, Ok(()));
    assert_eq!(began.elapsed(), 6 * MS);
    let stats = node.inference.stats();
    assert_eq!((stats.runs, stats.failed_runs), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn requests_of_other_models_run_while_one_is_loaded() {
    let device = Gated::new(sim_with(&[]));
    let gate = Arc::clone(&device.gate);
    gate.add_permits(1);
    let node = Node::start(eight_rows(), vec![device]).await;
    let began = Instant::now();
    let asks = async {
        for _ in 0..3 {
            node.ask(1, &[1.0]).await.unwrap();
        }
        assert_eq!(began.elapsed(), 15 * MS);
        assert_eq!(node.inference.model("late"), None);
        gate.add_permits(1);
    };
    let (late, ()) = tokio::join!(node.inference.load(source("late")), asks);
    let late = late.unwrap();
    node.inference
        .submit(request(&late, 1, &[1.0]))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_load_that_nobody_waits_for_any_more_leaves_nothing_behind() {
    let device = Gated::new(sim_with(&[]));
    let (gate, told) = (Arc::clone(&device.gate), Arc::clone(&device.told));
    let (inference, _engine) = start(eight_rows(), vec![device]);
    let left = timeout(MS, inference.load(source("a"))).await;
    assert!(left.is_err());
    gate.add_permits(2);
    // The next in turn finds the name free, and a device that has let go of the first.
    let model = inference.load(source("a")).await.unwrap();
    let told: Vec<Command> = told.lock().unwrap().clone();
    let [
        Command::Load { model: first },
        Command::Unload { model: unloaded },
        Command::Load { model: second },
    ] = told.as_slice()
    else {
        panic!("expected load, unload, load, got {told:?}");
    };
    assert_eq!((first, second), (unloaded, &model.id));
}

#[tokio::test(start_paused = true)]
async fn a_model_leaves_the_catalogue_at_once_though_the_device_is_busy_with_another() {
    let device = Gated::new(sim_with(&[]));
    let gate = Arc::clone(&device.gate);
    gate.add_permits(1);
    let node = Node::start(eight_rows(), vec![device]).await;
    let others = async {
        settle().await;
        let unload = timeout(MS, node.inference.unload("echo")).await;
        assert!(
            unload.is_err(),
            "the device loads, and has not let go of it"
        );
        assert_eq!(node.inference.model("echo"), None);
        assert_eq!(node.ask(1, &[1.0]).await, Err(Error::NotLoaded));
        gate.add_permits(1);
    };
    let (late, ()) = tokio::join!(node.inference.load(source("late")), others);
    assert_eq!(node.inference.models(), [late.unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_dies_while_a_model_is_loaded_ends_the_load_and_the_next_is_loaded_without_it()
 {
    let dies = Gated::new(sim_with(&[Fault::DieRun(1)]));
    let lives = Gated::new(sim_with(&[]));
    let gates = [Arc::clone(&dies.gate), Arc::clone(&lives.gate)];
    for gate in &gates {
        gate.add_permits(1);
    }
    let node = Node::start(eight_rows(), vec![dies, lives]).await;
    let asks = async {
        settle().await;
        // Runs on the device that dies of it, then on the other.
        node.ask(1, &[1.0]).await.unwrap();
        gates[1].add_permits(2);
    };
    let (failed, ()) = tokio::join!(node.inference.load(source("late")), asks);
    let device = "sim".to_owned();
    assert_eq!(failed, Err(LoadError::DeviceGone { device }));
    assert!(node.inference.is_live());
    assert_eq!(node.inference.models(), std::slice::from_ref(&node.echo));
    node.inference.load(source("late")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unload_does_not_wait_for_a_device_that_is_gone() {
    let devices = vec![sim_with(&[Fault::DieRun(1)]), sim_with(&[])];
    let node = Node::start(eight_rows(), devices).await;
    node.ask(1, &[1.0]).await.unwrap();
    assert_eq!(node.inference.stats().lost_devices, 1);
    node.inference.unload("echo").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn when_the_last_device_dies_who_waits_for_a_model_is_told() {
    let device = Gated::new(sim_with(&[Fault::DieRun(1)]));
    device.gate.add_permits(1);
    let node = Node::start(eight_rows(), vec![device]).await;
    let ask = async {
        settle().await;
        node.ask(1, &[1.0]).await
    };
    let (loading, waiting, asked) = tokio::join!(
        node.inference.load(source("first")),
        node.inference.load(source("second")),
        ask
    );
    let device = "sim".to_owned();
    assert_eq!(loading, Err(LoadError::DeviceGone { device }));
    assert_eq!(waiting, Err(LoadError::Stopped));
    assert_eq!(asked, Err(Error::Stopped));
    assert_eq!(
        node.inference.unload("echo").await,
        Err(UnloadError::Stopped)
    );
}

/// Three models are loaded and unloaded at random under 2,000 requests; every row is a number that exists once.
#[tokio::test(start_paused = true)]
async fn while_models_come_and_go_every_request_gets_its_own_rows_or_is_told() {
    let mut numbers = Numbers(seed());
    let devices = vec![
        sim_with(&[Fault::FailRun(5), Fault::DieRun(200)]),
        sim_with(&[Fault::FailPoison]),
    ];
    let (inference, _engine) = start(eight_rows(), devices);
    let names = ["a", "b", "c"];
    let mut callers = JoinSet::new();
    let mut operators = JoinSet::new();
    for nonce in 0..2_000_u16 {
        let name = names[numbers.below(3)];
        if numbers.below(60) == 0 {
            let inference = inference.clone();
            let is_load = numbers.below(3) > 0;
            operators.spawn(async move {
                if is_load {
                    inference.load(source(name)).await.is_ok()
                } else {
                    inference.unload(name).await.is_ok()
                }
            });
        }
        if let Some(model) = inference.model(name) {
            let rows = vec![f32::from(nonce); 1 + numbers.below(8)];
            let request = request(&model, numbers.next() % 5, &rows);
            let inference = inference.clone();
            callers.spawn(async move { (rows, inference.submit(request).await) });
        }
        if numbers.below(4) == 0 {
            tokio::time::sleep(MS).await;
        }
    }
    let (mut answered, mut told) = (0, 0);
    while let Some(caller) = callers.join_next().await {
        let (rows, answer) = caller.unwrap();
        match answer {
            Ok(reply) => {
                assert_eq!(values(&reply), rows);
                answered += 1;
            }
            Err(error) => {
                assert!(matches!(error, Error::NotLoaded | Error::Device), "{error}");
                told += 1;
            }
        }
    }
    println!("{answered} answered, {told} told");
    assert!(answered > 0);
    operators.join_all().await;
    for model in inference.models() {
        inference.unload(&model.name).await.unwrap();
    }
    assert_eq!(inference.models(), []);
    assert_eq!(inference.stats().queued_rows, 0);
}
