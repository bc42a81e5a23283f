//! What follows from a seed.

/// The output function of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The `at`th number of those that follow from `seed`.
pub(crate) fn draw(seed: u64, at: u64) -> u64 {
    mix(seed.wrapping_mul(1 << 32).wrapping_add(at))
}

/// Puts things in an order that follows from `seed`.
pub(crate) fn shuffle<T>(things: &mut [T], seed: u64) {
    for last in (1..things.len()).rev() {
        let chosen = draw(seed, last as u64) % (last as u64 + 1);
        things.swap(last, chosen as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_order_of_all_the_same_things() {
        let order = |seed| {
            let mut things: Vec<u32> = (0..100).collect();
            shuffle(&mut things, seed);
            things
        };
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
        let mut sorted = order(7);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<u32>>());
    }
}
