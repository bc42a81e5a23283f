//! What a run costs on one device: a curve for each model, from admission's dry run at first, then from every run. Pure.
//!
//! The size of a run is its units: rows, or rows times the length they are padded to where a model leaves a length open. So
//! 4 rows of 32 tokens are taken to cost what 1 row of 128 costs: exact for what is linear in tokens, and close to it while
//! attention is a small part.

use std::time::Duration;

/// Weight of the newest run in the moving average: 1/4. A model whose cost changes is known again after about ten runs,
/// and one slow run moves the expectation by a quarter.
const NEWEST: u64 = 4;

/// A run that took more than so many times what was expected counts as if it had taken that.
const OUTLIER: u64 = 4;

/// Parts of a thousand of the best throughput that a batch may give away to be smaller, and so sooner done.
const KNEE: u128 = 980;
/// The same, for the sake of a latency target.
const KNEE_OF_A_TARGET: u128 = 800;
/// What the platform needs for a run beside the device, whatever its size: small batches are not free.
const OVERHEAD_NS: u64 = 20_000;

/// One model on one device: moving averages of run time by power-of-two bucket of units, straight lines between them.
#[derive(Clone, Debug, Default)]
pub(crate) struct CostCurve {
    /// By units; at most one of a bucket.
    points: Vec<Point>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    units: u64,
    ns: u64,
    /// Runs that it was learnt from; 0: a dry run, whose place the first real one takes.
    runs: u32,
}

impl Point {
    fn is_guess(&self) -> bool {
        self.runs == 0
    }
}

impl CostCurve {
    /// What is known before the first run: units and nanoseconds of dry runs, in rising order of units.
    pub(crate) fn of_dry_runs(runs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut curve = Self::default();
        for (units, ns) in runs {
            curve.place(Point {
                units: units.max(1),
                ns,
                runs: 0,
            });
        }
        curve
    }

    /// Notes how long a run took.
    pub(crate) fn observe(&mut self, units: u64, ns: u64) {
        let units = units.max(1);
        let seen = self
            .points
            .iter()
            .find(|point| bucket(point.units) == bucket(units) && !point.is_guess());
        let new = match seen {
            Some(point) => Point {
                units: average(point.units, units),
                ns: average_ns(point.ns, ns),
                runs: point.runs.saturating_add(1),
            },
            None => Point {
                units,
                ns: ns.min(self.longest_likely(units)),
                runs: 1,
            },
        };
        self.place(new);
        self.scale_guesses(new);
    }

    /// A first run of its size may be a cold one: at most so long, by what smaller ones took.
    fn longest_likely(&self, units: u64) -> u64 {
        let smaller = self.points.iter().rev();
        let Some(smaller) = smaller
            .filter(|point| !point.is_guess())
            .find(|point| point.units <= units)
        else {
            return u64::MAX;
        };
        let ns = u128::from(smaller.ns) * u128::from(units) / u128::from(smaller.units);
        u64::try_from(ns * u128::from(OUTLIER)).unwrap_or(u64::MAX)
    }

    /// In the place of the one of its bucket, if there is one.
    fn place(&mut self, new: Point) {
        let bucket_of = |point: &Point| bucket(point.units);
        let at = self
            .points
            .partition_point(|point| bucket_of(point) < bucket_of(&new));
        match self.points.get_mut(at) {
            Some(point) if bucket(point.units) == bucket(new.units) => *point = new,
            Some(_) | None => self.points.insert(at, new),
        }
    }

    /// The dry run was on another machine, or another engine: what was really seen says by how much it is off.
    fn scale_guesses(&mut self, seen: Point) {
        if self.points.iter().all(|point| !point.is_guess()) {
            return;
        }
        let guesses = Self {
            points: self
                .points
                .iter()
                .copied()
                .filter(|point| point.is_guess())
                .collect(),
        };
        let Some(guessed) = guesses.expect_ns(seen.units) else {
            return;
        };
        for point in self.points.iter_mut().filter(|point| point.is_guess()) {
            let ns = u128::from(point.ns) * u128::from(seen.ns) / u128::from(guessed.max(1));
            point.ns = u64::try_from(ns).unwrap_or(u64::MAX);
        }
    }

    /// How long a run of so many units takes, in nanoseconds; `None` while nothing is known. Below the first point as long as
    /// there; between two on the line between them; beyond the last on the line from the first to it, never less than it.
    pub(crate) fn expect_ns(&self, units: u64) -> Option<u64> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        if units >= last.units {
            let (Some(rise), Some(run)) = (
                last.ns.checked_sub(first.ns),
                last.units.checked_sub(first.units).filter(|run| *run > 0),
            ) else {
                return Some(last.ns);
            };
            return Some(on_line(*last, rise, run, units - last.units));
        }
        let above = self.points.partition_point(|point| point.units <= units);
        let Some(low) = above.checked_sub(1).map(|at| self.points[at]) else {
            return Some(first.ns);
        };
        let high = self.points[above];
        let rise = high.ns.saturating_sub(low.ns);
        Some(on_line(
            low,
            rise,
            high.units - low.units,
            units - low.units,
        ))
    }

    /// How long a run of about so many units took, if there have been so many of them.
    pub(crate) fn seen_ns(&self, units: u64, runs: u32) -> Option<u64> {
        let alike = |point: &Point| bucket(point.units) == bucket(units) && point.runs >= runs;
        let is_known = self.points.iter().any(alike);
        is_known.then(|| self.expect_ns(units))?
    }

    /// Device time saved by running `first` and `second` units at once instead of one after the other, as long as it may take
    /// for the second to come: what a device that waits for them loses, it gains.
    pub(crate) fn worth_waiting(&self, first: u64, second: u64) -> Option<Duration> {
        let together = u128::from(self.expect_ns(first.saturating_add(second))?);
        let apart = u128::from(self.expect_ns(first)?) * u128::from(first + second);
        let gain = (apart / u128::from(first.max(1))).saturating_sub(together);
        Some(Duration::from_nanos(
            u64::try_from(gain).unwrap_or(u64::MAX),
        ))
    }

    /// The rows a batch should have at most, of those that it may: the fewest whose throughput is within 2 % of the best, or
    /// within 20 % if a run of them else takes longer than `run_max`. Each row has `row_units` units.
    pub(crate) fn rows_best(&self, rows_max: u32, row_units: u64, run_max: Duration) -> u32 {
        let ns = |rows: u32| {
            let ns = self.expect_ns(row_units.saturating_mul(u64::from(rows)));
            ns.unwrap_or(0).saturating_add(OVERHEAD_NS)
        };
        if self.points.is_empty() {
            return rows_max;
        }
        // The best is at one of the points or at the end: between them the curve is straight.
        let rows_at = |point: &Point| u32::try_from(point.units / row_units.max(1)).ok();
        let sizes = self.points.iter().filter_map(rows_at);
        let sizes = sizes
            .filter(|rows| (1..rows_max).contains(rows))
            .chain([rows_max]);
        let rate = |rows: u32| (u128::from(rows) << 64) / u128::from(ns(rows));
        let best = sizes.max_by_key(|rows| rate(*rows)).unwrap_or(rows_max);
        let of_best = |rows: u32| 1_000 * rate(rows) / rate(best).max(1);
        let fewest = |most: u32, reached: &dyn Fn(u32) -> bool| {
            let (mut low, mut high) = (1, most);
            while low < high {
                let middle = low + (high - low) / 2;
                if reached(middle) {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            low
        };
        // So many, and all that take no longer.
        let at_least = |rows: u32, limit: u64| {
            let longer = fewest(rows_max, &|rows| ns(rows) > limit);
            let as_long = longer - u32::from(ns(longer) > limit);
            as_long.max(rows)
        };
        let knee = fewest(best, &|rows| of_best(rows) >= KNEE);
        let run_max_ns = u64::try_from(run_max.as_nanos()).unwrap_or(u64::MAX);
        if ns(knee) <= run_max_ns {
            return at_least(knee, ns(knee));
        }
        let least = fewest(best, &|rows| of_best(rows) >= KNEE_OF_A_TARGET);
        at_least(least, run_max_ns.max(ns(least)).min(ns(knee)))
    }
}

/// `low.ns` and, of a rise of `rise` over `run` units, what belongs to `beyond` units.
fn on_line(low: Point, rise: u64, run: u64, beyond: u64) -> u64 {
    let more = u128::from(rise) * u128::from(beyond) / u128::from(run);
    low.ns
        .saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
}

/// A run that was held up says little, and one of less than half the time says that the others were.
fn average_ns(mean: u64, newest: u64) -> u64 {
    if newest < mean / 2 {
        return newest;
    }
    average(mean, newest.min(mean.max(1).saturating_mul(OUTLIER)))
}

fn average(mean: u64, newest: u64) -> u64 {
    mean - mean / NEWEST + newest / NEWEST
}

/// 1, 2, 3-4, 5-8, …: the exponent of the next power of two.
fn bucket(units: u64) -> u32 {
    units
        .checked_next_power_of_two()
        .map_or(u64::BITS, u64::ilog2)
}

#[cfg(test)]
mod tests {
    use super::CostCurve;
    use std::time::Duration;

    /// 2 ms + 20 µs a row, as the dry run sees it.
    fn accelerator() -> CostCurve {
        CostCurve::of_dry_runs([1, 4, 16].map(|rows| (rows, 2_000_000 + 20_000 * rows)))
    }

    #[test]
    fn a_curve_is_exact_on_its_points_between_them_and_beyond() {
        let curve = accelerator();
        for rows in [1, 2, 4, 10, 16, 32, 100] {
            assert_eq!(curve.expect_ns(rows), Some(2_000_000 + 20_000 * rows));
        }
        assert_eq!(CostCurve::default().expect_ns(1), None);
        let mut alone = CostCurve::default();
        alone.observe(8, 800);
        for rows in [1, 8, 64] {
            assert_eq!(alone.expect_ns(rows), Some(800));
        }
    }

    #[test]
    fn what_was_really_seen_takes_the_place_of_a_guess_and_scales_the_others() {
        let mut curve = accelerator();
        curve.observe(4, 4_160_000);
        for rows in [1, 4, 16, 32] {
            assert_eq!(curve.expect_ns(rows), Some(2 * (2_000_000 + 20_000 * rows)));
        }
    }

    #[test]
    fn the_newest_run_counts_a_quarter() {
        let mut curve = CostCurve::default();
        curve.observe(1, 1_000);
        curve.observe(1, 2_000);
        assert_eq!(curve.expect_ns(1), Some(1_250));
        curve.observe(1, 650);
        assert_eq!(curve.expect_ns(1), Some(1_100));
    }

    #[test]
    fn one_run_that_was_held_up_changes_little_and_is_soon_forgotten() {
        let mut curve = accelerator();
        for _ in 0..3 {
            curve.observe(32, 2_640_000);
        }
        // Ten seconds count as four times what was expected.
        curve.observe(32, 10_000_000_000);
        assert_eq!(curve.expect_ns(32), Some(4_620_000));
        assert_eq!(curve.rows_best(32, 1, Duration::MAX), 32);
        for _ in 0..10 {
            curve.observe(32, 10_000_000_000);
        }
        curve.observe(32, 2_640_000);
        assert_eq!(curve.expect_ns(32), Some(2_640_000));
    }

    /// Whatever the first large run took, large runs come back: each that is tried is twice the size before.
    #[test]
    fn a_first_run_that_was_cold_does_not_make_batches_small_for_ever() {
        let us = |rows: u64| 2_000 + 20 * rows;
        for cold_ms in [20, 200, 10_000] {
            let mut curve = CostCurve::default();
            for _ in 0..10 {
                curve.observe(10, us(10) * 1_000);
            }
            curve.observe(64, cold_ms * 1_000_000);
            for _ in 0..20 {
                let best = curve.rows_best(64, 1, Duration::MAX);
                let tried = u64::from((2 * best).min(64));
                curve.observe(tried, us(tried) * 1_000);
            }
            assert!(curve.rows_best(64, 1, Duration::MAX) > 60, "{cold_ms} ms");
        }
    }

    /// Noise may make a larger run look shorter than a smaller one; the answer is still a size.
    #[test]
    fn a_curve_that_does_not_rise_has_an_answer_too() {
        for costs in [
            [5, 4, 3, 2],
            [2, 5, 1, 4],
            [9, 1, 9, 1],
            [1, 1, 1, 1],
            [3, 9, 2, 2],
        ] {
            let mut curve = CostCurve::default();
            for (rows, ms) in [1, 4, 16, 64].into_iter().zip(costs) {
                curve.observe(rows, ms * 1_000_000);
            }
            for ms in [1, 3, 10_000] {
                let rows = curve.rows_best(64, 1, Duration::from_millis(ms));
                assert!((1..=64).contains(&rows), "{costs:?} within {ms} ms: {rows}");
            }
        }
    }

    #[test]
    fn a_wait_is_worth_the_launch_it_saves() {
        let curve = accelerator();
        // 16 more beside 16: one launch of 2 ms less.
        assert_eq!(curve.worth_waiting(16, 16), Some(Duration::from_millis(2)));
        // 8 beside 16 save half of one each; 1 beside 16 a sixteenth.
        assert_eq!(curve.worth_waiting(16, 8), Some(Duration::from_millis(1)));
        assert_eq!(curve.worth_waiting(16, 1), Some(Duration::from_micros(125)));
        let linear = CostCurve::of_dry_runs([(1, 1_000), (16, 16_000)]);
        assert_eq!(linear.worth_waiting(4, 4), Some(Duration::ZERO));
    }

    /// 7 ms + 8 ms a row.
    fn sentences() -> CostCurve {
        CostCurve::of_dry_runs([1, 4, 16].map(|rows| (rows, 7_000_000 + 8_000_000 * rows)))
    }

    #[test]
    fn a_batch_is_as_small_as_throughput_allows() {
        let forever = Duration::MAX;
        // Launch is nearly all: every row counts, but for the last 2 %.
        assert_eq!(accelerator().rows_best(32, 1, forever), 32);
        assert_eq!(sentences().rows_best(64, 1, forever), 26);
        let linear = CostCurve::of_dry_runs([(1, 1_000_000), (16, 16_000_000)]);
        assert_eq!(linear.rows_best(64, 1, forever), 1);
        assert_eq!(CostCurve::default().rows_best(64, 1, forever), 64);
        // Where runs are as short as what the platform does for them, they are filled.
        let tiny = CostCurve::of_dry_runs([(1, 1_000), (16, 16_000)]);
        assert_eq!(tiny.rows_best(64, 1, forever), 59);
    }

    #[test]
    fn a_latency_target_makes_a_batch_smaller_up_to_a_fifth_of_the_throughput() {
        let within = |ms: u64| sentences().rows_best(64, 1, Duration::from_millis(ms));
        assert_eq!(within(110), 12);
        assert_eq!(within(60), 6);
        // Three rows would do, but cost a quarter of the throughput.
        assert_eq!(within(32), 4);
        // Where rows cost nothing, fewer of them would be no sooner done.
        let flat = CostCurve::of_dry_runs([(1, 1_000_000_000), (16, 1_000_000_000)]);
        for ms in [1, 3_600_000] {
            assert_eq!(flat.rows_best(64, 1, Duration::from_millis(ms)), 64);
        }
    }

    #[test]
    fn padded_rows_count_by_their_length() {
        let curve = CostCurve::of_dry_runs([(8, 8_000_000), (128, 128_000_000)]);
        assert_eq!(curve.expect_ns(4 * 32), curve.expect_ns(128));
        assert_eq!(curve.rows_best(64, 32, Duration::MAX), 1);
    }
}
