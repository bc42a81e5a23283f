//! Whose turn it is: weights, classes, deadlines, models, and what gives way.

use super::*;

/// Runs one batch after the other, each of 10 ms, until nothing waits; whose rows were in the first `batches`.
fn served(bench: &mut Bench, batches: usize) -> BTreeMap<TenantId, u32> {
    let mut served = BTreeMap::new();
    let mut ticket = bench.scheduler.last_ticket;
    for _ in 0..batches {
        let now = bench.at(0);
        let Decision::Run(_) = bench.scheduler.next(now, 0, &mut |_| false) else {
            panic!("there is enough for {batches} batches");
        };
        ticket += 1;
        let end = bench.at(10);
        let finished = bench.scheduler.finish(end, 0, Ticket(ticket), 10_000_000);
        for entry in finished.unwrap().batch.entries {
            *served.entry(entry.tenant).or_default() += entry.rows;
        }
    }
    served
}

fn unbounded(devices: usize) -> Bench {
    let mut bench = Bench::new(0, devices);
    bench.scheduler.limits.terms = Terms {
        weight: 1,
        priority: true,
        rows_max: u64::MAX,
        bytes_max: u64::MAX,
        requests_max: u64::MAX,
    };
    bench.scheduler.limits.batch_bytes_max = u64::MAX;
    bench
}

fn push_all(bench: &mut Bench, count: u64, tenant: TenantId, class: Class) {
    for _ in 0..count {
        let mut entry = bench.entry(0, tenant, DIGITS, 1);
        entry.class = class;
        bench.scheduler.push(entry.queued_at, entry).unwrap();
    }
}

#[test]
fn device_time_is_shared_by_weight() {
    let mut bench = unbounded(1);
    let terms = bench.scheduler.limits.terms;
    bench
        .scheduler
        .set_terms(B, Some(Terms { weight: 3, ..terms }));
    for tenant in [A, B] {
        push_all(&mut bench, 400, tenant, Class::Default);
    }
    assert_eq!(served(&mut bench, 50), BTreeMap::from([(A, 100), (B, 300)]));
}

#[test]
fn a_priority_request_weighs_eight_times_another() {
    let mut bench = unbounded(1);
    push_all(&mut bench, 400, A, Class::Default);
    push_all(&mut bench, 400, B, Class::Priority);
    assert_eq!(served(&mut bench, 45), BTreeMap::from([(A, 40), (B, 320)]));
}

#[test]
fn flex_leads_no_run_while_others_wait_and_fills_what_they_leave() {
    let mut bench = unbounded(1);
    push_all(&mut bench, 20, A, Class::Flex);
    push_all(&mut bench, 13, B, Class::Default);
    assert_eq!(served(&mut bench, 1), BTreeMap::from([(B, 8)]));
    assert_eq!(served(&mut bench, 1), BTreeMap::from([(A, 3), (B, 5)]));
    assert_eq!(served(&mut bench, 1), BTreeMap::from([(A, 8)]));
}

#[test]
fn a_tenant_that_weighs_nothing_gets_what_is_idle() {
    let mut bench = unbounded(1);
    let terms = bench.scheduler.limits.terms;
    bench
        .scheduler
        .set_terms(A, Some(Terms { weight: 0, ..terms }));
    push_all(&mut bench, 8, A, Class::Priority);
    push_all(&mut bench, 8, B, Class::Default);
    assert_eq!(served(&mut bench, 1), BTreeMap::from([(B, 8)]));
    assert_eq!(served(&mut bench, 1), BTreeMap::from([(A, 8)]));
}

#[test]
fn flex_that_has_not_begun_gives_way_and_runs_later() {
    let mut bench = Bench::new(0, 1);
    push_all(&mut bench, 16, A, Class::Flex);
    assert_eq!(bench.run(0, 0), (1..=8).collect::<Vec<_>>());
    assert_eq!(bench.run(0, 0), (9..=16).collect::<Vec<_>>());
    assert_eq!(bench.next(0, 0), Decision::Idle);
    bench.push(1, B, DIGITS, 1);
    assert_eq!(bench.next(1, 0), Decision::Preempt(Ticket(2)));
    assert_eq!(bench.next(1, 0), Decision::Idle, "asked once");
    // The device gives it back as soon as its turn would have come.
    bench.finish(10, 0, 1, 10);
    let now = bench.at(10);
    assert_eq!(bench.scheduler.cancelled(now, 0, Ticket(2)), []);
    assert_eq!(bench.run(10, 0), [17, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(bench.scheduler.queued_rows(), 1);
}

#[test]
fn what_has_begun_is_not_asked_back() {
    let mut bench = Bench::new(0, 1);
    push_all(&mut bench, 1, A, Class::Flex);
    bench.run(0, 0);
    bench.push(1, B, DIGITS, 8);
    assert_eq!(bench.run(1, 0), [2]);
    bench.push(1, B, DIGITS, 8);
    assert_eq!(bench.next(1, 0), Decision::Idle);
}

#[test]
fn within_a_tenant_the_nearest_deadline_goes_first_then_the_earliest() {
    let mut bench = Bench::new(0, 1);
    for lives_ms in [500, 100, 500, 300] {
        let mut entry = bench.entry(0, A, ONE_BY_ONE, 1);
        entry.deadline = bench.at(lives_ms);
        bench.scheduler.push(entry.queued_at, entry).unwrap();
    }
    for id in [2, 4, 1, 3] {
        assert_eq!(bench.run(0, 0), [id]);
        bench.finish(0, 0, bench.scheduler.last_ticket, 0);
    }
}

#[test]
fn what_would_end_after_its_deadline_is_not_begun() {
    let mut bench = Bench::new(0, 1);
    // Not by one run alone, which may have been cold.
    for (ticket, lives_ms) in [(1, 1_000), (2, 9)] {
        let mut entry = bench.entry(0, A, DIGITS, 1);
        entry.deadline = bench.at(lives_ms);
        bench.scheduler.push(entry.queued_at, entry).unwrap();
        assert_eq!(bench.run(0, 0), [ticket]);
        bench.finish(10, 0, ticket, 10);
    }
    for lives_ms in [9, 10] {
        let mut entry = bench.entry(20, A, DIGITS, 1);
        entry.deadline = bench.at(20 + lives_ms);
        bench.scheduler.push(entry.queued_at, entry).unwrap();
    }
    assert_eq!(bench.run(20, 0), [4]);
    let too_late = TooLate {
        id: RequestId(3),
        needs: Duration::from_millis(10),
        left: Duration::from_millis(9),
    };
    assert_eq!(bench.scheduler.take_too_late(), [too_late]);
    assert_eq!(bench.scheduler.queued_rows(), 0);
}

#[test]
fn a_tenant_whose_requests_fail_pays_for_the_runs_they_spoilt() {
    let mut bench = unbounded(1);
    push_all(&mut bench, 1, A, Class::Default);
    bench.run(0, 0);
    push_all(&mut bench, 16, B, Class::Default);
    let now = bench.at(100);
    assert_eq!(bench.scheduler.fail(now, 0, Ticket(1)), [RequestId(1)]);
    // 100 ms behind, ten runs of the other.
    push_all(&mut bench, 16, A, Class::Default);
    assert_eq!(served(&mut bench, 1), BTreeMap::from([(B, 8)]));
}

#[test]
fn more_that_is_about_to_come_is_worth_a_wait_and_nothing_else_is() {
    let mut bench = Bench::new(5, 1);
    let curve = CostCurve::of_dry_runs([(1, 2_020_000), (8, 2_160_000)]);
    bench.scheduler.devices[0].add_model(DIGITS, curve);
    // Two callers that ask again as soon as they are answered.
    for round in 0..20 {
        let now = 4 * round;
        bench.push(now, A, DIGITS, 1);
        bench.push(now, B, DIGITS, 1);
        assert_eq!(bench.run(now, 0).len(), 2);
        bench.finish(now + 3, 0, round + 1, 3);
    }
    // One has come back, the other will.
    bench.push(80, A, DIGITS, 1);
    assert!(matches!(bench.next(80, 0), Decision::WaitUntil(at) if at < bench.at(81)));
    bench.push(80, B, DIGITS, 1);
    assert_eq!(bench.run(80, 0).len(), 2);
}

#[test]
fn a_device_leaves_what_another_will_have_done_sooner() {
    let mut bench = unbounded(2);
    for (device, run_ns) in [(0, 100_000_000), (1, 1_000_000)] {
        bench.scheduler.devices[device].observe(bench.zero, ONE_BY_ONE, 1, run_ns);
    }
    bench.push(0, A, ONE_BY_ONE, 1);
    bench.push(0, A, ONE_BY_ONE, 1);
    assert_eq!(bench.run(0, 1), [1]);
    assert_eq!(
        bench.next(0, 0),
        Decision::WaitUntil(bench.at(100)),
        "it would take 100 ms here; there it will have been done after 2"
    );
    // With 200 behind it, it is worth it.
    for _ in 0..200 {
        bench.push(0, A, ONE_BY_ONE, 1);
    }
    assert_eq!(bench.run(0, 0), [2]);
}

#[test]
fn leaving_after_a_failed_run_costs_what_it_took() {
    let mut bench = unbounded(1);
    push_all(&mut bench, 1, A, Class::Default);
    push_all(&mut bench, 1, B, Class::Default);
    assert_eq!(bench.run(0, 0), [1, 2]);
    push_all(&mut bench, 16, B, Class::Default);
    let now = bench.at(100);
    assert_eq!(bench.scheduler.fail(now, 0, Ticket(1)), []);
    let left = &mut |id| id == RequestId(1);
    let Decision::Run(run) = bench.scheduler.next(now, 0, left) else {
        panic!("the other half is run again");
    };
    assert_eq!(run.requests, [RequestId(2)]);
    bench.finish(110, 0, 2, 10);
    // 100 ms behind, as if its request had been the culprit.
    push_all(&mut bench, 16, A, Class::Default);
    assert_eq!(served(&mut bench, 1), BTreeMap::from([(B, 8)]));
}

#[test]
fn a_flex_tenant_that_comes_back_has_no_credit_for_holes_it_did_not_fill() {
    let mut bench = unbounded(1);
    for _ in 0..100 {
        bench.push(0, B, DIGITS, 7);
    }
    push_all(&mut bench, 100, A, Class::Flex);
    assert_eq!(served(&mut bench, 50), BTreeMap::from([(A, 50), (B, 350)]));
    let late = TenantId(3);
    push_all(&mut bench, 100, late, Class::Flex);
    let after = served(&mut bench, 20);
    assert_eq!(after, BTreeMap::from([(A, 10), (B, 140), (late, 10)]));
}

#[test]
fn flex_that_failed_is_not_run_again_in_front_of_others() {
    let mut bench = Bench::new(0, 1);
    push_all(&mut bench, 8, A, Class::Flex);
    assert_eq!(bench.run(0, 0).len(), 8);
    bench.push(1, B, DIGITS, 8);
    let now = bench.at(5);
    assert_eq!(bench.scheduler.fail(now, 0, Ticket(1)), []);
    assert_eq!(bench.run(5, 0), [9]);
    bench.finish(15, 0, 2, 10);
    assert_eq!(bench.run(15, 0), [1, 2, 3, 4]);
}

#[test]
fn a_flex_run_waits_for_others_that_would_come_back_while_it_lasts() {
    let mut bench = Bench::new(5, 1);
    let curve = CostCurve::of_dry_runs([(1, 3_000_000)]);
    bench.scheduler.devices[0].add_model(DIGITS, curve);
    // One that asks again a millisecond after its answer.
    for round in 0..20 {
        let now = 4 * round;
        bench.push(now, B, DIGITS, 1);
        assert_eq!(bench.run(now, 0).len(), 1);
        bench.finish(now + 3, 0, round + 1, 3);
    }
    push_all(&mut bench, 1, A, Class::Flex);
    assert!(matches!(bench.next(79, 0), Decision::WaitUntil(at) if at < bench.at(81)));
    bench.push(80, B, DIGITS, 1);
    assert_eq!(bench.run(80, 0), [22, 21], "in one run with it");
}

#[test]
fn the_shapes_of_a_tenant_are_bounded() {
    let mut bench = unbounded(1);
    let mut push = |tenant, shape: u32| {
        let mut entry = bench.entry(0, tenant, DIGITS, 1);
        entry.shape = [shape].into();
        bench.scheduler.push(entry.queued_at, entry)
    };
    for shape in 0..64 {
        assert_eq!(push(A, shape), Ok(()));
    }
    let full = QueueFull {
        limit: "tenant_shapes_max",
        max: 64,
    };
    for shape in [64, u32::MAX] {
        assert_eq!(push(A, shape), Err(full));
    }
    assert_eq!(push(A, 63), Ok(()), "one that it has");
    assert_eq!(push(B, 64), Ok(()), "another tenant has its own");
}

#[test]
fn priority_without_the_right_to_it_is_served_as_any() {
    let mut bench = unbounded(1);
    bench.scheduler.limits.terms.priority = false;
    push_all(&mut bench, 400, A, Class::Default);
    push_all(&mut bench, 400, B, Class::Priority);
    assert_eq!(served(&mut bench, 40), BTreeMap::from([(A, 160), (B, 160)]));
}

#[test]
fn a_latency_target_is_that_of_the_class_that_leads() {
    // 7 ms + 8 ms a row: in half of 60 ms there is time for two rows; with fewer than three a fifth of the
    // throughput would be lost.
    for (class, rows) in [(Class::Priority, 3), (Class::Default, 7)] {
        let mut bench = unbounded(1);
        bench.scheduler.limits.targets = Targets {
            priority: Duration::from_millis(60),
            default: Duration::from_secs(1),
        };
        let costs = [1, 4, 16].map(|rows| (rows, 7_000_000 + 8_000_000 * rows));
        bench.scheduler.devices[0].add_model(DIGITS, CostCurve::of_dry_runs(costs));
        push_all(&mut bench, 8, A, class);
        assert_eq!(bench.run(0, 0).len(), rows, "{class:?}");
    }
}
