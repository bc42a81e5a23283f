//! The wall clock, for what people read and what outlives the process. Durations and deadlines are of the monotonic clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 began, in UTC. Not monotonic: whoever sets the machine's clock moves it.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Seconds since 1970 began.
pub(crate) fn unix_seconds() -> u64 {
    unix_ms() / 1_000
}
