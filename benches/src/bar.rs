//! What a bar says: figures with targets, one verdict, one line for each figure, an exit status. Pure: measures nothing.

use std::fmt;
use std::process::ExitCode;

/// The status of a bar that could not be judged here, as test runners know it.
const SKIPPED: u8 = 77;

/// How a bar is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    /// With a tenth of the load.
    pub(crate) quick: bool,
}

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    AtMost(f64),
    /// Holds or not; no figure is near it.
    Exactly(f64),
}

/// One thing that was measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    /// What is counted; without spaces, so that a line can be taken apart.
    pub(crate) unit: &'static str,
    pub(crate) target: Target,
}

/// What came of running a bar.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Measured {
        /// At least one.
        figures: Vec<Figure>,
        /// How many things were measured.
        n: u64,
    },
    /// Something that the bar needs is not here: what, and how to get it.
    Skipped(String),
}

impl Outcome {
    /// One line for each figure. The last is the one nearest to its target, or furthest past it, so that its verdict is the
    /// bar's.
    pub(crate) fn report(&self, bar: &str, seed: u64) -> String {
        match self {
            Self::Skipped(why) => format!("BAR {bar} SKIP {why}\n"),
            Self::Measured { figures, n } => {
                let mut figures: Vec<&Figure> = figures.iter().collect();
                figures.sort_by(|a, b| b.room().total_cmp(&a.room()));
                let line = |figure: &&Figure| format!("BAR {bar} {figure} seed={seed} n={n}\n");
                figures.iter().map(line).collect()
            }
        }
    }

    /// 0 if every target is met, 1 if not, 77 if that cannot be said.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Skipped(_) => ExitCode::from(SKIPPED),
            Self::Measured { figures, .. } if figures.iter().all(Figure::holds) => {
                ExitCode::SUCCESS
            }
            Self::Measured { .. } => ExitCode::FAILURE,
        }
    }
}

impl Figure {
    pub(crate) fn holds(&self) -> bool {
        self.room() >= 0.0
    }

    /// How far it is from missing its target, as a share of the target; negative if it does. A figure that is not a number
    /// misses every target.
    fn room(&self) -> f64 {
        let room = match self.target {
            Target::AtMost(most) => (most - self.value) / scale(most),
            Target::Exactly(wanted) if self.value == wanted => f64::INFINITY,
            Target::Exactly(wanted) => -(self.value - wanted).abs() / scale(wanted),
        };
        if room.is_nan() {
            f64::NEG_INFINITY
        } else {
            room
        }
    }
}

/// What a distance from `target` is a share of; a target of 0 has no shares.
fn scale(target: f64) -> f64 {
    if target == 0.0 { 1.0 } else { target.abs() }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds() { "PASS" } else { "FAIL" };
        let value = (self.value * 10.0).round() / 10.0;
        write!(f, "{value} {} target {} {verdict}", self.unit, self.target)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<={most}"),
            Self::Exactly(wanted) => write!(f, "={wanted}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_most(value: f64, most: f64) -> Figure {
        Figure {
            value,
            unit: "KiB/waiter",
            target: Target::AtMost(most),
        }
    }

    fn exactly(value: f64, wanted: f64) -> Figure {
        Figure {
            value,
            unit: "answers",
            target: Target::Exactly(wanted),
        }
    }

    fn measured(figures: Vec<Figure>) -> Outcome {
        Outcome::Measured { figures, n: 9 }
    }

    #[test]
    fn a_target_holds_up_to_itself() {
        for (figure, holds) in [
            (at_most(150.0, 150.0), true),
            (at_most(150.1, 150.0), false),
            (at_most(900.0, 150.0), false),
            (at_most(f64::NAN, 150.0), false),
            (exactly(0.0, 0.0), true),
            (exactly(1.0, 0.0), false),
            (exactly(1_999.0, 2_000.0), false),
            (exactly(f64::NAN, 0.0), false),
        ] {
            assert_eq!(figure.holds(), holds, "{figure}");
        }
    }

    #[test]
    fn the_last_line_is_nearest_to_its_target() {
        let report = measured(vec![
            at_most(149.96, 150.0),
            exactly(5.0, 5.0),
            at_most(80.0, 150.0),
        ])
        .report("waiting", 3);
        assert_eq!(
            report,
            "BAR waiting 5 answers target =5 PASS seed=3 n=9\n\
             BAR waiting 80 KiB/waiter target <=150 PASS seed=3 n=9\n\
             BAR waiting 150 KiB/waiter target <=150 PASS seed=3 n=9\n"
        );
    }

    #[test]
    fn the_last_line_is_furthest_past_its_target() {
        let outcome = measured(vec![
            at_most(301.0, 150.0),
            exactly(4.0, 5.0),
            at_most(80.0, 150.0),
        ]);
        let report = outcome.report("waiting", 3);
        let last = report.lines().last();
        assert_eq!(
            last,
            Some("BAR waiting 301 KiB/waiter target <=150 FAIL seed=3 n=9")
        );
    }

    #[test]
    fn the_status_says_what_the_lines_say() {
        for (outcome, status) in [
            (measured(vec![at_most(1.0, 2.0)]), 0),
            (measured(vec![at_most(1.0, 2.0), exactly(1.0, 2.0)]), 1),
            (Outcome::Skipped("needs a thing".to_owned()), 77),
        ] {
            assert_eq!(outcome.exit_code(), ExitCode::from(status));
        }
        let skipped = Outcome::Skipped("needs a thing".to_owned());
        assert_eq!(
            skipped.report("waiting", 1),
            "BAR waiting SKIP needs a thing\n"
        );
    }
}
