//! The batcher broken on purpose, in one way for each law: whether the laws would notice. Only in this crate's own unit tests;
//! anywhere else nothing is ever broken, and the questions are compiled away.

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Some requests are forgotten when their turn comes.
    Loses,
    /// Rows are run twice.
    Repeats,
    /// Batches may have twice their rows.
    Overfills,
    /// Nobody's queue is ever full.
    Uncapped,
    /// A batch that is not full waits for 50 ms.
    Dawdles,
    /// Nobody is charged.
    Free,
    /// Who comes back from idle starts where all began.
    Credits,
    /// Who comes back from idle starts far behind all others.
    Snubs,
    /// The first share of a run is a nanosecond too much.
    Rounds,
    /// Deadlines are not looked at.
    Late,
    /// The newest request of a tenant goes first.
    Reversed,
    /// Flex has its turn like all others.
    Eager,
    /// The rows of callers that left stay counted.
    Leaks,
    /// What is decided depends on more than what has happened.
    Moody,
}

#[cfg(not(test))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

#[cfg(test)]
pub(crate) use tests::is;

#[cfg(test)]
mod tests {
    use super::Mutant;
    use crate::laws::{self, Law};
    use std::cell::Cell;

    thread_local! {
        static BROKEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether this thread's batcher is broken in this way.
    pub(crate) fn is(mutant: Mutant) -> bool {
        BROKEN.get() == Some(mutant)
    }

    /// Seeds that each law is tried with, on devices that hold one run and on such that hold two.
    const SEEDS: u64 = 300;

    #[test]
    fn the_laws_hold() {
        let first = crate::seed::seed() % 1_000_000_000;
        for seed in first..first + SEEDS {
            for depth in [1, 2] {
                if let Err(broken) = laws::check(seed, depth) {
                    panic!("seed {seed} at depth {depth}: {broken}");
                }
            }
        }
    }

    #[test]
    fn each_law_notices_when_it_is_broken() {
        for (mutant, expected) in [
            (Mutant::Loses, Law::Answered),
            (Mutant::Repeats, Law::Once),
            (Mutant::Overfills, Law::Bounds),
            (Mutant::Uncapped, Law::Bounds),
            (Mutant::Dawdles, Law::Busy),
            (Mutant::Free, Law::Fair),
            (Mutant::Credits, Law::NoCredit),
            (Mutant::Snubs, Law::Quiet),
            (Mutant::Rounds, Law::Shares),
            (Mutant::Late, Law::Deadline),
            (Mutant::Reversed, Law::Order),
            (Mutant::Eager, Law::Flex),
            (Mutant::Leaks, Law::Leak),
            (Mutant::Moody, Law::Same),
        ] {
            BROKEN.set(Some(mutant));
            let noticed = (0..SEEDS).flat_map(|seed| [(seed, 1), (seed, 2)]);
            let noticed = noticed.filter_map(|(seed, depth)| laws::check(seed, depth).err());
            let mut laws = Vec::new();
            for broken in noticed {
                if !laws.contains(&broken.law) {
                    laws.push(broken.law);
                }
                if broken.law == expected {
                    break;
                }
            }
            BROKEN.set(None);
            assert!(
                laws.contains(&expected),
                "{mutant:?} broke {laws:?}, not {expected:?}"
            );
        }
    }
}
