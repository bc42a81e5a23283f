//! What else this machine is doing: whether a wall time that was missed says anything.

use crate::bar::{Figure, Outcome, Run};
use anyhow::Context as _;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// Up to so much load for each processor a wall time is judged. What a bar itself runs is within it.
const LOAD_MAX_PER_PROCESSOR: f64 = 2.0;

/// CPU time so far of this process.
pub(crate) fn process_cpu() -> Duration {
    time_of(ClockId::ProcessCPUTime)
}

/// CPU time so far of this thread.
pub(crate) fn thread_cpu() -> Duration {
    time_of(ClockId::ThreadCPUTime)
}

fn time_of(clock: ClockId) -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    // Both are never negative.
    Duration::new(tv_sec.unsigned_abs(), tv_nsec as u32)
}

/// How many wanted a processor, on average over the last minute.
pub(crate) fn load_average() -> anyhow::Result<f64> {
    let averages = std::fs::read_to_string("/proc/loadavg").context("reading the load average")?;
    let first = averages.split_whitespace().next();
    first
        .and_then(|first| first.parse().ok())
        .context("reading the load average")
}

/// Judges a bar of which `timed` are wall times, measured at a load average of up to `load`. A wall time that was met was met;
/// one that was missed on a machine that was too busy, or in a short run, says nothing, if all else holds.
pub(crate) fn judge_timed(
    run: &Run,
    mut figures: Vec<Figure>,
    timed: Vec<Figure>,
    n: u64,
    load: f64,
) -> Outcome {
    let missed = timed.iter().find(|timed| !timed.holds());
    let excuse = excuse(run, load).filter(|_| figures.iter().all(Figure::holds));
    if let (Some(missed), Some(excuse)) = (missed, excuse) {
        return Outcome::Skipped(format!("{missed}, all else holds: {excuse}"));
    }
    figures.extend(timed);
    Outcome::Measured { figures, n }
}

/// Why a wall time that is too long need not be the node's fault, if there is a reason.
fn excuse(run: &Run, load: f64) -> Option<String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if load > LOAD_MAX_PER_PROCESSOR * processors as f64 {
        return Some(format!(
            "needs a machine with less to do than {LOAD_MAX_PER_PROCESSOR} for each of {processors} processors, the load average is {load}"
        ));
    }
    let short = "a short run cannot tell the node from the machine: needs one without --quick";
    run.quick.then(|| short.to_owned())
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
    fn only_a_wall_time_alone_is_excused_by_a_busy_machine_or_a_short_run() {
        let outcome = |quick, other, timed, load| {
            let run = Run { seed: 1, quick };
            judge_timed(&run, vec![figure(other)], vec![figure(timed)], 1, load)
        };
        let is_skipped = |outcome| matches!(outcome, Outcome::Skipped(_));
        assert!(is_skipped(outcome(false, 1.0, 11.0, 1e6)));
        assert!(is_skipped(outcome(true, 1.0, 11.0, 0.0)));
        for measured in [
            outcome(false, 1.0, 11.0, 0.0),
            outcome(false, 1.0, 10.0, 1e6),
            outcome(true, 1.0, 10.0, 0.0),
            outcome(true, 11.0, 11.0, 1e6),
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
