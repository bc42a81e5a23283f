//! Measured values, sorted: percentiles are exact, none is interpolated or put into a bucket.

use std::fmt;
use std::time::Duration;

/// Values in ascending order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples(Vec<f64>);

impl fmt::Display for Samples {
    /// For people, of milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} answers, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, at most {:.2} ms",
            self.len(),
            self.percentile(50.0),
            self.percentile(99.0),
            self.percentile(99.9),
            self.max()
        )
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

impl Samples {
    /// Durations in milliseconds.
    pub(crate) fn millis<'a>(durations: impl IntoIterator<Item = &'a Duration>) -> Self {
        let durations = durations.into_iter();
        durations.map(|took| took.as_secs_f64() * 1e3).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest value that at least `percent` of all are not above; of none it is not a number.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let rank = (self.0.len() as f64 * percent / 100.0).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }

    /// The largest; of none it is not a number.
    pub(crate) fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let samples: Samples = (1..=200).rev().map(f64::from).collect();
        for (percent, value) in [(0.0, 1.0), (50.0, 100.0), (99.0, 198.0), (99.1, 199.0)] {
            assert_eq!(samples.percentile(percent), value, "p{percent}");
        }
        assert_eq!((samples.percentile(100.0), samples.max()), (200.0, 200.0));
        assert_eq!(samples.len(), 200);
    }

    #[test]
    fn of_nothing_there_is_no_percentile() {
        let samples = Samples::millis(&[]);
        assert!(samples.percentile(50.0).is_nan());
        assert!(samples.max().is_nan());
    }

    #[test]
    fn durations_become_milliseconds() {
        let samples = Samples::millis(&[Duration::from_millis(250), Duration::from_micros(1_500)]);
        assert_eq!((samples.percentile(50.0), samples.max()), (1.5, 250.0));
    }
}
