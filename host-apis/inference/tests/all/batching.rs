//! Who runs when, in exact virtual time.

use crate::support::{
    Callers, MS, Node, echo_spec, eight_rows, request, settle, sim, sim_with, source, start, values,
};
use shoal_inference::{
    Class, Compute, Explanation, ModelSpec, Request, SimConfig, SimDevice, Tensor,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// 960 requests of 7 tenants, a row each: 120 batches of eight rows, 12 ms each.
async fn flood(devices: usize) -> Duration {
    let node = Node::start(eight_rows(), (0..devices).map(|_| sim_with(&[])).collect()).await;
    let began = Instant::now();
    let mut callers = Callers::new();
    for n in 0..960_u16 {
        node.spawn_ask(&mut callers, u64::from(n % 7), &[f32::from(n)]);
    }
    let mut answers = Vec::new();
    while let Some(answered) = callers.join_next().await {
        let reply = answered.unwrap().unwrap();
        assert_eq!(reply.explanation.batch_rows, 8);
        answers.extend(values(&reply));
    }
    answers.sort_by(f32::total_cmp);
    assert_eq!(answers, (0..960_u16).map(f32::from).collect::<Vec<_>>());
    let stats = node.inference.stats();
    assert_eq!((stats.runs, stats.rows, stats.requests), (120, 960, 960));
    assert_eq!(stats.device_busy_ns, 120 * 12_000_000);
    assert_eq!(stats.batch_rows.counts, [0, 0, 0, 120]);
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn devices_share_a_flood_evenly() {
    assert_eq!(flood(1).await, 1_440 * MS);
    assert_eq!(flood(2).await, 720 * MS);
    assert_eq!(flood(3).await, 480 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_lone_request_runs_at_once_and_its_reply_says_what_it_cost() {
    let node = Node::of(sim()).await;
    let began = Instant::now();
    let reply = node.ask(1, &[7.0]).await.unwrap();
    assert_eq!(began.elapsed(), 5 * MS);
    assert_eq!(values(&reply), [7.0]);
    let expected = Explanation {
        class: Class::Default,
        runs: 1,
        queue: Duration::ZERO,
        rows: 1,
        batch_rows: 1,
        device: 5 * MS,
        device_share_ns: 5_000_000,
    };
    assert_eq!(reply.explanation, expected);
}

/// Callers that ask again as soon as they are answered, each for so many answers.
async fn closed_loop(node: &Node, callers: u64, answers: u32) -> (Duration, Vec<Explanation>) {
    let began = Instant::now();
    let calls = (0..callers).map(|tenant| async move {
        let mut explanations = Vec::new();
        for _ in 0..answers {
            explanations.push(node.ask(tenant, &[0.0]).await.unwrap().explanation);
        }
        explanations
    });
    let explanations = futures_util::future::join_all(calls).await;
    (began.elapsed(), explanations.concat())
}

#[tokio::test(start_paused = true)]
async fn callers_that_come_back_at_once_share_a_run() {
    let node = Node::of(sim()).await;
    closed_loop(&node, 8, 10).await;
    let (took, explanations) = closed_loop(&node, 8, 10).await;
    assert!(explanations.iter().all(|reply| reply.batch_rows == 8));
    assert_eq!(took, 10 * 12 * MS, "and nothing is lost between two runs");
}

#[tokio::test(start_paused = true)]
async fn a_lone_caller_that_comes_back_is_not_made_to_wait() {
    let node = Node::of(sim()).await;
    let (took, _) = closed_loop(&node, 1, 20).await;
    assert_eq!(took, 20 * 5 * MS);
}

#[tokio::test(start_paused = true)]
async fn full_batches_run_back_to_back() {
    let node = Node::of(sim()).await;
    let began = Instant::now();
    let mut callers = Callers::new();
    for _ in 0..50 {
        node.spawn_ask(&mut callers, 1, &[0.0; 8]);
    }
    while let Some(answered) = callers.join_next().await {
        answered.unwrap().unwrap();
    }
    assert_eq!(began.elapsed(), 50 * 12 * MS);
}

#[tokio::test(start_paused = true)]
async fn what_arrives_during_a_run_shares_the_next_which_begins_when_it_ends() {
    let node = Node::of(sim()).await;
    // The device learns that eight rows take 12 ms.
    node.ask(1, &[0.0; 8]).await.unwrap();
    let began = Instant::now();
    let at = |after: Duration, tenant| {
        let node = &node;
        async move {
            sleep(after).await;
            node.ask(tenant, &[0.0]).await.unwrap().explanation
        }
    };
    let (full, third, sixth) = tokio::join!(node.ask(1, &[0.0; 8]), at(3 * MS, 2), at(6 * MS, 3));
    assert_eq!(began.elapsed(), (12 + 6) * MS, "no gap between the runs");
    assert_eq!(full.unwrap().explanation.batch_rows, 8);
    assert_eq!((third.batch_rows, sixth.batch_rows), (2, 2));
    // Handed over 1 ms before the first run was expected to end.
    assert_eq!((third.queue, sixth.queue), (8 * MS, 5 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_tenant_is_not_starved_by_a_flood() {
    let node = Node::of(sim()).await;
    let mut callers = Callers::new();
    for _ in 0..200 {
        node.spawn_ask(&mut callers, 1, &[0.0]);
    }
    sleep(MS).await;
    let began = Instant::now();
    node.ask(2, &[0.0]).await.unwrap();
    // Two runs of the flood were on the device already; it is in the third.
    assert_eq!(began.elapsed(), (3 * 12 - 1) * MS);
}

#[tokio::test(start_paused = true)]
async fn a_flood_on_one_model_does_not_hold_up_another() {
    let (inference, _engine) = start(eight_rows(), vec![sim_with(&[])]);
    let busy = inference.load(source("busy")).await.unwrap();
    let quiet = inference.load(source("quiet")).await.unwrap();
    let mut callers = Callers::new();
    for _ in 0..200 {
        let (inference, request) = (inference.clone(), request(&busy, 1, &[0.0]));
        callers.spawn(async move { inference.submit(request).await });
    }
    sleep(MS).await;
    let began = Instant::now();
    let reply = inference.submit(request(&quiet, 1, &[0.0])).await.unwrap();
    assert_eq!(reply.explanation.batch_rows, 1);
    assert_eq!(began.elapsed(), (2 * 12 - 1 + 5) * MS);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_several_rows_is_never_torn() {
    let node = Node::of(sim()).await;
    let began = Instant::now();
    let (five, other) = tokio::join!(node.ask(1, &[1.0; 5]), node.ask(2, &[2.0; 5]));
    assert_eq!(began.elapsed(), 2 * 9 * MS);
    for (reply, value) in [(five, 1.0), (other, 2.0)] {
        let reply = reply.unwrap();
        assert_eq!(values(&reply), [value; 5]);
        assert_eq!(
            (reply.explanation.rows, reply.explanation.batch_rows),
            (5, 5)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_larger_than_a_batch_runs_in_parts_and_comes_back_whole() {
    let node = Node::of(sim()).await;
    let began = Instant::now();
    let all: Vec<f32> = (0..20_u16).map(f32::from).collect();
    let reply = node.ask(1, &all).await.unwrap();
    assert_eq!(values(&reply), all);
    assert_eq!(began.elapsed(), (12 + 12 + 8) * MS);
    let expected = Explanation {
        class: Class::Default,
        queue: 23 * MS,
        rows: 20,
        batch_rows: 8,
        runs: 3,
        device: 32 * MS,
        device_share_ns: 32_000_000,
    };
    assert_eq!(reply.explanation, expected);
}

#[tokio::test(start_paused = true)]
async fn the_last_part_of_a_request_shares_its_batch() {
    let node = Node::of(sim()).await;
    let (large, small) = tokio::join!(node.ask(1, &[1.0; 12]), node.ask(2, &[2.0; 4]));
    let (large, small) = (large.unwrap(), small.unwrap());
    assert_eq!(values(&large), [1.0; 12]);
    assert_eq!(values(&small), [2.0; 4]);
    assert_eq!(node.inference.stats().runs, 2);
}

#[tokio::test(start_paused = true)]
async fn the_shares_of_a_run_are_by_rows_and_sum_to_its_device_time() {
    let per_row = Duration::from_nanos(333_333);
    let node = Node::of(SimConfig { per_row, ..sim() }).await;
    let (one, two, four) = tokio::join!(
        node.ask(1, &[0.0]),
        node.ask(2, &[0.0; 2]),
        node.ask(3, &[0.0; 4])
    );
    let shares = [one, two, four].map(|reply| reply.unwrap().explanation.device_share_ns);
    // 4 ms + 7 x 333,333 ns = 6,333,331 ns in sevenths: the nanosecond left over goes to the largest remainder.
    assert_eq!(shares.iter().sum::<u64>(), 6_333_331);
    assert_eq!(shares, [904_762, 1_809_523, 3_619_046]);
}

#[tokio::test(start_paused = true)]
async fn a_model_without_a_batch_axis_runs_one_by_one() {
    let mut spec = echo_spec();
    spec.batchable = false;
    for port in spec.inputs.iter_mut().chain(&mut spec.outputs) {
        port.dims = vec![Some(1), Some(1)];
    }
    let compute = Compute::Echo(spec);
    let node = Node::of(SimConfig { compute, ..sim() }).await;
    assert_eq!(node.echo.rows_max, 1);
    let began = Instant::now();
    let mut callers = Callers::new();
    for tenant in 0..5 {
        node.spawn_ask(&mut callers, tenant, &[1.0]);
    }
    while let Some(answered) = callers.join_next().await {
        assert_eq!(answered.unwrap().unwrap().explanation.batch_rows, 1);
    }
    assert_eq!(began.elapsed(), 5 * 5 * MS);
}

#[tokio::test(start_paused = true)]
async fn requests_of_different_lengths_do_not_share_a_run() {
    let mut spec = echo_spec();
    for port in spec.inputs.iter_mut().chain(&mut spec.outputs) {
        port.dims = vec![None, None];
    }
    let compute = Compute::Echo(spec);
    let node = Node::of(SimConfig { compute, ..sim() }).await;
    let ask = |tenant, length: u16| {
        let values: Vec<f32> = (0..length).map(f32::from).collect();
        let tensor = Tensor::f32(vec![1, u32::from(length)], &values).unwrap();
        let request = Request {
            inputs: vec![("x".to_owned(), tensor)],
            ..node.request(tenant, &[])
        };
        let inference = &node.inference;
        async move {
            let reply = inference.submit(request).await.unwrap();
            (self::values(&reply) == values, reply.explanation.batch_rows)
        }
    };
    let answers = tokio::join!(ask(1, 3), ask(2, 5), ask(3, 3));
    assert_eq!(answers, ((true, 2), (true, 1), (true, 2)));
}

#[tokio::test(start_paused = true)]
async fn every_input_of_a_batch_reaches_its_own_request() {
    let mut spec = echo_spec();
    let mut wide = spec.inputs[0].clone();
    wide.name = "wide".to_owned();
    wide.dims = vec![None, Some(3)];
    spec.inputs.push(wide.clone());
    spec.outputs.push(wide);
    let compute = Compute::Echo(ModelSpec { ..spec });
    let node = Node::of(SimConfig { compute, ..sim() }).await;
    let ask = |tenant: u16, rows: u16| {
        let values = |columns: u16| -> Vec<f32> {
            let all = 0..rows * columns;
            all.map(|n| f32::from(1_000 * tenant + n)).collect()
        };
        let narrow = Tensor::f32(vec![rows.into(), 1], &values(1)).unwrap();
        let wide = Tensor::f32(vec![rows.into(), 3], &values(3)).unwrap();
        let request = Request {
            // In any order.
            inputs: vec![
                ("wide".to_owned(), wide.clone()),
                ("x".to_owned(), narrow.clone()),
            ],
            ..node.request(tenant.into(), &[])
        };
        let inference = &node.inference;
        async move {
            let reply = inference.submit(request).await.unwrap();
            assert_eq!(reply.explanation.batch_rows, 6);
            let expected = [("y".to_owned(), narrow), ("wide".to_owned(), wide)];
            assert_eq!(reply.outputs, expected);
        }
    };
    tokio::join!(ask(1, 2), ask(2, 1), ask(3, 3));
}

#[tokio::test(start_paused = true)]
async fn dropping_everything_with_work_in_flight_leaves_no_task_alive() {
    let mut node = Node::start(eight_rows(), vec![sim_with(&[]), sim_with(&[])]).await;
    let mut callers = Callers::new();
    for _ in 0..100 {
        node.spawn_ask(&mut callers, 1, &[0.0]);
    }
    settle().await;
    assert_eq!(node.inference.stats().queued_rows, 100 - 4 * 8);
    drop(callers);
    drop(node.inference);
    node.engine.join_next().await.unwrap().unwrap();
    assert_eq!(crate::support::alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_engine_whose_handle_is_gone_before_it_runs_ends() {
    let (inference, engine) =
        shoal_inference::Inference::new(eight_rows(), vec![SimDevice::new(sim())]).unwrap();
    drop(inference);
    engine.run().await;
    assert_eq!(crate::support::alive_tasks(), 0);
}
