//! What else this machine is doing: whether a wall time that was missed says anything.

use crate::bar::{Figure, Outcome};
use anyhow::Context as _;

/// Up to so much load for each processor a wall time is judged. What a bar itself runs is within it.
const LOAD_MAX_PER_PROCESSOR: f64 = 2.0;

/// How many wanted a processor, on average over the last minute.
pub(crate) fn load_average() -> anyhow::Result<f64> {
    let averages = std::fs::read_to_string("/proc/loadavg").context("reading the load average")?;
    let first = averages.split_whitespace().next();
    first
        .and_then(|first| first.parse().ok())
        .context("reading the load average")
}

/// Judges a bar of which `timed` is a wall time, measured at a load average of up to `load`. A wall time that was met was met;
/// one that was missed on a machine that was too busy says nothing, if all else holds.
pub(crate) fn judge_timed(mut figures: Vec<Figure>, timed: Figure, n: u64, load: f64) -> Outcome {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let too_busy = load > LOAD_MAX_PER_PROCESSOR * processors as f64;
    if too_busy && !timed.holds() && figures.iter().all(Figure::holds) {
        return Outcome::Skipped(format!(
            "{timed} at a load average of {load}, all else holds: needs a machine with less to do than {LOAD_MAX_PER_PROCESSOR} for each of {processors} processors"
        ));
    }
    figures.push(timed);
    Outcome::Measured { figures, n }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::Target;

    fn figure(value: f64) -> Figure {
        Figure {
            value,
            unit: "ms",
            target: Target::AtMost(10.0),
        }
    }

    #[test]
    fn only_a_wall_time_alone_is_excused_by_a_busy_machine() {
        let outcome = |other, timed, load| judge_timed(vec![figure(other)], figure(timed), 1, load);
        let is_skipped = |outcome| matches!(outcome, Outcome::Skipped(_));
        assert!(is_skipped(outcome(1.0, 11.0, 1e6)));
        for measured in [
            outcome(1.0, 11.0, 0.0),
            outcome(1.0, 10.0, 1e6),
            outcome(11.0, 11.0, 1e6),
        ] {
            let Outcome::Measured { figures, .. } = measured else {
                panic!("{measured:?}");
            };
            assert_eq!(figures.len(), 2);
        }
    }

    #[test]
    fn the_load_average_is_read() {
        assert!(load_average().unwrap() >= 0.0);
    }
}
