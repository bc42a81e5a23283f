//! Which lane a device should run now. An idle one takes what there is, unless more is about to come and worth waiting for. A
//! busy one has a second slot, so that its next run begins the moment this one ends; batches go there only shortly before that
//! moment, because a batch that is closed early is closed small, and in front of whoever comes later with a better right.

use super::Scheduler;
use super::lanes::{Lane, LaneId, Tier};
use super::slots::Lead;
use crate::mutant::{self, Mutant};
use crate::request::Class;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;
use tokio::time::Instant;

/// What a device should do.
pub(super) enum Pick {
    Now(Choice),
    /// Nothing before this instant.
    At(Instant),
    /// Nothing before something changes.
    Never,
}

/// A batch to be taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) lane: LaneId,
    pub(super) tier: Tier,
    /// At most so many rows.
    pub(super) rows: u32,
}

/// Lanes that are looked at in one turn: those with the best right. Most are one or a few.
const LOOK_MAX: usize = 256;

/// A device that will have done something sooner.
struct There {
    /// Until when it is left to it at most.
    until: Instant,
    /// What it needs for all of it.
    needs: Duration,
}

/// What is known of one lane for one device.
enum Lookout {
    /// As full as a batch should be.
    Full,
    /// It may go.
    Ready,
    /// From this instant on, unless it is full before; `None`: not before an outcome.
    SlotOpens(Option<Instant>),
    /// At this instant, unless it is full before.
    Held(Instant),
    /// Another device will have done it sooner.
    Elsewhere(There),
}

impl Scheduler {
    pub(super) fn pick(&mut self, now: Instant, device: usize) -> Pick {
        let mut wake = Wake::default();
        // Before the second slot opens for full batches it opens for none, so none is looked at.
        if let Some(opens) = self.devices[device].opens(now, Lead::OfFull)
            && opens > now
        {
            return Pick::At(opens);
        }
        for tier in [Tier::Foreground, Tier::Idle] {
            match self.pick_of(now, device, tier, &mut wake) {
                Found::Choice(choice) => return Pick::Now(choice),
                // Idle is what nobody else waits for.
                Found::Waiting => break,
                Found::Nothing => {}
            }
        }
        wake.0.map_or(Pick::Never, Pick::At)
    }

    fn pick_of(&mut self, now: Instant, device: usize, tier: Tier, wake: &mut Wake) -> Found {
        let mut waits = false;
        let is_idle = self.devices[device].is_idle();
        // The first whose only obstacle is that the second slot is not open yet.
        let mut first_behind: Option<Choice> = None;
        // Time that others will need for what is left to them.
        let mut ahead = Duration::ZERO;
        let lanes = self.lanes.in_turn(tier).take(LOOK_MAX);
        let lanes: Vec<LaneId> = lanes.map(|(id, _)| id).collect();
        for id in lanes {
            let Some((choice, lookout)) = self.look_at(now, device, (id, tier), ahead) else {
                continue;
            };
            // An idle device need not stay idle for the sake of what another will do.
            waits |= !matches!(lookout, Lookout::Elsewhere(_) if is_idle);
            match lookout {
                Lookout::Elsewhere(there) => {
                    ahead += there.needs;
                    wake.at(there.until);
                }
                // A full batch opens the second slot for all: else those of a flood would take every slot before the time
                // of a small one has come.
                Lookout::Full => return Found::Choice(first_behind.unwrap_or(choice)),
                Lookout::Ready => return Found::Choice(choice),
                Lookout::Held(until) => wake.at(until),
                Lookout::SlotOpens(at) => {
                    first_behind.get_or_insert(choice);
                    at.into_iter().for_each(|at| wake.at(at));
                }
            }
        }
        if waits {
            Found::Waiting
        } else {
            Found::Nothing
        }
    }

    /// `None`: it cannot run here.
    fn look_at(
        &mut self,
        now: Instant,
        device: usize,
        (id, tier): (LaneId, Tier),
        ahead: Duration,
    ) -> Option<(Choice, Lookout)> {
        let lane = self.lanes.get(id)?;
        if !self.devices[device].has_model(lane.model) {
            return None;
        }
        let rows_max = self.models.get(&lane.model)?.rows_max;
        let head = lane.head(tier)?;
        let run_max = self.run_max(head.class);
        let best = self.devices[device].rows_best(lane.model, rows_max, lane.row_units, run_max);
        // A request is never torn here.
        let rows = best.max(head.rows);
        let waiting = lane.rows(tier);
        let rows = match () {
            () if mutant::is(Mutant::Overfills) => 2 * rows_max,
            () if mutant::is(Mutant::Moody) && RandomState::new().hash_one(0) < u64::MAX / 4 => {
                head.rows
            }
            () => rows,
        };
        let choice = Choice {
            lane: id,
            tier,
            rows,
        };
        if let Some(there) = self.sooner_elsewhere(now, device, choice, ahead) {
            return Some((choice, Lookout::Elsewhere(there)));
        }
        if tier == Tier::Idle
            && let Some(until) = self.gives_way_until(now, device, lane, rows)
        {
            return Some((choice, Lookout::Held(until)));
        }
        if waiting >= u64::from(rows) {
            return Some((choice, Lookout::Full));
        }
        let lookout = match self.devices[device].opens(now, Lead::OfAny) {
            Some(opens) if opens <= now => match self.held(now, device, lane, tier, rows) {
                Some(until) => Lookout::Held(until),
                None => Lookout::Ready,
            },
            opens => Lookout::SlotOpens(opens),
        };
        Some((choice, lookout))
    }

    /// The longest a run led by this class should take: a request waits for the run in progress, then for its own.
    fn run_max(&self, class: Class) -> Duration {
        let targets = self.limits.targets;
        let target = match class {
            Class::Priority => targets.priority,
            // Flex runs are in the way of others for as long as they take.
            Class::Default | Class::Flex => targets.default,
        };
        target / 2
    }

    /// Until when a batch that could go now should wait for more, because more is about to come, and what is lost by waiting
    /// is less than what is gained by running it in one.
    fn held(
        &self,
        now: Instant,
        device: usize,
        lane: &Lane,
        tier: Tier,
        rows: u32,
    ) -> Option<Instant> {
        let slots = &self.devices[device];
        let wait_max = self.limits.wait_max;
        if mutant::is(Mutant::Dawdles) {
            let until = lane.held_since + Duration::from_millis(50);
            return (until > now).then_some(until);
        }
        let waiting = u32::try_from(lane.rows(tier)).unwrap_or(u32::MAX);
        let state = self.models.get(&lane.model)?;
        let ends = slots.running_until().map_or(now, |ends| ends.max(now));
        let expected = match slots.running() {
            Some(running) if running.model == lane.model => {
                state.echoes[tier.at()].after(ends, running.rows())
            }
            Some(_) | None => state.echoes[tier.at()].expected(now),
        }?;
        let more = expected.rows.min(rows.saturating_sub(waiting));
        if more == 0 {
            return None;
        }
        let units = |rows: u32| lane.row_units.saturating_mul(u64::from(rows));
        let worth = slots.worth_waiting(lane.model, units(waiting), units(more));
        let lost = expected.by.saturating_duration_since(ends);
        let since = slots.idle_since.unwrap_or(ends).max(lane.held_since);
        let latest = since.min(ends) + wait_max;
        (lost <= worth && expected.by > now && expected.by <= latest).then_some(expected.by)
    }

    /// Until when a run for idle capacity should wait, because foreground requests are about to come back and would find it in
    /// their way. A gap that it fits in is idle.
    fn gives_way_until(
        &self,
        now: Instant,
        device: usize,
        lane: &Lane,
        rows: u32,
    ) -> Option<Instant> {
        if self.limits.wait_max.is_zero() {
            return None;
        }
        let slots = &self.devices[device];
        let begins = slots.running_until().map_or(now, |ends| ends.max(now));
        let waiting = lane.rows(Tier::Idle).min(u64::from(rows));
        let run = slots.expect_ns(lane.model, lane.row_units.saturating_mul(waiting));
        let ends = begins + Duration::from_nanos(run.unwrap_or(0));
        let here = self
            .models
            .iter()
            .filter(|(model, _)| slots.has_model(**model));
        let returns = here.filter_map(|(model, state)| {
            let echo = &state.echoes[Tier::Foreground.at()];
            let expected = match slots.running() {
                Some(running) if running.model == *model && !running.is_flex() => {
                    echo.after(begins, running.rows())
                }
                Some(_) | None => echo.expected(now),
            };
            Some(expected?.by)
        });
        returns
            .filter(|by| (now..ends).contains(by) && *by > now)
            .min()
    }

    /// Another device, if it is done with this batch, and with what is left to others already, sooner than this one. Only
    /// where both have run the like of it: a device that is thought slow because it was never tried would never be tried.
    fn sooner_elsewhere(
        &self,
        now: Instant,
        device: usize,
        choice: Choice,
        ahead: Duration,
    ) -> Option<There> {
        if self.devices.len() == 1 {
            return None;
        }
        let lane = self.lanes.get(choice.lane)?;
        let (waiting, rows) = (lane.rows(choice.tier), u64::from(choice.rows.max(1)));
        let units = lane.row_units.saturating_mul(waiting.min(rows));
        let runs = waiting.div_ceil(rows);
        let mine = &self.devices[device];
        let begins = mine.free_at(now)?;
        let run = Duration::from_nanos(mine.seen_ns(lane.model, units)?);
        let ends = begins + run;
        // For no longer than this one would have taken: what was expected of the other has not come true.
        let since = mine.idle_since.unwrap_or(begins).max(lane.held_since);
        let until = since + run;
        if until <= now {
            return None;
        }
        let others = self
            .devices
            .iter()
            .enumerate()
            .filter(|(other, slots)| *other != device && slots.has_model(lane.model));
        let sooner = others.filter_map(|(_, slots)| {
            let free = slots.free_at(now)?;
            let run = slots.seen_ns(lane.model, units)?;
            // What waits behind this batch would go there as well.
            let needs = Duration::from_nanos(run.saturating_mul(runs));
            let is_sooner = free + ahead + needs < ends && (free > now || slots.is_idle());
            is_sooner.then_some((free + needs, There { until, needs }))
        });
        let (_, there) = sooner.min_by_key(|(done, _)| *done)?;
        Some(there)
    }
}

/// What one tier has for a device.
enum Found {
    Choice(Choice),
    /// Something, but not now.
    Waiting,
    Nothing,
}

/// The first of several instants.
#[derive(Default)]
struct Wake(Option<Instant>);

impl Wake {
    fn at(&mut self, at: Instant) {
        self.0 = Some(self.0.map_or(at, |before| before.min(at)));
    }
}
