//! A new version on trial: which calls it gets, and when it has failed. Pure; `control` makes what is found here durable.

use super::registry::{Function, FunctionVersion};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::Notify;

/// A version on trial beside the live one. Lasts as long as the two do, whatever share of the calls it gets meanwhile.
pub(crate) struct Trial {
    pub(super) live: u32,
    pub(super) canary: Arc<Function>,
    rule: TrialRule,
    tallies: Mutex<Tallies>,
    failed: OnceLock<Findings>,
    failing: Arc<Failing>,
}

/// Told of every canary that fails.
#[derive(Default)]
pub(super) struct Failing {
    pub(super) notify: Notify,
    pub(super) count: AtomicU64,
}

/// When a canary has failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrialRule {
    /// So many of the newest calls of each version count.
    pub(crate) calls: usize,
    /// So many points of failures more than the live version has are too many.
    pub(crate) points_max: u32,
}

/// Calls of both versions that count now, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) calls: u32,
    pub(crate) failed: u32,
    pub(crate) live_calls: u32,
    pub(crate) live_failed: u32,
}

/// Which of the two versions of a trial a call went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Live,
    Canary,
}

/// Where a call is counted when it is over.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(super) trial: Arc<Trial>,
    pub(super) side: Side,
}

/// By what calls are told apart, so that a caller stays with one version.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who<'a> {
    /// The key it came with.
    Key(&'a str),
    /// The client's address, where no key is asked for.
    Address(IpAddr),
}

#[derive(Default)]
struct Tallies {
    live: Tally,
    canary: Tally,
}

/// The newest calls of one version.
#[derive(Default)]
struct Tally {
    failed: VecDeque<bool>,
    failures: usize,
}

impl Tally {
    fn add(&mut self, failed: bool, calls_max: usize) {
        if self.failed.len() >= calls_max {
            self.failures -= usize::from(self.failed.pop_front() == Some(true));
        }
        self.failed.push_back(failed);
        self.failures += usize::from(failed);
    }
}

impl Tallies {
    fn findings(&self) -> Findings {
        // Their lengths are configured to be below.
        let count = |n| u32::try_from(n).unwrap_or(u32::MAX);
        Findings {
            calls: count(self.canary.failed.len()),
            failed: count(self.canary.failures),
            live_calls: count(self.live.failed.len()),
            live_failed: count(self.live.failures),
        }
    }
}

impl TrialRule {
    /// Whether so much has been seen that the canary's share of failures over `calls` calls will be more than `points_max`
    /// above the live version's, even if whatever it has not been called for yet goes well: a few failures of a canary that
    /// is seldom called are enough, and one is not.
    fn is_broken(self, seen: Findings) -> bool {
        let [failed, live_failed, live_calls] = [
            seen.failed,
            seen.live_failed,
            // No calls have no failures.
            seen.live_calls.max(1),
        ]
        .map(u128::from);
        let allowed = u128::from(self.points_max) * live_calls + 100 * live_failed;
        failed * live_calls * 100 > self.calls as u128 * allowed
    }
}

impl Trial {
    pub(super) fn new(
        live: u32,
        canary: Arc<Function>,
        rule: TrialRule,
        failing: Arc<Failing>,
    ) -> Self {
        Self {
            live,
            canary,
            rule,
            tallies: Mutex::default(),
            failed: OnceLock::new(),
            failing,
        }
    }

    /// Whether it is between these two. A function that was deleted and made again has the same numbers.
    pub(super) fn is_of(&self, live: &Function, canary: &FunctionVersion) -> bool {
        let of = (self.live, self.canary.number, self.canary.component);
        of == (live.number, canary.number, canary.component)
    }

    /// What has been seen so far.
    pub(crate) fn findings(&self) -> Findings {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        self.failed().unwrap_or_else(|| tallies.findings())
    }

    /// What it failed by, if it has. It gets no call from then on.
    pub(crate) fn failed(&self) -> Option<Findings> {
        self.failed.get().copied()
    }

    /// Whether one who calls is among the `percent` of all that it gets. The same answer for as long as the trial lasts, but
    /// for those who come in as `percent` grows; and for other trials others.
    pub(super) fn takes(&self, percent: u8, who: Who<'_>) -> bool {
        self.failed.get().is_none() && place(&self.canary, who) < percent
    }
}

/// The place of a caller among a hundred.
fn place(canary: &Function, who: Who<'_>) -> u8 {
    let mut hash = blake3::Hasher::new();
    hash.update(&canary.tenant.id.0.to_le_bytes());
    hash.update(&canary.number.to_le_bytes());
    hash.update(canary.name.as_bytes());
    // In no name.
    hash.update(&[0]);
    match who {
        Who::Key(key) => hash.update(key.as_bytes()),
        Who::Address(address) => hash.update(&network(address)),
    };
    let first = hash.finalize().as_bytes()[..8].try_into();
    let first = u64::from_le_bytes(first.expect("a hash has 32 bytes"));
    u8::try_from(first % 100).expect("below 100")
}

/// A client of IPv6 has a network of 64 bits, and may have another address in it for every call.
fn network(address: IpAddr) -> [u8; 16] {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).octets(),
    }
}

impl Seat {
    /// One call is over.
    pub(crate) fn count(&self, failed: bool) {
        let trial = &self.trial;
        let mut tallies = trial.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = match self.side {
            Side::Live => &mut tallies.live,
            Side::Canary => &mut tallies.canary,
        };
        tally.add(failed, trial.rule.calls);
        let seen = tallies.findings();
        // Only a failure of its own can break the rule anew.
        let broken = self.side == Side::Canary && failed && trial.rule.is_broken(seen);
        if broken && trial.failed.set(seen).is_ok() {
            trial.failing.count.fetch_add(1, Relaxed);
            trial.failing.notify.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: TrialRule = TrialRule {
        calls: 100,
        points_max: 5,
    };

    fn findings([calls, failed, live_calls, live_failed]: [u32; 4]) -> Findings {
        Findings {
            calls,
            failed,
            live_calls,
            live_failed,
        }
    }

    #[test]
    fn a_canary_fails_when_its_failures_are_more_than_the_points_above() {
        for (seen, broken) in [
            ([100, 5, 100, 0], false),
            ([100, 6, 100, 0], true),
            ([100, 15, 100, 10], false),
            ([100, 16, 100, 10], true),
            ([100, 100, 100, 95], false),
            ([100, 100, 100, 94], true),
            // Seldom called: what will come is taken to go well.
            ([1, 1, 100, 0], false),
            ([5, 5, 100, 0], false),
            ([6, 6, 100, 0], true),
            // The live version's share is of the calls it had.
            ([100, 6, 0, 0], true),
            ([100, 6, 1, 1], false),
            ([100, 55, 10, 5], false),
            ([100, 56, 10, 5], true),
        ] {
            assert_eq!(RULE.is_broken(findings(seen)), broken, "{seen:?}");
        }
        let none = TrialRule {
            calls: 1,
            points_max: 0,
        };
        assert!(none.is_broken(findings([1, 1, 1, 0])));
        assert!(!none.is_broken(findings([1, 1, 1, 1])));
        let any = TrialRule {
            points_max: 100,
            ..RULE
        };
        assert!(!any.is_broken(findings([100, 100, 100, 0])));
    }

    proptest! {
        #[test]
        fn a_tally_knows_the_newest_calls(calls in prop::collection::vec(any::<bool>(), 0..200), calls_max in 1..50_usize) {
            let mut tally = Tally::default();
            for failed in &calls {
                tally.add(*failed, calls_max);
            }
            let newest = &calls[calls.len().saturating_sub(calls_max)..];
            prop_assert_eq!(tally.failed.len(), newest.len());
            prop_assert_eq!(tally.failures, newest.iter().filter(|failed| **failed).count());
        }
    }

    #[test]
    fn an_address_is_a_network_where_clients_have_one() {
        let network = |text: &str| network(text.parse().unwrap());
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(network(one) == network(other), same, "{one} {other}");
        }
    }
}
