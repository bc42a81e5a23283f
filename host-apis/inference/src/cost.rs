//! What a run of so many rows costs on one device, learnt from its outcomes. Pure.

use crate::request::ModelId;
use std::collections::HashMap;
use std::time::Duration;

/// Weight of the newest run in the moving average: 1/4. A model whose cost changes is known again after about ten runs,
/// and one slow run moves the expectation by a quarter.
const NEWEST: u64 = 4;

/// Moving averages of run time by model and power-of-two bucket of rows.
#[derive(Debug, Default)]
pub(crate) struct CostCurve {
    buckets: HashMap<(ModelId, u32), u64>,
}

impl CostCurve {
    /// Notes how long a run took.
    pub(crate) fn observe(&mut self, model: ModelId, rows: u32, device_ns: u64) {
        let mean = self
            .buckets
            .entry((model, bucket(rows)))
            .or_insert(device_ns);
        *mean = *mean - *mean / NEWEST + device_ns / NEWEST;
    }

    /// Forgets a model that has gone.
    pub(crate) fn forget(&mut self, model: ModelId) {
        self.buckets.retain(|(of, _), _| *of != model);
    }

    /// How long a run of so many rows takes, if one like it has been seen.
    pub(crate) fn expect(&self, model: ModelId, rows: u32) -> Option<Duration> {
        self.buckets
            .get(&(model, bucket(rows)))
            .map(|ns| Duration::from_nanos(*ns))
    }
}

/// 1, 2, 3-4, 5-8, …: the exponent of the next power of two.
fn bucket(rows: u32) -> u32 {
    rows.max(1).next_power_of_two().ilog2()
}

#[cfg(test)]
mod tests {
    use super::CostCurve;
    use crate::request::ModelId;
    use std::time::Duration;

    const MODEL: ModelId = ModelId(0);

    #[test]
    fn runs_of_one_bucket_share_an_expectation_and_others_do_not() {
        let mut curve = CostCurve::default();
        curve.observe(MODEL, 5, 800);
        for rows in [5, 6, 7, 8] {
            assert_eq!(curve.expect(MODEL, rows), Some(Duration::from_nanos(800)));
        }
        for (model, rows) in [(MODEL, 4), (MODEL, 9), (ModelId(1), 5)] {
            assert_eq!(curve.expect(model, rows), None);
        }
    }

    #[test]
    fn a_model_that_has_gone_is_forgotten_and_no_other() {
        let mut curve = CostCurve::default();
        for model in [MODEL, ModelId(1)] {
            for rows in [1, 8] {
                curve.observe(model, rows, 800);
            }
        }
        curve.forget(MODEL);
        for rows in [1, 8] {
            assert_eq!(curve.expect(MODEL, rows), None);
            assert!(curve.expect(ModelId(1), rows).is_some());
        }
    }

    #[test]
    fn the_newest_run_counts_a_quarter() {
        let mut curve = CostCurve::default();
        curve.observe(MODEL, 1, 1_000);
        curve.observe(MODEL, 1, 2_000);
        assert_eq!(curve.expect(MODEL, 1), Some(Duration::from_nanos(1_250)));
        curve.observe(MODEL, 1, 0);
        assert_eq!(curve.expect(MODEL, 1), Some(Duration::from_nanos(938)));
    }
}
