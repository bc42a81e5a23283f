//! What the scheduler itself costs.

use super::{Decision, Entry, Limits, RequestId, Scheduler, Shape, Targets};
use crate::cost::CostCurve;
use crate::plan::DEPTH;
use crate::request::{Class, ModelId, TenantId, Terms};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use tokio::time::Instant;

const MODEL: ModelId = ModelId(0);
const ROWS_MAX: u32 = 32;
/// 2 ms and 20 µs a row.
const RUN_NS: u64 = 2_640_000;

/// CPU time of the scheduler alone for so many requests of one row, each queued, put in a batch, and charged for its share of a
/// run, while `queued` requests of `tenants` tenants wait all the time. A device that holds two runs, batches of 32 rows.
pub fn scheduler_cost(tenants: u64, queued: u64, requests: u64) -> Duration {
    let unbounded = Terms {
        weight: 1,
        priority: false,
        rows_max: u64::MAX,
        bytes_max: u64::MAX,
        requests_max: u64::MAX,
    };
    let limits = Limits {
        wait_max: Duration::from_millis(5),
        terms: unbounded,
        tenant_shapes_max: 64,
        batch_bytes_max: u64::MAX,
        targets: Targets {
            priority: Duration::from_millis(50),
            default: Duration::from_millis(500),
        },
    };
    let mut scheduler = Scheduler::new(limits, &[DEPTH]);
    scheduler.add_model(MODEL, ROWS_MAX, [0], &CostCurve::default());
    let mut now = Instant::now();
    let mut last_id = 0_u64;
    let mut push = |scheduler: &mut Scheduler, now: Instant| {
        last_id += 1;
        // Tenants in no order that a cache could guess.
        let tenant = TenantId(last_id.wrapping_mul(0x9e37_79b9_7f4a_7c15) % tenants.max(1));
        let entry = Entry {
            id: RequestId(last_id),
            tenant,
            model: MODEL,
            class: Class::Default,
            shape: Shape::default(),
            rows: 1,
            row_units: 1,
            bytes: 256,
            queued_at: now,
            deadline: now + Duration::from_secs(3_600),
        };
        let pushed = scheduler.push(now, entry);
        assert!(pushed.is_ok(), "nothing is bounded here");
    };
    for _ in 0..queued {
        push(&mut scheduler, now);
    }
    let before = thread_cpu();
    let mut done = 0;
    while done < requests {
        let mut runs = Vec::with_capacity(DEPTH);
        while let Decision::Run(run) = scheduler.next(now, 0, &mut |_| false) {
            runs.push(run);
        }
        for run in runs {
            now += Duration::from_nanos(RUN_NS);
            let finished = scheduler.finish(now, 0, run.ticket, RUN_NS);
            let rows = finished.map_or(0, |finished| finished.shares.len());
            done += rows as u64;
            scheduler.expire(now);
            for _ in 0..rows {
                push(&mut scheduler, now);
            }
        }
    }
    thread_cpu().saturating_sub(before)
}

/// CPU time so far of this thread.
fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let secs = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(secs, u32::try_from(now.tv_nsec).unwrap_or_default())
}
