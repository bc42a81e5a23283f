//! `compile-bombs`: 20 components that cost a compiler far more than they weigh, deployed one after the other. Each is refused
//! with a 4xx; its compiler takes at most 12 s and 1 GiB; the function stays as it was; and an open loop of 200 requests a
//! second to another tenant's function is answered as before: their p99 is at most 1.2 times what it is while nothing is
//! deployed, measured in turn.
//!
//! The compiler is watched from outside, ten times a second: its process is the node's child.

mod bombs;

use crate::bar::{Figure, Outcome, Run, Target};
use crate::machine::{judge_timed, load_average};
use crate::node::{Children, Home, Peak};
use crate::open_loop::{Answers, OpenLoop};
use crate::random::{draw, shuffle};
use crate::samples::Samples;
use bombs::Family;
use bytes::Bytes;
use std::time::Duration;

const HELLO: &[u8] = include_bytes!("../../../samples/components/hello.wasm");
/// Sizes of each family's bombs.
const SIZES: u32 = 4;
const RATE: u32 = 200;
const RATIO_MAX: f64 = 1.2;
/// What a node's compiler may use by default (`compile_timeout`, `compile_memory_bytes_max`), and the time in which a watcher
/// sees that it has ended.
const SECONDS_MAX: f64 = 12.5;
const MIB_MAX: f64 = 1024.0;
/// How long the node is watched at rest before each bomb.
const QUIET: Duration = Duration::from_secs(3);

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let load = load_average()?;
    // As a node is by default.
    let mut home = Home::with(&[])?;
    let node = home.start().await?;
    let mut admin = node.admin().await?;
    for project in ["acme", "birch"] {
        admin.make_project(project).await?;
        let hello = Bytes::from_static(HELLO);
        admin.deploy(project, "hello", hello).await?;
    }
    let open_loop = OpenLoop {
        address: node.functions(),
        path: "/f/birch/hello/".to_owned(),
        answer: "Hello from Shoal\n",
        rate: RATE,
    };
    let mut seen = Seen::default();
    for (family, size) in bombs(run) {
        let bomb = family.bomb(size)?;
        let bytes = bomb.len();
        seen.alone.add(open_loop.during(QUIET).await?);
        let compiler = Children::watch(node.pid()?)?;
        let deploy = admin.try_deploy("acme", "hello", bomb);
        let (reply, answers) = open_loop.beside(deploy).await?;
        let compiler = compiler.end()?;
        seen.beside.add(answers);
        eprintln!(
            "compile-bombs: {family:?} {size}, {} KiB: {} after {:.1} s and {:.0} MiB: {}",
            bytes / 1024,
            reply.status,
            compiler.seconds,
            compiler.resident_mib,
            String::from_utf8_lossy(&reply.body)
        );
        seen.bombs += 1;
        seen.refused += u64::from(reply.status.is_client_error());
        seen.compilers.push(compiler);
    }
    let functions = admin.functions("acme").await?;
    seen.replaced = functions.iter().filter(|of| of.live.version != 1).count() as u64;
    node.stop().await?;
    Ok(seen.outcome(run, load))
}

/// Which, and of what size.
fn bombs(run: &Run) -> Vec<(Family, u32)> {
    let mut bombs: Vec<_> = if run.quick {
        let sizes = (0..).map(|at| 1 + draw(run.seed, at) as u32 % SIZES);
        Family::ALL.into_iter().zip(sizes).collect()
    } else {
        let of = |family| (1..=SIZES).map(move |size| (family, size));
        Family::ALL.into_iter().flat_map(of).collect()
    };
    shuffle(&mut bombs, run.seed);
    bombs
}

/// What was seen of all bombs.
#[derive(Debug, Default)]
struct Seen {
    bombs: u64,
    refused: u64,
    /// Functions that a bomb took the place of.
    replaced: u64,
    compilers: Vec<Peak>,
    alone: Answers,
    beside: Answers,
}

impl Seen {
    fn outcome(self, run: &Run, load: f64) -> Outcome {
        let (alone, beside) = (&self.alone.took, &self.beside.took);
        let (alone, beside) = (Samples::millis(alone), Samples::millis(beside));
        for (name, samples) in [("alone", &alone), ("beside", &beside)] {
            eprintln!("compile-bombs: {name}: {samples}");
        }
        let most = |of: fn(&Peak) -> f64| self.compilers.iter().map(of).fold(0.0, f64::max);
        let exactly = |value: u64, unit, wanted: u64| Figure {
            value: value as f64,
            unit,
            target: Target::Exactly(wanted as f64),
        };
        let at_most = |value, unit, most| Figure {
            value,
            unit,
            target: Target::AtMost(most),
        };
        let figures = vec![
            exactly(self.refused, "bombs_refused", self.bombs),
            exactly(self.replaced, "functions_replaced", 0),
            exactly(
                self.alone.failed + self.beside.failed,
                "answers_not_right",
                0,
            ),
            at_most(most(|of| of.resident_mib), "compiler_MiB_max", MIB_MAX),
        ];
        let ratio = beside.percentile(99.0) / alone.percentile(99.0);
        let ratio = at_most(ratio, "p99_beside/p99_alone", RATIO_MAX);
        // Beside other work a compiler waits for its turn.
        let seconds = at_most(most(|of| of.seconds), "compiler_s_max", SECONDS_MAX);
        judge_timed(run, figures, vec![seconds, ratio], self.bombs, load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_run_has_one_bomb_of_each_family_and_a_whole_one_all() {
        let quick = bombs(&Run {
            seed: 3,
            quick: true,
        });
        let whole = bombs(&Run {
            seed: 3,
            quick: false,
        });
        assert_eq!((quick.len(), whole.len()), (5, 20));
        for family in Family::ALL {
            assert_eq!(quick.iter().filter(|(of, _)| *of == family).count(), 1);
            for size in 1..=SIZES {
                assert!(whole.contains(&(family, size)));
            }
        }
    }
}
