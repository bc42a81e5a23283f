//! The fair queue: order, fairness between keys that wait, no credit for idle, nothing remembered for nothing.

use crate::support::seed::cases;
use proptest::prelude::*;
use shoal_inference::FairQueue;
use std::collections::{BTreeMap, VecDeque};

#[test]
fn the_key_served_least_goes_first_and_the_smaller_of_equals() {
    let mut queue = FairQueue::new();
    for (key, item) in [("b", 1), ("a", 2), ("b", 3), ("a", 4)] {
        queue.push(key, item);
    }
    assert_eq!(queue.pop(), Some(("a", 2)));
    queue.charge(&"a", 1);
    assert_eq!(queue.pop(), Some(("b", 1)));
    queue.charge(&"b", 2);
    assert_eq!(queue.pop(), Some(("a", 4)));
    assert_eq!(queue.pop(), Some(("b", 3)));
    assert_eq!(queue.pop(), None);
}

#[test]
fn a_key_that_was_idle_gets_no_credit_for_it() {
    let mut queue = FairQueue::new();
    for item in 0..100 {
        queue.push("busy", item);
    }
    for _ in 0..50 {
        queue.pop();
        queue.charge(&"busy", 10);
    }
    for item in 0..3 {
        queue.push("idle", item);
    }
    // It starts level with the other, not 500 behind: one turn, then by turns.
    let mut order = Vec::new();
    for _ in 0..4 {
        let (key, _) = queue.pop().unwrap();
        queue.charge(&key, 10);
        order.push(key);
    }
    assert_eq!(order, ["idle", "busy", "idle", "busy"]);
}

#[test]
fn going_idle_for_a_moment_does_not_pay_off_a_debt() {
    let mut queue = FairQueue::new();
    queue.push("greedy", 0);
    for item in 0..20 {
        queue.push("modest", item);
    }
    assert_eq!(queue.pop(), Some(("greedy", 0)));
    queue.charge(&"greedy", 100);
    queue.push("greedy", 1);
    for item in 0..10 {
        assert_eq!(queue.pop(), Some(("modest", item)));
        queue.charge(&"modest", 10);
    }
    assert_eq!(queue.pop(), Some(("greedy", 1)));
}

#[test]
fn a_charge_counts_for_a_key_that_has_nothing_waiting() {
    let mut queue = FairQueue::new();
    queue.push("b", 0);
    queue.charge(&"a", 5);
    queue.push("a", 1);
    assert_eq!(queue.pop(), Some(("b", 0)));
}

#[test]
fn keys_that_went_idle_are_forgotten() {
    let mut queue = FairQueue::new();
    for round in 0..100_u64 {
        for key in 0..100 {
            queue.push(round * 100 + key, ());
        }
        while let Some((key, ())) = queue.pop() {
            queue.charge(&key, 1 + key % 7);
        }
    }
    assert!(queue.keys_len() <= 100, "{} keys", queue.keys_len());
    queue.push(0, ());
    assert_eq!(queue.keys_len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Push { key: u8 },
    Pop { cost: u64 },
    Charge { key: u8, cost: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..6_u8).prop_map(|key| Step::Push { key }),
        4 => (0..20_u64).prop_map(|cost| Step::Pop { cost }),
        1 => (0..6_u8, 0..20_u64).prop_map(|(key, cost)| Step::Charge { key, cost }),
    ]
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn nothing_is_lost_and_each_key_keeps_its_order(
        script in prop::collection::vec(step(), 0..300),
    ) {
        let mut queue = FairQueue::new();
        let mut model: BTreeMap<u8, VecDeque<u32>> = BTreeMap::new();
        for (item, step) in (0..).zip(script) {
            match step {
                Step::Push { key } => {
                    queue.push(key, item);
                    model.entry(key).or_default().push_back(item);
                }
                Step::Pop { cost } => {
                    let waits = model.values().any(|items| !items.is_empty());
                    let popped = queue.pop();
                    prop_assert_eq!(popped.is_some(), waits);
                    if let Some((key, item)) = popped {
                        prop_assert_eq!(model.entry(key).or_default().pop_front(), Some(item));
                        queue.charge(&key, cost);
                    }
                }
                Step::Charge { key, cost } => queue.charge(&key, cost),
            }
            let len: usize = model.values().map(VecDeque::len).sum();
            prop_assert_eq!(queue.len(), len);
            prop_assert_eq!(queue.is_empty(), len == 0);
        }
    }

    /// Start-time fair queueing's bound: between any two instants at which both wait all the time.
    #[test]
    fn keys_that_wait_all_the_time_differ_by_at_most_their_largest_charges(
        costs in prop::collection::vec(1..100_u64, 200..400),
        others in 0..5_u8,
    ) {
        let mut queue = FairQueue::new();
        let mut served: BTreeMap<u8, u64> = BTreeMap::new();
        for key in 0..2 + others {
            served.insert(key, 0);
            for _ in 0..costs.len() {
                queue.push(key, ());
            }
        }
        for cost in costs {
            let (key, ()) = queue.pop().unwrap();
            queue.charge(&key, cost);
            *served.entry(key).or_default() += cost;
            let most = served.values().max().unwrap();
            let least = served.values().min().unwrap();
            prop_assert!(most - least <= 99, "{:?}", served);
        }
    }

    /// However long a key was idle before, once it waits it and the others get the same.
    #[test]
    fn a_key_that_comes_back_gets_no_more_than_the_others(
        before in 1..200_usize,
        costs in prop::collection::vec(1..100_u64, 100..200),
    ) {
        let mut queue = FairQueue::new();
        for _ in 0..before + costs.len() {
            queue.push("always", ());
        }
        for cost in costs.iter().cycle().take(before) {
            queue.pop();
            queue.charge(&"always", *cost);
        }
        for _ in 0..costs.len() {
            queue.push("back", ());
        }
        let mut served = BTreeMap::from([("always", 0_u64), ("back", 0)]);
        for cost in costs {
            let (key, ()) = queue.pop().unwrap();
            queue.charge(&key, cost);
            *served.entry(key).or_default() += cost;
            prop_assert!(served["back"].abs_diff(served["always"]) <= 2 * 99, "{:?}", served);
        }
    }
}
