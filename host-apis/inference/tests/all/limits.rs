//! Every limit at its value, one over and far over; every way a request can be wrong.

use crate::support::{Callers, MS, Node, echo_spec, eight_rows, request, settle, sim, sim_with};
use shoal_inference::{
    Compute, Config, DType, Error, Fault, ModelId, NamedTensor, Request, SimConfig, TenantId,
    Tensor, TensorError, Terms,
};
use std::time::Duration;

/// A node whose device never answers, so that what is queued stays queued.
struct Stuck {
    node: Node,
    waiting: Callers,
}

impl Stuck {
    async fn start(config: Config) -> Self {
        let node = Node::start(config, vec![sim_with(&[Fault::HangRun(1)])]).await;
        let mut waiting = Callers::new();
        for _ in 0..2 {
            node.spawn_ask(&mut waiting, 99, &[0.0; 8]);
            settle().await;
        }
        Self { node, waiting }
    }

    /// Why a request is refused at once; `None` if it is queued, and then it waits.
    async fn refusal(&mut self, tenant: u64, rows: usize) -> Option<Error> {
        self.node
            .spawn_ask(&mut self.waiting, tenant, &vec![0.0; rows]);
        settle().await;
        let answered = self.waiting.try_join_next()?;
        Some(answered.unwrap().unwrap_err())
    }
}

fn full(limit: &'static str, max: u64) -> Error {
    Error::QueueFull {
        limit,
        max,
        retry_after: Duration::from_secs(1),
    }
}

#[tokio::test(start_paused = true)]
async fn the_rows_a_tenant_may_queue() {
    let mut stuck = Stuck::start(Config {
        tenant_rows_max: 16,
        ..eight_rows()
    })
    .await;
    assert_eq!(stuck.refusal(1, 8).await, None);
    assert_eq!(stuck.refusal(1, 7).await, None);
    assert_eq!(stuck.refusal(1, 2).await, Some(full("tenant_rows_max", 16)));
    assert_eq!(stuck.refusal(1, 8).await, Some(full("tenant_rows_max", 16)));
    assert_eq!(stuck.refusal(1, 1).await, None, "exactly the limit");
    assert_eq!(stuck.refusal(1, 1).await, Some(full("tenant_rows_max", 16)));
    assert_eq!(
        stuck.refusal(2, 8).await,
        None,
        "another tenant has its own"
    );
    let stats = stuck.node.inference.stats();
    assert_eq!(stats.refused.get("tenant_rows_max"), Some(&3));
    assert_eq!(stats.queued_rows, 16 + 8);
}

#[tokio::test(start_paused = true)]
async fn the_requests_of_a_tenant_that_may_be_unanswered() {
    let mut stuck = Stuck::start(Config {
        tenant_requests_max: 2,
        ..eight_rows()
    })
    .await;
    for _ in 0..2 {
        assert_eq!(stuck.refusal(1, 1).await, None);
    }
    for _ in 0..3 {
        let full = full("tenant_requests_max", 2);
        assert_eq!(stuck.refusal(1, 1).await, Some(full));
    }
    // 17 rows are three parts: none of them stays when the third is refused.
    let full = full("tenant_requests_max", 2);
    assert_eq!(stuck.refusal(2, 17).await, Some(full));
    assert_eq!(stuck.node.inference.stats().queued_rows, 2);
    assert_eq!(
        stuck.refusal(2, 16).await,
        None,
        "another tenant, two parts"
    );
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_terms_of_its_own() {
    let mut stuck = Stuck::start(eight_rows()).await;
    let terms = Terms {
        weight: 1,
        priority: false,
        rows_max: 3,
        bytes_max: 1 << 20,
        requests_max: 100,
    };
    let inference = stuck.node.inference.clone();
    inference.set_terms(TenantId(1), Some(terms)).await.unwrap();
    assert_eq!(stuck.refusal(1, 3).await, None);
    assert_eq!(stuck.refusal(1, 1).await, Some(full("tenant_rows_max", 3)));
    assert_eq!(stuck.refusal(2, 8).await, None);
    inference.set_terms(TenantId(1), None).await.unwrap();
    assert_eq!(stuck.refusal(1, 8).await, None);
    for weight in [1_001, u32::MAX] {
        let refused = inference
            .set_terms(TenantId(1), Some(Terms { weight, ..terms }))
            .await;
        let message = format!("weight is {weight}, expected 0 to 1000");
        assert_eq!(refused, Err(Error::Invalid(message)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_bytes_a_tenant_may_queue() {
    let mut stuck = Stuck::start(Config {
        tenant_bytes_max: 32,
        tensor_bytes_max: 32,
        ..eight_rows()
    })
    .await;
    assert_eq!(stuck.refusal(1, 7).await, None);
    assert_eq!(
        stuck.refusal(1, 2).await,
        Some(full("tenant_bytes_max", 32))
    );
    assert_eq!(
        stuck.refusal(1, 8).await,
        Some(full("tenant_bytes_max", 32))
    );
    assert_eq!(stuck.refusal(1, 1).await, None, "exactly the limit");
    assert_eq!(
        stuck.refusal(2, 8).await,
        None,
        "another tenant has its own"
    );
    assert_eq!(
        stuck.node.inference.stats().refused.get("tenant_bytes_max"),
        Some(&2)
    );
}

#[tokio::test(start_paused = true)]
async fn the_requests_a_node_may_hold_queued_or_running() {
    let mut stuck = Stuck::start(Config {
        requests_max: 4,
        ..eight_rows()
    })
    .await;
    assert_eq!(stuck.refusal(1, 1).await, None);
    assert_eq!(stuck.refusal(2, 1).await, None, "exactly the limit");
    for tenant in 3..100 {
        assert_eq!(
            stuck.refusal(tenant, 1).await,
            Some(full("requests_max", 4))
        );
    }
    assert_eq!(
        stuck.node.inference.stats().refused.get("requests_max"),
        Some(&97)
    );
}

#[tokio::test(start_paused = true)]
async fn an_answered_request_makes_room_for_another() {
    let config = Config {
        requests_max: 1,
        ..eight_rows()
    };
    let node = Node::start(config, vec![sim_with(&[Fault::FailRun(2)])]).await;
    node.ask(1, &[0.0]).await.unwrap();
    assert_eq!(node.ask(1, &[0.0]).await, Err(Error::Device));
    // What it costs is known from the second good run on.
    node.ask(1, &[0.0]).await.unwrap();
    let mut late = node.request(1, &[0.0]);
    late.deadline -= Duration::from_secs(60) - MS;
    let (needs, left) = (5 * MS, MS);
    let too_late = Err(Error::TooLate { needs, left });
    assert_eq!(node.inference.submit(late).await, too_late);
    assert_eq!(node.inference.stats().too_late, 1);
    settle().await;
    node.ask(1, &[0.0]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_when_the_queue_will_have_drained() {
    let config = Config {
        tenant_rows_max: 80,
        ..eight_rows()
    };
    let node = Node::start(config, vec![sim_with(&[])]).await;
    node.ask(1, &[0.0; 8]).await.unwrap();
    let mut callers = Callers::new();
    for _ in 0..12 {
        node.spawn_ask(&mut callers, 1, &[0.0; 8]);
        settle().await;
    }
    // Two batches are on the device, ten wait: 120 ms at 12 ms each.
    let Err(Error::QueueFull { retry_after, .. }) = node.ask(1, &[0.0]).await else {
        panic!("expected a refusal");
    };
    assert_eq!(retry_after, 120 * MS);
}

#[tokio::test(start_paused = true)]
async fn the_rows_of_one_request() {
    for (key, request_rows_max, tenant_rows_max) in [
        ("request_rows_max", 20, 4096),
        ("tenant_rows_max", 1024, 20),
    ] {
        let config = Config {
            request_rows_max,
            tenant_rows_max,
            ..eight_rows()
        };
        let node = Node::start(config, vec![sim_with(&[])]).await;
        node.ask(1, &[0.0; 20]).await.unwrap();
        for rows in [21, 10_000] {
            let limit = 20;
            let error = Error::TooManyRows { key, rows, limit };
            assert_eq!(node.ask(1, &vec![0.0; rows as usize]).await, Err(error));
        }
        assert_eq!(node.inference.stats().refused.get(key), Some(&2));
    }
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_one_tensor() {
    let config = Config {
        tensor_bytes_max: 16,
        ..eight_rows()
    };
    let node = Node::start(config, vec![sim_with(&[])]).await;
    node.ask(1, &[0.0; 4]).await.unwrap();
    for rows in [5_u64, 10_000] {
        let error = Error::Tensor(TensorError::TooLarge {
            bytes: rows * 4,
            limit: 16,
        });
        let values = vec![0.0; usize::try_from(rows).unwrap()];
        assert_eq!(node.ask(1, &values).await, Err(error));
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_is_refused_before_it_is_queued() {
    let node = Node::of(sim()).await;
    let mut request = node.request(1, &[0.0]);
    request.deadline = tokio::time::Instant::now();
    assert_eq!(
        node.inference.submit(request).await,
        Err(Error::DeadlineExceeded)
    );
    assert_eq!(node.inference.stats().expired, 1);
}

#[tokio::test(start_paused = true)]
async fn inputs_that_do_not_fit_the_model_are_named() {
    let mut spec = echo_spec();
    let mut ids = spec.inputs[0].clone();
    ids.name = "ids".to_owned();
    ids.dtype = DType::I64;
    ids.dims = vec![None, None];
    spec.inputs.push(ids.clone());
    spec.outputs.push(ids);
    let compute = Compute::Echo(spec);
    let node = Node::of(SimConfig { compute, ..sim() }).await;
    let x = |dims: &[u32]| {
        let len = dims.iter().product::<u32>() as usize;
        (
            "x".to_owned(),
            Tensor::f32(dims.to_vec(), &vec![0.0; len]).unwrap(),
        )
    };
    let ids = |dims: &[u32]| {
        let len = dims.iter().product::<u32>() as usize * 8;
        let tensor = Tensor::new(DType::I64, dims.to_vec(), vec![0; len]).unwrap();
        ("ids".to_owned(), tensor)
    };
    let named = |name: &str, (_, tensor): NamedTensor| (name.to_owned(), tensor);
    let cases = [
        (vec![x(&[1, 1])], r#"input "ids" is missing"#),
        (vec![], r#"input "x" is missing"#),
        (vec![x(&[1, 1]), x(&[1, 1])], r#"input "x" is given twice"#),
        (
            vec![x(&[1, 1]), named("z", ids(&[1, 4]))],
            r#"model "echo" has no input "z", expected x, ids"#,
        ),
        (
            vec![x(&[1, 1]), named("ids", x(&[1, 4]))],
            r#"input "ids" is F32 [1, 4], expected I64 [?, ?]"#,
        ),
        (
            vec![x(&[1]), ids(&[1, 4])],
            r#"input "x" is F32 [1], expected F32 [?, 1]"#,
        ),
        (
            vec![x(&[1, 2]), ids(&[1, 4])],
            r#"input "x" is F32 [1, 2], expected F32 [?, 1]"#,
        ),
        (
            vec![x(&[0, 1]), ids(&[0, 4])],
            r#"input "x" is F32 [0, 1], expected F32 [?, 1]"#,
        ),
        (
            vec![x(&[1, 1]), ids(&[1, 0])],
            r#"input "ids" is I64 [1, 0], expected I64 [?, ?]"#,
        ),
        (
            vec![x(&[2, 1]), ids(&[3, 4])],
            r#"input "ids" has 3 rows, the others have 2"#,
        ),
    ];
    for (inputs, message) in cases {
        let request = Request {
            inputs,
            ..node.request(1, &[])
        };
        let error = node.inference.submit(request).await.unwrap_err();
        assert_eq!(error, Error::Invalid(message.to_owned()));
        assert_eq!(error.to_string(), message);
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_not_there_is_refused() {
    let node = Node::of(sim()).await;
    let mut request = request(&node.echo, 1, &[0.0]);
    request.model = ModelId(7);
    assert_eq!(node.inference.submit(request).await, Err(Error::NotLoaded));
    assert_eq!(node.inference.model("nothing"), None);
}
