//! `engine-cost`: CPU time of a request from a caller's submission to its reply: the engine on its thread, the channels both
//! ways, the worker, the caller's own part. The device takes no time and gives back what it gets. What is counted is the CPU
//! time of the whole process.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::machine::process_cpu;
use crate::simulated::{echo, echo_source, simulated};
use anyhow::Context as _;
use shoal_inference::{Class, Config, Inference, ModelId, Request, TenantId, Tensor, start_thread};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

const CALLERS: u64 = 64;
const REQUESTS: u64 = 400_000;
const US_MAX: f64 = 10.0;
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let requests = if run.quick { REQUESTS / 10 } else { REQUESTS };
    // All callers on one thread, as many of a socket's are.
    let measured = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        runtime.block_on(ask(requests))
    });
    let us = measured.await.context("asking")??;
    Ok(Outcome::Measured {
        figures: vec![Figure {
            value: us,
            unit: "µs_of_CPU/request",
            target: Target::AtMost(US_MAX),
        }],
        n: requests,
    })
}

async fn ask(requests: u64) -> anyhow::Result<f64> {
    let device = simulated(Duration::ZERO, Duration::ZERO, echo());
    let (inference, engine) = Inference::new(Config::default(), vec![device])?;
    let thread = start_thread(engine)?;
    let model = inference.load(echo_source()).await?.id;
    calls(&inference, model, requests / 10).await?;
    let before = process_cpu();
    calls(&inference, model, requests).await?;
    let spent = process_cpu().saturating_sub(before);
    let rows = inference.stats().rows as f64 / inference.stats().runs as f64;
    eprintln!("engine-cost: {CALLERS} callers, {rows:.1} rows a run");
    drop(inference);
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the engine panicked"))?;
    Ok(spent.as_secs_f64() * 1e6 / requests as f64)
}

async fn calls(inference: &Inference, model: ModelId, requests: u64) -> anyhow::Result<()> {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let inference = inference.clone();
        callers.spawn(async move {
            for _ in 0..requests / CALLERS {
                let request = Request {
                    tenant: TenantId(caller % 8),
                    model,
                    class: Class::Default,
                    deadline: Instant::now() + PATIENCE,
                    inputs: vec![("x".to_owned(), Tensor::f32(vec![1, 1], &[0.0])?)],
                };
                inference.submit(request).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(called) = callers.join_next().await {
        called??;
    }
    Ok(())
}
