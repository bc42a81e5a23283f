//! `scheduler-cost`: CPU time of the scheduler for a request, from the queue to its share of a run, with 100,000 requests of
//! 10,000 tenants queued; and how it grows, beside a tenth of both. Of five rounds the shortest, which was disturbed least: most
//! of the time goes to memory that a busy neighbour's caches push out.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::machine::{judge_timed, load_average};
use shoal_inference::scheduler_cost;
use std::time::Duration;

const TENANTS: u64 = 10_000;
const QUEUED: u64 = 100_000;
const ROUNDS: usize = 5;
const REQUESTS: u64 = 400_000;
const US_MAX: f64 = 2.0;
/// What is logarithmic grows by a quarter to a third for ten times as much; memory that no longer fits in a cache costs more.
const GROWTH_MAX: f64 = 3.0;

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let load = load_average()?;
    let requests = if run.quick { REQUESTS / 10 } else { REQUESTS };
    let cost = move |tenants, queued| {
        let rounds = move || {
            (0..ROUNDS)
                .map(|_| scheduler_cost(tenants, queued, requests))
                .min()
        };
        let spent = tokio::task::spawn_blocking(rounds);
        async move { Ok::<_, anyhow::Error>(spent.await?.unwrap_or_default()) }
    };
    let small = cost(TENANTS / 10, QUEUED / 10).await?;
    let large = cost(TENANTS, QUEUED).await?;
    let us = |spent: Duration| spent.as_secs_f64() * 1e6 / requests as f64;
    eprintln!(
        "scheduler-cost: {:.2} µs a request at a tenth, {:.2} µs at {TENANTS} tenants and {QUEUED} queued",
        us(small),
        us(large)
    );
    let timed = vec![
        Figure {
            value: us(large),
            unit: "µs_of_CPU/request",
            target: Target::AtMost(US_MAX),
        },
        Figure {
            value: us(large) / us(small),
            unit: "times_a_tenth",
            target: Target::AtMost(GROWTH_MAX),
        },
    ];
    Ok(judge_timed(run, Vec::new(), timed, requests, load))
}
