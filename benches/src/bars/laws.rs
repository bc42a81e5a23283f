//! `laws`: what the batcher promises whatever is asked and whatever goes wrong, checked on 10,000 seeds, each on devices that
//! hold one run and on such that hold two, within a minute. The engine is whole, its devices are simulated and its clock is
//! paused, so that a seed always plays the same. A seed that breaks a law is printed; `--seed` plays it again, first.
//!
//! That each law would notice is a test of the crate itself: there the batcher is broken on purpose, in a way for each.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::machine::{judge_timed, load_average};
use anyhow::Context as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

#[path = "../../../host-apis/inference/tests/laws/mod.rs"]
mod played;

const SEEDS: u64 = 10_000;
const DEPTHS: [usize; 2] = [1, 2];
const TIME_MAX: Duration = Duration::from_secs(60);

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let load = load_average()?;
    let seeds = if run.quick { SEEDS / 10 } else { SEEDS };
    let first = run.seed;
    let began = Instant::now();
    let played = tokio::task::spawn_blocking(move || Played::all(first, seeds))
        .await
        .context("playing the seeds")?;
    let took = began.elapsed();
    eprintln!(
        "laws: {seeds} seeds from {first} on, {} requests, in {took:.1?}",
        played.requests.load(Ordering::Relaxed)
    );
    let figures = vec![Figure {
        value: played.broken.load(Ordering::Relaxed) as f64,
        unit: "seeds_that_break_a_law",
        target: Target::Exactly(0.0),
    }];
    let timed = vec![Figure {
        value: took.as_secs_f64(),
        unit: "seconds",
        target: Target::AtMost(TIME_MAX.as_secs_f64()),
    }];
    Ok(judge_timed(run, figures, timed, seeds, load))
}

#[derive(Default)]
struct Played {
    next: AtomicU64,
    broken: AtomicU64,
    requests: AtomicUsize,
}

impl Played {
    /// On all processors.
    fn all(first: u64, seeds: u64) -> Self {
        let played = Self::default();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| played.some(first, seeds));
            }
        });
        played
    }

    fn some(&self, first: u64, seeds: u64) {
        loop {
            let nth = self.next.fetch_add(1, Ordering::Relaxed);
            if nth >= seeds {
                return;
            }
            let seed = first.wrapping_add(nth);
            for depth in DEPTHS {
                match played::check(seed, depth) {
                    Ok(requests) => {
                        self.requests.fetch_add(requests, Ordering::Relaxed);
                    }
                    Err(broken) => {
                        eprintln!("laws: seed {seed} at depth {depth}: {broken}");
                        self.broken.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}
