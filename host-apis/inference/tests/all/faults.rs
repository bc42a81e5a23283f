//! What goes wrong on a device, and who notices.

use crate::support::numbers::Numbers;
use crate::support::seed::seed;
use crate::support::{
    Callers, MS, Node, alive_tasks, eight_rows, settle, sim, sim_with, source, start, values,
};
use shoal_inference::{Config, Error, Fault, LoadError, SimConfig, SimDevice, UnloadError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const BAD: f32 = f32::NAN;

#[tokio::test(start_paused = true)]
async fn a_failing_batch_is_split_until_only_the_bad_request_fails() {
    let node = Node::start(eight_rows(), vec![sim_with(&[Fault::FailPoison])]).await;
    let began = Instant::now();
    let answers = tokio::join!(
        node.ask(0, &[0.0]),
        node.ask(1, &[1.0]),
        node.ask(2, &[2.0]),
        node.ask(3, &[3.0]),
        node.ask(4, &[4.0]),
        node.ask(5, &[BAD]),
        node.ask(6, &[6.0]),
        node.ask(7, &[7.0]),
    );
    let (a, b, c, d, e, bad, g, h) = answers;
    assert_eq!(bad, Err(Error::Device));
    let good = [a, b, c, d, e, g, h].map(|answer| values(&answer.unwrap())[0]);
    assert_eq!(good, [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0]);
    // 8 fails; 4 runs; 4 fails; 2 (with the bad one) fails; 2 runs; 1 runs; the bad one fails alone.
    assert_eq!(began.elapsed(), (12 + 8 + 8 + 6 + 6 + 5 + 5) * MS);
    let stats = node.inference.stats();
    assert_eq!((stats.runs, stats.failed_runs, stats.requests), (3, 4, 7));
}

/// Every row is a number that exists once; a row that came back to another request would be seen.
#[tokio::test(start_paused = true)]
async fn among_poisoned_rows_every_good_request_gets_exactly_its_own() {
    let mut numbers = Numbers(seed());
    let devices = vec![
        sim_with(&[Fault::FailPoison, Fault::FailRun(7)]),
        sim_with(&[Fault::FailPoison, Fault::DieRun(100)]),
        sim_with(&[Fault::FailPoison, Fault::OutOfMemoryRun(50)]),
    ];
    let node = Node::start(eight_rows(), devices).await;
    let mut callers = JoinSet::new();
    let mut nonce = 0.0;
    for _ in 0..10_000 {
        let mut rows: Vec<f32> = (0..=numbers.below(8)).map(|at| nonce + at as f32).collect();
        nonce += rows.len() as f32;
        let poisoned = numbers.below(50) == 0;
        if poisoned {
            rows[0] = BAD;
        }
        let request = node.request(numbers.next() % 20, &rows);
        let inference = node.inference.clone();
        callers.spawn(async move {
            let answer = inference.submit(request).await;
            (poisoned, rows, answer)
        });
    }
    let mut unlucky = 0;
    while let Some(answered) = callers.join_next().await {
        let (poisoned, rows, answer) = answered.unwrap();
        match answer {
            Ok(reply) => assert_eq!(values(&reply), rows),
            Err(error) => {
                assert_eq!(error, Error::Device);
                unlucky += u32::from(!poisoned);
            }
        }
    }
    assert!(
        unlucky <= 2,
        "each of two scripted failures may have met one request alone"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_that_fails_once_is_no_ones_fault() {
    let node = Node::start(eight_rows(), vec![sim_with(&[Fault::FailRun(1)])]).await;
    let (a, b) = tokio::join!(node.ask(1, &[1.0]), node.ask(2, &[2.0]));
    assert_eq!(values(&a.unwrap()), [1.0]);
    assert_eq!(values(&b.unwrap()), [2.0]);
    assert_eq!(node.inference.stats().failed_runs, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fails_alone_fails_at_once() {
    let node = Node::start(eight_rows(), vec![sim_with(&[Fault::FailRun(1)])]).await;
    let began = Instant::now();
    assert_eq!(node.ask(1, &[1.0]).await, Err(Error::Device));
    assert_eq!(began.elapsed(), 5 * MS);
    node.ask(1, &[1.0]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_does_not_fit_in_memory_is_split_until_it_does() {
    // Inputs and outputs of four rows: 2 x 4 x 4 bytes.
    let memory_bytes = Some(32);
    let node = Node::of(SimConfig {
        memory_bytes,
        ..sim()
    })
    .await;
    let began = Instant::now();
    let (a, b) = tokio::join!(node.ask(1, &[1.0; 4]), node.ask(2, &[2.0; 4]));
    assert_eq!(values(&a.unwrap()), [1.0; 4]);
    assert_eq!(values(&b.unwrap()), [2.0; 4]);
    assert_eq!(began.elapsed(), (12 + 8 + 8) * MS);
    assert_eq!(node.ask(1, &[1.0; 5]).await, Err(Error::Device));
}

#[tokio::test(start_paused = true)]
async fn the_runs_of_a_device_that_dies_are_done_by_another() {
    let devices = vec![sim_with(&[Fault::DieRun(1)]), sim_with(&[])];
    let node = Node::start(eight_rows(), devices).await;
    let mut callers = Callers::new();
    for tenant in 0..24 {
        node.spawn_ask(&mut callers, tenant, &[0.0]);
    }
    while let Some(answered) = callers.join_next().await {
        answered.unwrap().unwrap();
    }
    assert!(node.inference.is_live());
    let stats = node.inference.stats();
    assert_eq!((stats.requests, stats.lost_devices), (24, 1));
    assert_eq!(
        stats.batch_rows.counts,
        [16, 0, 0, 1],
        "both its runs one by one"
    );
}

#[tokio::test(start_paused = true)]
async fn when_the_last_device_dies_every_caller_is_told() {
    let mut node = Node::start(eight_rows(), vec![sim_with(&[Fault::DieRun(1)])]).await;
    assert!(node.inference.is_live());
    let began = Instant::now();
    let mut callers = Callers::new();
    for _ in 0..100 {
        node.spawn_ask(&mut callers, 1, &[0.0]);
    }
    while let Some(answered) = callers.join_next().await {
        assert_eq!(answered.unwrap(), Err(Error::Stopped));
    }
    assert_eq!(began.elapsed(), 12 * MS);
    node.engine.join_next().await.unwrap().unwrap();
    assert!(!node.inference.is_live());
    assert_eq!(node.ask(1, &[0.0]).await, Err(Error::Stopped));
    assert_eq!(alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_kills_devices_is_refused_after_the_second() {
    let devices = (0..3).map(|_| sim_with(&[Fault::DieOfPoison])).collect();
    let node = Node::start(eight_rows(), devices).await;
    let (good, bad, other) = tokio::join!(
        node.ask(1, &[1.0]),
        node.ask(2, &[BAD]),
        node.ask(3, &[3.0])
    );
    assert_eq!(bad, Err(Error::Device));
    assert_eq!(values(&good.unwrap()), [1.0]);
    assert_eq!(values(&other.unwrap()), [3.0]);
    assert!(node.inference.is_live());
    assert_eq!(node.inference.stats().lost_devices, 2);
}

#[tokio::test(start_paused = true)]
async fn on_a_device_that_hangs_callers_get_their_deadline_and_the_other_device_goes_on() {
    let devices = vec![sim_with(&[Fault::HangRun(1)]), sim_with(&[])];
    let node = Node::start(eight_rows(), devices).await;
    let began = Instant::now();
    let mut hung = node.request(1, &[0.0]);
    hung.deadline = began + 50 * MS;
    assert_eq!(
        node.inference.submit(hung).await,
        Err(Error::DeadlineExceeded)
    );
    assert_eq!(began.elapsed(), 50 * MS);
    node.ask(1, &[0.0]).await.unwrap();
    assert_eq!(began.elapsed(), 55 * MS);
    assert_eq!(node.inference.stats().expired, 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_queue_is_kept_to_the_millisecond() {
    let node = Node::start(eight_rows(), vec![sim_with(&[Fault::HangRun(1)])]).await;
    let began = Instant::now();
    let mut callers = Callers::new();
    for ms in 1..=40 {
        let mut request = node.request(ms, &[0.0]);
        let deadline = began + MS * u32::try_from(ms).unwrap();
        request.deadline = deadline;
        let inference = node.inference.clone();
        callers.spawn(async move {
            let answer = inference.submit(request).await;
            assert_eq!(Instant::now(), deadline);
            answer
        });
    }
    while let Some(answered) = callers.join_next().await {
        assert_eq!(answered.unwrap(), Err(Error::DeadlineExceeded));
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_the_queue_is_never_run() {
    let node = Node::of(sim()).await;
    let mut callers = Callers::new();
    node.spawn_ask(&mut callers, 1, &[0.0; 8]);
    node.spawn_ask(&mut callers, 1, &[0.0; 8]);
    settle().await;
    let gone = timeout(MS, node.ask(2, &[0.0; 5])).await;
    assert!(gone.is_err());
    while let Some(answered) = callers.join_next().await {
        answered.unwrap().unwrap();
    }
    node.ask(3, &[0.0]).await.unwrap();
    assert_eq!(node.inference.stats().rows, 8 + 8 + 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_a_failing_batch_is_not_run_again() {
    let node = Node::start(eight_rows(), vec![sim_with(&[Fault::FailRun(1)])]).await;
    let (stays, leaves) =
        tokio::join!(node.ask(1, &[0.0]), timeout(2 * MS, node.ask(2, &[0.0; 3])));
    stays.unwrap();
    assert!(leaves.is_err());
    let stats = node.inference.stats();
    assert_eq!((stats.failed_runs, stats.runs, stats.rows), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_queue_time_of_a_request_that_ran_twice_ends_with_its_last_run() {
    let node = Node::start(eight_rows(), vec![sim_with(&[Fault::FailRun(1)])]).await;
    let (a, b) = tokio::join!(node.ask(1, &[0.0]), node.ask(2, &[0.0]));
    assert_eq!(a.unwrap().explanation.queue, 6 * MS);
    // Handed over together with the first half: the second slot was free.
    assert_eq!(b.unwrap().explanation.queue, 6 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_does_not_load_is_named_with_its_reason() {
    let device = SimDevice::new(SimConfig {
        compute: shoal_inference::Compute::Onnx,
        ..sim()
    });
    let (inference, engine) = start(Config::default(), vec![device]);
    let failed = inference.load(source("empty")).await;
    let expected = LoadError::Model {
        model: "empty".to_owned(),
        device: "sim".to_owned(),
        reason: "the file has 0 graphs, expected one".to_owned(),
    };
    assert_eq!(failed, Err(expected));
    assert_eq!(inference.models(), []);
    assert!(inference.is_live(), "others may be loaded");
    drop(inference);
    engine.join_all().await;
    assert_eq!(alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn devices_that_read_a_model_differently_are_refused() {
    let mut spec = crate::support::echo_spec();
    spec.batchable = false;
    let other = SimDevice::new(SimConfig {
        compute: shoal_inference::Compute::Echo(spec),
        ..sim()
    });
    let (inference, _engine) = start(eight_rows(), vec![sim_with(&[]), other]);
    let failed = inference.load(source("echo")).await;
    let expected = LoadError::Disagreement {
        model: "echo".to_owned(),
    };
    assert_eq!(failed, Err(expected));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_never_runs_says_so() {
    let (inference, engine) =
        shoal_inference::Inference::new(eight_rows(), vec![sim_with(&[])]).unwrap();
    assert!(!inference.is_live());
    drop(engine);
    let load = inference.load(source("echo")).await;
    assert_eq!(load, Err(LoadError::Stopped));
    let unload = inference.unload("echo").await;
    assert_eq!(unload, Err(UnloadError::Stopped));
    sleep(Duration::from_secs(1)).await;
    assert!(!inference.is_live());
}
