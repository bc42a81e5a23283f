//! Who comes back after an answer. Callers that ask again as soon as they are answered make arrivals that no rate foretells: a
//! run ends, and within a moment as many rows are there again. What is learnt of one model is which part of the answered rows
//! comes back, and how soon; then a device need not wait on the off chance, and not start half empty just before. Pure.

use std::time::Duration;
use tokio::time::Instant;

/// Weight of the newest answer in what is learnt: 1/4.
const NEWEST: f64 = 0.25;

/// One model. See the module's description.
#[derive(Clone, Debug, Default)]
pub(super) struct Echo {
    /// Of the rows of an answer, the part that came back in time.
    part: f64,
    /// How long that took.
    delay: Duration,
    /// Since the latest answer.
    seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    since: Instant,
    answered: u32,
    returned: u32,
    /// When the last of those came, after `since`.
    delay: Duration,
}

/// Rows that are likely to come, and by when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Expected {
    pub(super) rows: u32,
    pub(super) by: Instant,
}

impl Echo {
    /// So many rows have been answered.
    pub(super) fn answered(&mut self, now: Instant, rows: u32, wait_max: Duration) {
        if let Some(seen) = self.seen.take() {
            self.learn(now, seen, wait_max);
        }
        self.seen = Some(Seen {
            since: now,
            answered: rows,
            returned: 0,
            delay: Duration::ZERO,
        });
    }

    /// So many rows have come.
    pub(super) fn arrived(&mut self, now: Instant, rows: u32, wait_max: Duration) {
        let Some(seen) = &mut self.seen else {
            return;
        };
        let delay = now.saturating_duration_since(seen.since);
        if delay <= wait_max && seen.returned < seen.answered {
            seen.returned = seen.answered.min(seen.returned.saturating_add(rows));
            seen.delay = delay;
        }
    }

    /// What is still to come after the latest answer.
    pub(super) fn expected(&self, now: Instant) -> Option<Expected> {
        let seen = self.seen?;
        let by = seen.since + self.patience();
        let rows = self.of(seen.answered).saturating_sub(seen.returned);
        (rows > 0 && by > now).then_some(Expected { rows, by })
    }

    /// What will come after an answer of so many rows at `at`.
    pub(super) fn after(&self, at: Instant, rows: u32) -> Option<Expected> {
        let rows = self.of(rows);
        let by = at + self.patience();
        (rows > 0).then_some(Expected { rows, by })
    }

    /// Half as long again as it usually takes, and never less than the engine needs to look up.
    fn patience(&self) -> Duration {
        self.delay + self.delay / 2 + Duration::from_micros(50)
    }

    fn of(&self, rows: u32) -> u32 {
        // Half a row is not worth waiting for; nine tenths are.
        f64::from(rows).mul_add(self.part, 0.1) as u32
    }

    /// An observation that was cut short by the next answer says nothing, unless all had come by then.
    fn learn(&mut self, now: Instant, seen: Seen, wait_max: Duration) {
        let watched = now.saturating_duration_since(seen.since);
        let is_whole = seen.returned == seen.answered || watched >= wait_max.min(self.patience());
        if !is_whole || seen.answered == 0 {
            return;
        }
        let part = f64::from(seen.returned) / f64::from(seen.answered);
        self.part += (part - self.part) * NEWEST;
        if seen.returned > 0 {
            self.delay = if self.delay.is_zero() {
                seen.delay
            } else {
                self.delay - self.delay / 4 + seen.delay / 4
            };
        }
    }
}
