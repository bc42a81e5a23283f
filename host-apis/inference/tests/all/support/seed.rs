//! One seed for all randomness of a test: printed, and taken from `SHOAL_SEED` to play a failure again.

use proptest::test_runner::{Config, RngSeed};
use std::hash::{BuildHasher, RandomState};

/// A property test of so many cases. Failures are kept as named tests, not in files.
pub(crate) fn cases(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed()),
        ..Config::default()
    }
}

/// From the environment, or a new one.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("SHOAL_SEED").ok();
    let seed = match given {
        Some(given) => given.parse().expect("SHOAL_SEED is a whole number"),
        None => RandomState::new().hash_one(0),
    };
    println!("SHOAL_SEED={seed}");
    seed
}
