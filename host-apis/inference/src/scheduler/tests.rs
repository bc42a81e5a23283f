//! Tables for each rule, then laws over random scripts.

mod laws;
mod turns;

use super::*;
use crate::plan::DEPTH;

const A: TenantId = TenantId(1);
const B: TenantId = TenantId(2);

/// One model of 8 rows, one that cannot be batched, and one more of 8 rows.
const ROWS_MAX: [u32; 3] = [8, 1, 8];
const DIGITS: ModelId = ModelId(0);
const ONE_BY_ONE: ModelId = ModelId(1);
const OTHER: ModelId = ModelId(2);

const TERMS: Terms = Terms {
    weight: 1,
    priority: true,
    rows_max: 100,
    bytes_max: 1_000,
    requests_max: 100,
};
const TARGETS: Targets = Targets {
    priority: Duration::from_secs(3600),
    default: Duration::from_secs(3600),
};

struct Bench {
    scheduler: Scheduler,
    zero: Instant,
    last_id: u64,
}

impl Bench {
    fn new(wait_ms: u64, devices: usize) -> Self {
        let limits = Limits {
            wait_max: Duration::from_millis(wait_ms),
            terms: TERMS,
            tenant_shapes_max: 64,
            batch_bytes_max: 400,
            targets: TARGETS,
        };
        let mut scheduler = Scheduler::new(limits, &vec![DEPTH; devices]);
        for (model, rows_max) in (0..).map(ModelId).zip(ROWS_MAX) {
            scheduler.add_model(model, rows_max, 0..devices, &CostCurve::default());
        }
        Self {
            scheduler,
            zero: Instant::now(),
            last_id: 0,
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.zero + Duration::from_millis(ms)
    }

    fn entry(&mut self, ms: u64, tenant: TenantId, model: ModelId, rows: u32) -> Entry {
        self.last_id += 1;
        Entry {
            id: RequestId(self.last_id),
            tenant,
            model,
            class: Class::Default,
            shape: Shape::default(),
            row_units: 1,
            rows,
            bytes: 10 * u64::from(rows),
            queued_at: self.at(ms),
            deadline: self.at(ms + 1_000),
        }
    }

    fn push(&mut self, ms: u64, tenant: TenantId, model: ModelId, rows: u32) -> u64 {
        let entry = self.entry(ms, tenant, model, rows);
        self.scheduler.push(entry.queued_at, entry).unwrap();
        self.last_id
    }

    fn next(&mut self, ms: u64, device: usize) -> Decision {
        let now = self.at(ms);
        self.scheduler.next(now, device, &mut |_| false)
    }

    /// The requests of the batch that is expected now.
    fn run(&mut self, ms: u64, device: usize) -> Vec<u64> {
        match self.next(ms, device) {
            Decision::Run(run) => run.requests.iter().map(|id| id.0).collect(),
            other => panic!("expected a run at {ms} ms, got {other:?}"),
        }
    }

    fn finish(&mut self, ms: u64, device: usize, ticket: u64, took_ms: u64) {
        let now = self.at(ms);
        self.scheduler
            .finish(now, device, Ticket(ticket), took_ms * 1_000_000)
            .expect("the run was in flight");
    }
}

#[test]
fn an_idle_device_runs_what_there_is_at_once() {
    let mut bench = Bench::new(0, 1);
    assert_eq!(bench.next(0, 0), Decision::Idle);
    bench.push(0, A, DIGITS, 3);
    assert_eq!(bench.run(0, 0), [1]);
}

#[test]
fn a_batch_takes_whole_requests_up_to_its_rows() {
    let mut bench = Bench::new(0, 3);
    for rows in [5, 5, 3] {
        bench.push(0, A, DIGITS, rows);
    }
    assert_eq!(bench.run(0, 0), [1], "the next of this tenant does not fit");
    assert_eq!(bench.run(0, 1), [2, 3]);
    assert_eq!(bench.next(0, 2), Decision::Idle);
}

#[test]
fn a_batch_is_filled_up_with_a_smaller_request_of_another_tenant() {
    let mut bench = Bench::new(0, 1);
    for (tenant, rows) in [(A, 5), (A, 5), (B, 1), (B, 2), (B, 1)] {
        bench.push(0, tenant, DIGITS, rows);
    }
    assert_eq!(bench.run(0, 0), [1, 3, 4]);
}

#[test]
fn tenants_take_turns_by_rows_and_each_keeps_its_order() {
    let mut bench = Bench::new(0, 1);
    for _ in 0..10 {
        bench.push(0, A, DIGITS, 1);
    }
    for rows in [1, 2, 1] {
        bench.push(0, B, DIGITS, rows);
    }
    // A and B have had 1 each, then A's second, B's second (2 rows, so A goes on), and so on to 8 rows.
    assert_eq!(bench.run(0, 0), [1, 11, 2, 12, 3, 4, 13]);
}

#[test]
fn the_bytes_of_a_batch_are_bounded_but_a_large_request_runs_alone() {
    let mut bench = Bench::new(0, 3);
    for bytes in [500, 299, 100, 1] {
        let mut entry = bench.entry(0, TenantId(bytes), DIGITS, 1);
        entry.bytes = bytes;
        bench.scheduler.push(entry.queued_at, entry).unwrap();
    }
    assert_eq!(bench.run(0, 0), [4, 3, 2], "together 400");
    assert_eq!(bench.run(0, 1), [1]);
}

#[test]
fn a_model_without_a_batch_axis_runs_one_by_one() {
    let mut bench = Bench::new(5, 1);
    bench.push(0, A, ONE_BY_ONE, 1);
    bench.push(0, B, ONE_BY_ONE, 1);
    assert_eq!(bench.run(0, 0), [1], "one is a full batch: no window");
    assert_eq!(bench.run(0, 0), [2]);
}

#[test]
fn only_requests_of_one_shape_share_a_batch() {
    let mut bench = Bench::new(0, 2);
    for (tenant, size) in [(1, 16), (2, 32), (3, 16)] {
        let mut entry = bench.entry(0, TenantId(tenant), DIGITS, 1);
        entry.shape = [size].into();
        bench.scheduler.push(entry.queued_at, entry).unwrap();
    }
    assert_eq!(bench.run(0, 0), [1, 3]);
    assert_eq!(bench.run(0, 1), [2]);
}

#[test]
fn the_model_that_has_not_run_for_longest_goes_first() {
    let mut bench = Bench::new(0, 4);
    for _ in 0..16 {
        bench.push(0, A, DIGITS, 1);
    }
    bench.push(1, B, OTHER, 1);
    assert_eq!(bench.run(1, 0), (1..=8).collect::<Vec<_>>());
    assert_eq!(bench.run(1, 1), [17], "though it came last");
    assert_eq!(bench.run(1, 2), (9..=16).collect::<Vec<_>>());
}

#[test]
fn the_second_slot_takes_a_full_batch_at_once_and_there_is_no_third() {
    let mut bench = Bench::new(0, 1);
    for _ in 0..24 {
        bench.push(0, A, DIGITS, 1);
    }
    bench.run(0, 0);
    bench.run(0, 0);
    assert_eq!(bench.next(0, 0), Decision::Idle);
}

#[test]
fn the_second_slot_waits_for_the_outcome_while_the_cost_is_unknown() {
    let mut bench = Bench::new(0, 1);
    bench.push(0, A, DIGITS, 1);
    bench.run(0, 0);
    bench.push(0, A, DIGITS, 1);
    assert_eq!(bench.next(0, 0), Decision::Idle);
    bench.finish(10, 0, 1, 10);
    assert_eq!(bench.run(10, 0), [2]);
}

#[test]
fn the_second_slot_is_filled_one_millisecond_before_the_expected_end() {
    let mut bench = Bench::new(0, 1);
    bench.push(0, A, DIGITS, 1);
    bench.run(0, 0);
    bench.finish(10, 0, 1, 10);
    bench.push(20, A, DIGITS, 1);
    bench.run(20, 0);
    bench.push(21, A, DIGITS, 1);
    // From 26 on for a full batch, from 29 on for any.
    assert_eq!(bench.next(21, 0), Decision::WaitUntil(bench.at(26)));
    assert_eq!(bench.next(26, 0), Decision::WaitUntil(bench.at(29)));
    bench.push(28, B, DIGITS, 1);
    assert_eq!(bench.run(29, 0), [3, 4]);
    // The third run begins when the second ends, not when it was handed over.
    bench.push(30, A, DIGITS, 1);
    bench.finish(30, 0, 2, 10);
    assert_eq!(bench.next(30, 0), Decision::WaitUntil(bench.at(36)));
}

#[test]
fn the_end_of_a_run_is_expected_from_its_begin_not_from_when_it_was_handed_over() {
    let mut bench = Bench::new(0, 1);
    bench.push(0, A, DIGITS, 1);
    bench.run(0, 0);
    bench.finish(10, 0, 1, 10);
    bench.push(20, A, DIGITS, 1);
    bench.run(20, 0);
    bench.push(21, A, DIGITS, 1);
    bench.run(29, 0);
    bench.finish(30, 0, 2, 10);
    bench.push(31, A, DIGITS, 1);
    assert_eq!(bench.next(37, 0), Decision::WaitUntil(bench.at(39)));
}

#[test]
fn the_second_slot_of_a_short_run_is_not_filled_in_its_first_half() {
    let mut bench = Bench::new(0, 1);
    bench.push(0, A, DIGITS, 1);
    bench.run(0, 0);
    bench.finish(1, 0, 1, 1);
    bench.push(2, A, DIGITS, 1);
    bench.run(2, 0);
    bench.push(2, A, DIGITS, 1);
    let half = bench.at(2) + Duration::from_micros(500);
    assert_eq!(bench.next(2, 0), Decision::WaitUntil(half));
}

#[test]
fn a_failed_batch_is_halved_until_only_the_culprit_fails() {
    let mut bench = Bench::new(0, 1);
    for _ in 0..4 {
        bench.push(0, A, DIGITS, 1);
    }
    let now = bench.at(1);
    let mut tried = Vec::new();
    let mut culprits = Vec::new();
    for ticket in 1..=5 {
        let requests = bench.run(0, 0);
        if requests.contains(&3) {
            culprits.extend(bench.scheduler.fail(now, 0, Ticket(ticket)));
        } else {
            bench.finish(1, 0, ticket, 1);
        }
        tried.push(requests);
    }
    assert_eq!(
        tried,
        [vec![1, 2, 3, 4], vec![1, 2], vec![3, 4], vec![3], vec![4]]
    );
    assert_eq!(culprits, [RequestId(3)]);
    assert_eq!(bench.scheduler.next_deadline(), None, "all are answered");
}

#[test]
fn what_a_dead_device_held_runs_one_by_one_elsewhere_in_order() {
    let mut bench = Bench::new(0, 2);
    for _ in 0..10 {
        bench.push(0, A, DIGITS, 1);
    }
    assert_eq!(bench.run(0, 0).len(), 8);
    bench.scheduler.devices[0].observe(bench.zero, DIGITS, 8, 0);
    assert_eq!(bench.run(0, 0).len(), 2);
    assert_eq!(bench.scheduler.die(0), []);
    assert_eq!(bench.next(1, 0), Decision::Idle);
    for (id, ticket) in (1..=10).zip(3..) {
        assert_eq!(bench.run(1, 1), [id]);
        bench.finish(1, 1, ticket, 1);
    }
    assert!(bench.scheduler.is_live());
}

#[test]
fn a_request_whose_device_dies_twice_is_the_poison() {
    let mut bench = Bench::new(0, 3);
    bench.push(0, A, DIGITS, 1);
    bench.push(0, A, DIGITS, 1);
    assert_eq!(bench.run(0, 0), [1, 2]);
    assert_eq!(bench.scheduler.die(0), []);
    assert_eq!(bench.run(0, 1), [1]);
    // The second slot holds one that is under suspicion as well, but it has not begun when the device dies.
    assert_eq!(bench.run(0, 1), [2]);
    assert_eq!(bench.scheduler.die(1), [RequestId(1)]);
    assert_eq!(bench.run(0, 2), [2]);
    bench.finish(1, 2, 4, 1);
    assert_eq!(bench.scheduler.next_deadline(), None);
}

#[test]
fn a_deadline_holds_in_the_queue_and_on_the_device() {
    let mut bench = Bench::new(0, 1);
    bench.push(0, A, DIGITS, 8);
    bench.push(5, B, DIGITS, 8);
    bench.push(6, B, DIGITS, 8);
    bench.run(6, 0);
    assert_eq!(bench.scheduler.next_deadline(), Some(bench.at(1_000)));
    let now = bench.at(1_005);
    assert_eq!(bench.scheduler.expire(now), [RequestId(1), RequestId(2)]);
    assert_eq!(bench.scheduler.queued_rows(), 8);
    assert_eq!(bench.scheduler.expire(now), []);
    assert_eq!(bench.run(1_005, 0), [3]);
}

#[test]
fn what_expires_in_a_failed_batch_is_not_run_again() {
    let mut bench = Bench::new(0, 1);
    bench.push(0, A, DIGITS, 1);
    bench.push(5, B, DIGITS, 1);
    assert_eq!(bench.run(5, 0), [1, 2]);
    let now = bench.at(1_000);
    assert_eq!(bench.scheduler.expire(now), [RequestId(1)]);
    assert_eq!(bench.scheduler.fail(now, 0, Ticket(1)), []);
    assert_eq!(bench.run(1_000, 0), [2]);
}

#[test]
fn a_caller_that_has_left_is_neither_run_nor_charged() {
    let mut bench = Bench::new(0, 1);
    for tenant in [A, A, B] {
        bench.push(0, tenant, DIGITS, 4);
    }
    let now = bench.at(1);
    let decision = bench.scheduler.next(now, 0, &mut |id| id == RequestId(1));
    let Decision::Run(run) = decision else {
        panic!("expected a run");
    };
    assert_eq!(run.requests, [RequestId(2), RequestId(3)]);
    assert_eq!(bench.scheduler.queued_rows(), 0);
    assert_eq!(bench.scheduler.deadlines.len(), 2);
}

#[test]
fn the_limits_of_a_tenant_hold_at_one_over_and_far_over() {
    for (rows, bytes, limit) in [
        (1, 0, "tenant_rows_max"),
        (8, 0, "tenant_rows_max"),
        (1, 1, "tenant_rows_max"),
    ] {
        let mut bench = Bench::new(0, 1);
        for _ in 0..20 {
            let mut entry = bench.entry(0, A, DIGITS, 5);
            entry.bytes = 0;
            bench.scheduler.push(entry.queued_at, entry).unwrap();
        }
        let mut entry = bench.entry(0, A, DIGITS, rows);
        entry.bytes = bytes;
        let full = QueueFull { limit, max: 100 };
        assert_eq!(bench.scheduler.push(entry.queued_at, entry), Err(full));
        bench.push(0, B, DIGITS, 1);
    }
    for bytes in [1, 1_000, u64::MAX] {
        let mut bench = Bench::new(0, 1);
        let mut entry = bench.entry(0, A, DIGITS, 1);
        entry.bytes = 1_000;
        bench.scheduler.push(entry.queued_at, entry).unwrap();
        let mut entry = bench.entry(0, A, DIGITS, 1);
        entry.bytes = bytes;
        let full = QueueFull {
            limit: "tenant_bytes_max",
            max: 1_000,
        };
        assert_eq!(bench.scheduler.push(entry.queued_at, entry), Err(full));
    }
}

#[test]
fn what_has_been_handed_over_makes_room_in_the_queue() {
    let mut bench = Bench::new(0, 1);
    for _ in 0..20 {
        bench.push(0, A, DIGITS, 5);
    }
    bench.run(0, 0);
    bench.push(0, A, DIGITS, 5);
    assert_eq!(bench.scheduler.queued_rows(), 100);
}

#[test]
fn the_queues_drain_in_the_rows_time_divided_by_the_devices() {
    let mut bench = Bench::new(0, 2);
    assert_eq!(bench.scheduler.drain_time(), Duration::from_secs(1));
    bench.push(0, A, DIGITS, 8);
    bench.run(0, 0);
    bench.finish(80, 0, 1, 80);
    assert_eq!(bench.scheduler.drain_time(), Duration::from_millis(10));
    for _ in 0..10 {
        bench.push(80, A, DIGITS, 8);
    }
    assert_eq!(bench.scheduler.drain_time(), Duration::from_millis(400));
    bench.scheduler.die(0);
    assert_eq!(bench.scheduler.drain_time(), Duration::from_millis(800));
}

#[test]
fn a_model_that_goes_gives_back_what_waits_and_no_run_of_it_begins() {
    let mut bench = Bench::new(0, 1);
    for tenant in [A, B, A] {
        bench.push(0, tenant, DIGITS, 5);
    }
    bench.push(0, B, OTHER, 1);
    assert_eq!(bench.run(0, 0), [1]);
    let given_back = bench.scheduler.remove_model(DIGITS);
    assert_eq!(given_back, [RequestId(2), RequestId(3)]);
    assert!(!bench.scheduler.has_model(DIGITS));
    assert_eq!(bench.scheduler.queued_rows(), 1);
    assert!(bench.scheduler.is_running(DIGITS), "its run goes on");
    bench.finish(10, 0, 1, 10);
    assert!(!bench.scheduler.is_running(DIGITS));
    assert_eq!(bench.run(10, 0), [4], "the other model is untouched");
    assert_eq!(bench.scheduler.remove_model(DIGITS), []);
}

#[test]
fn a_run_that_fails_after_its_model_has_gone_is_not_run_again() {
    let mut bench = Bench::new(0, 2);
    for _ in 0..12 {
        bench.push(0, A, DIGITS, 1);
    }
    assert_eq!(bench.run(0, 0).len(), 8);
    assert_eq!(bench.run(0, 1).len(), 4);
    assert_eq!(bench.scheduler.remove_model(DIGITS), []);
    let now = bench.at(1);
    let failed = bench.scheduler.fail(now, 0, Ticket(1));
    assert_eq!(failed, (1..=8).map(RequestId).collect::<Vec<_>>());
    let died = bench.scheduler.die(1);
    assert_eq!(died, (9..=12).map(RequestId).collect::<Vec<_>>());
    assert_eq!(bench.next(1, 0), Decision::Idle);
    assert_eq!(bench.scheduler.next_deadline(), None, "all are answered");
}

#[test]
fn what_waits_to_run_again_is_given_back_with_its_model() {
    let mut bench = Bench::new(0, 1);
    for _ in 0..4 {
        bench.push(0, A, DIGITS, 1);
    }
    bench.run(0, 0);
    let now = bench.at(1);
    assert_eq!(bench.scheduler.fail(now, 0, Ticket(1)), []);
    assert_eq!(bench.run(1, 0), [1, 2]);
    assert_eq!(
        bench.scheduler.remove_model(DIGITS),
        [RequestId(3), RequestId(4)]
    );
    bench.finish(2, 0, 2, 1);
    assert_eq!(bench.next(2, 0), Decision::Idle);
    assert_eq!(bench.scheduler.next_deadline(), None, "all are answered");
}

#[test]
fn a_deadline_on_a_device_outlives_the_model() {
    let mut bench = Bench::new(0, 1);
    bench.push(0, A, DIGITS, 1);
    bench.run(0, 0);
    assert_eq!(bench.scheduler.remove_model(DIGITS), []);
    let now = bench.at(1_000);
    assert_eq!(bench.scheduler.expire(now), [RequestId(1)]);
    assert_eq!(bench.scheduler.fail(now, 0, Ticket(1)), [], "was answered");
}

#[test]
fn a_model_that_comes_has_no_past() {
    let mut bench = Bench::new(0, 1);
    bench.push(0, A, DIGITS, 1);
    bench.run(0, 0);
    bench.finish(10, 0, 1, 10);
    bench.scheduler.remove_model(DIGITS);
    let curve = CostCurve::default();
    bench.scheduler.add_model(ModelId(3), 8, [0], &curve);
    bench.push(10, A, ModelId(3), 1);
    assert_eq!(bench.run(10, 0), [2]);
    bench.push(11, A, ModelId(3), 1);
    assert_eq!(bench.next(11, 0), Decision::Idle, "its cost is not known");
}
