//! What the engine has done so far: plain counters, read by whoever exports metrics.

use std::collections::BTreeMap;

/// A snapshot since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches that a device ran to a good end.
    pub runs: u64,
    /// Rows in them.
    pub rows: u64,
    /// Requests in them.
    pub requests: u64,
    /// Runs that failed, and so ran again in parts.
    pub failed_runs: u64,
    /// Devices that ended before the engine did.
    pub lost_devices: u64,
    /// Requests refused, by the name of the limit.
    pub refused: BTreeMap<&'static str, u64>,
    /// Requests whose deadline passed first.
    pub expired: u64,
    /// Requests that were not begun because they could not have ended before their deadline.
    pub too_late: u64,
    /// Batches that were asked back from a device for the sake of others, before they had begun.
    pub preempted: u64,
    /// Rows waiting for a device now.
    pub queued_rows: u64,
    /// Time devices were busy with runs that ended well, all devices together.
    pub device_busy_ns: u64,
    /// Rows of each batch that ran.
    pub batch_rows: Histogram,
}

/// Counts by power-of-two bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Upper bounds, each included: 1, 2, 4, … up to the limit.
    pub bounds: Vec<u64>,
    /// How many were at most the bound and over the one before; one for each bound.
    pub counts: Vec<u64>,
    /// Sum of what was observed.
    pub sum: u64,
}

impl Histogram {
    /// Buckets for 1 to `max`.
    pub(crate) fn up_to(max: u64) -> Self {
        let mut bounds: Vec<u64> = std::iter::successors(Some(1_u64), |bound| bound.checked_mul(2))
            .take_while(|bound| *bound < max)
            .collect();
        bounds.push(max);
        Self {
            counts: vec![0; bounds.len()],
            bounds,
            sum: 0,
        }
    }

    pub(crate) fn observe(&mut self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        let last = self.counts.len() - 1;
        self.counts[at.min(last)] += 1;
        self.sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::Histogram;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_the_last_bound_is_the_limit() {
        let mut histogram = Histogram::up_to(6);
        assert_eq!(histogram.bounds, [1, 2, 4, 6]);
        for value in [1, 2, 3, 4, 5, 6] {
            histogram.observe(value);
        }
        assert_eq!(histogram.counts, [1, 1, 2, 2]);
        assert_eq!(histogram.sum, 21);
        assert_eq!(Histogram::up_to(1).bounds, [1]);
        assert_eq!(Histogram::up_to(64).bounds, [1, 2, 4, 8, 16, 32, 64]);
    }
}
