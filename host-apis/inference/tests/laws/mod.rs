//! The laws of the batcher, checked on whole engines: a seed makes tenants, what they ask and what goes wrong; the engine runs
//! on simulated devices and a paused clock; everything that could be seen from outside is judged afterwards. Knows the
//! public interface alone. Part of the crate's unit tests, where the scheduler can be broken on purpose, and of the bar `laws`.

mod judge;
mod scenario;
mod trace;
mod world;

use scenario::Scenario;
use std::fmt;

/// What must hold whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Law {
    /// Every request is answered, with its own rows.
    Answered,
    /// No row is run to a good end twice.
    Once,
    /// Rows of a batch, runs of a device, queued rows of a tenant.
    Bounds,
    /// No device is idle beside work for longer than it may wait for more.
    Busy,
    /// Tenants that all have work get device time by their weights.
    Fair,
    /// A tenant that comes back has no more than the others from then on.
    NoCredit,
    /// A quiet tenant waits for the runs in flight and for no more rows than were woken with it.
    Quiet,
    /// The shares of a run sum to it.
    Shares,
    /// Nothing is begun, or answered, after its deadline.
    Deadline,
    /// Of one tenant's requests of a kind the most urgent goes first, then the earliest.
    Order,
    /// What is content with idle capacity begins nothing while anybody else waits.
    Flex,
    /// When all is over nothing is left: no task, no queued row.
    Leak,
    /// The same seed gives the same log.
    Same,
}

/// A law that does not hold.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) law: Law,
    why: String,
}

impl Broken {
    fn new(law: Law, why: impl fmt::Display) -> Self {
        let why = why.to_string();
        Self { law, why }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.law, self.why)
    }
}

/// Every how manieth seed is played twice.
const TWICE: u64 = 8;

/// Plays one seed on devices that hold `depth` runs; how many requests there were.
///
/// # Errors
/// The first law that does not hold.
pub(crate) fn check(seed: u64, depth: usize) -> Result<usize, Broken> {
    let scenario = Scenario::new(seed, depth);
    let trace = world::play(&scenario)?;
    judge::all(&scenario, &trace)?;
    if seed.is_multiple_of(TWICE) {
        let again = world::play(&scenario)?;
        if let Some(at) = trace.first_difference(&again) {
            return Err(Broken::new(Law::Same, at));
        }
    }
    Ok(trace.asked.len())
}
