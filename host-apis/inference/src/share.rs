//! Splits the device time of one run between its requests, exactly. Pure.

/// Parts of `total` in proportion to `weights`, by the largest remainder (Hamilton's method); they sum to `total`. Of equal
/// remainders the earlier one wins, so the same run is always split the same way.
///
/// # Panics
/// If there are weights but all are zero: a run has rows.
pub(crate) fn split(total: u64, weights: &[u32]) -> Vec<u64> {
    if weights.is_empty() {
        return Vec::new();
    }
    let sum: u64 = weights.iter().copied().map(u64::from).sum();
    assert!(sum > 0, "a run has at least one row");
    let exact = |weight: &u32| u128::from(total) * u128::from(*weight);
    let narrow = |part: u128| u64::try_from(part).expect("a part is at most the total");
    let mut parts: Vec<u64> = weights
        .iter()
        .map(|weight| narrow(exact(weight) / u128::from(sum)))
        .collect();
    let missing = total - parts.iter().sum::<u64>();
    if missing == 0 {
        return parts;
    }
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|at| std::cmp::Reverse(exact(&weights[*at]) % u128::from(sum)));
    let missing = usize::try_from(missing).expect("fewer are missing than there are parts");
    for at in &by_remainder[..missing] {
        parts[*at] += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::split;
    use crate::seed::cases;
    use proptest::prelude::*;

    #[test]
    fn what_does_not_divide_goes_to_the_largest_remainders() {
        assert_eq!(split(10, &[1, 1, 1]), [4, 3, 3]);
        assert_eq!(split(100, &[1, 2, 3]), [17, 33, 50]);
        assert_eq!(split(7, &[3, 1]), [5, 2]);
        assert_eq!(split(2, &[1, 1, 1, 1]), [1, 1, 0, 0]);
        assert_eq!(split(0, &[5, 1]), [0, 0]);
        assert_eq!(split(9, &[0, 3]), [0, 9]);
        assert_eq!(split(u64::MAX, &[u32::MAX]), [u64::MAX]);
        assert_eq!(split(5, &[]), [0; 0]);
    }

    proptest! {
        #![proptest_config(cases(2_000))]

        #[test]
        fn shares_sum_exactly_and_are_within_one_of_the_exact_part(
            total: u64,
            weights in prop::collection::vec(1_u32.., 1..65),
        ) {
            let parts = split(total, &weights);
            prop_assert_eq!(parts.len(), weights.len());
            prop_assert_eq!(parts.iter().copied().map(u128::from).sum::<u128>(), u128::from(total));
            let sum: u128 = weights.iter().copied().map(u128::from).sum();
            for (part, weight) in parts.iter().zip(&weights) {
                let exact = u128::from(total) * u128::from(*weight) / sum;
                let part = u128::from(*part);
                prop_assert!(part == exact || part == exact + 1, "{} of exactly {}", part, exact);
            }
        }
    }
}
