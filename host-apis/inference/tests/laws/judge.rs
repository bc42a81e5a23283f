//! Whether the laws hold of what was seen.

use super::scenario::{Kind, Scenario};
use super::trace::{Asked, End, Ran, Run, Trace};
use super::{Broken, Law};
use shoal_inference::Class;
use std::collections::HashMap;
use std::time::Duration;

/// tokio's timers have a grain of 1 ms, and a wait may be followed by another.
const GRAIN: Duration = Duration::from_millis(3);

/// All laws, the plainest first.
pub(super) fn all(scenario: &Scenario, trace: &Trace) -> Result<(), Broken> {
    let seen = Seen { scenario, trace };
    seen.answered()?;
    seen.once()?;
    seen.bounds()?;
    seen.shares()?;
    seen.deadline()?;
    seen.busy()?;
    seen.order()?;
    seen.flex()?;
    match scenario.kind {
        Kind::Any => Ok(()),
        Kind::Backlog => seen.fair(Law::Fair, &|_| true),
        Kind::Comeback => {
            let back = scenario.tenants[1].asks.last().map(|ask| ask.at);
            seen.fair(Law::NoCredit, &|handed| Some(handed) > back)
        }
        Kind::Quiet => seen.quiet(),
    }
}

struct Seen<'a> {
    scenario: &'a Scenario,
    trace: &'a Trace,
}

impl Seen<'_> {
    fn answered(&self) -> Result<(), Broken> {
        for (number, asked) in self.trace.asked.iter().enumerate() {
            let right = match &asked.ended {
                None | Some((_, End::Lost)) => false,
                Some((_, End::Answered(own, explanation))) => {
                    *own && explanation.rows == asked.rows
                }
                Some((_, End::Full | End::Late | End::Failed | End::Left)) => true,
            };
            if !right {
                return Err(Broken::new(Law::Answered, format!("{number}: {asked:?}")));
            }
        }
        Ok(())
    }

    fn once(&self) -> Result<(), Broken> {
        let mut rows: HashMap<usize, u32> = HashMap::new();
        for run in self.ended_well() {
            for (number, count) in &run.requests {
                *rows.entry(*number).or_default() += count;
            }
        }
        for (number, asked) in self.trace.asked.iter().enumerate() {
            let ran = rows.get(&number).copied().unwrap_or(0);
            let all = matches!(asked.ended, Some((_, End::Answered(..))));
            if ran > asked.rows || all && ran < asked.rows {
                let why = format!("{ran} rows of {number} were run: {asked:?}");
                return Err(Broken::new(Law::Once, why));
            }
        }
        Ok(())
    }

    fn bounds(&self) -> Result<(), Broken> {
        let (rows_max, depth) = (self.scenario.rows_max, self.scenario.depth);
        for (at, run) in self.trace.runs.iter().enumerate() {
            if run.rows() > rows_max {
                return Err(Broken::new(
                    Law::Bounds,
                    format!("over {rows_max} rows: {run:?}"),
                ));
            }
            let before = self.trace.runs[..at].iter();
            let beside = before.filter(|other| {
                let ended = other.ended.map_or(Duration::MAX, |(at, _)| at);
                other.device == run.device && ended > run.handed
            });
            if beside.count() >= depth && !self.has_faults() {
                return Err(Broken::new(
                    Law::Bounds,
                    format!("over {depth} runs: {run:?}"),
                ));
            }
        }
        // What was handed over in the same turn of the engine is still counted here.
        let slack = rows_max * self.scenario.faults.len() as u32 * depth as u32;
        let max = self.scenario.tenant_rows_max + slack;
        for run in &self.trace.runs {
            let mut queued = vec![0; self.scenario.tenants.len()];
            for (number, asked) in self.waiting_at(run.handed) {
                queued[asked.tenant] += asked.rows;
                if queued[asked.tenant] > max {
                    let why = format!("over {max} rows of a tenant at {number}: {asked:?}");
                    return Err(Broken::new(Law::Bounds, why));
                }
            }
        }
        Ok(())
    }

    /// Only runs whose requests were all answered, and in one piece.
    fn shares(&self) -> Result<(), Broken> {
        for run in self.ended_well() {
            let Some((_, Ran::Well(device_ns))) = run.ended else {
                continue;
            };
            let shares = run.requests.iter().map(|(number, rows)| {
                let asked = &self.trace.asked[*number];
                match &asked.ended {
                    Some((_, End::Answered(_, of))) if asked.rows == *rows && of.runs == 1 => {
                        Some(of.device_share_ns)
                    }
                    _ => None,
                }
            });
            let sum: Option<u64> = shares.sum();
            if sum.is_some_and(|sum| sum != device_ns) {
                return Err(Broken::new(Law::Shares, format!("{sum:?} of {run:?}")));
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Result<(), Broken> {
        for run in &self.trace.runs {
            for (number, _) in &run.requests {
                let asked = &self.trace.asked[*number];
                if run.handed > asked.deadline {
                    return Err(Broken::new(Law::Deadline, format!("{asked:?} in {run:?}")));
                }
            }
        }
        // Whoever is refused for its deadline was near it: the runs before its own, and its own, of two lengths.
        let near = self.scenario.full_run() * 2 * (self.scenario.depth as u32 + 2);
        for asked in &self.trace.asked {
            let is_late = matches!(asked.ended, Some((_, End::Late)));
            if is_late && asked.until() + near + GRAIN < asked.deadline {
                return Err(Broken::new(Law::Deadline, format!("too early: {asked:?}")));
            }
            if asked.until() > asked.deadline + GRAIN {
                return Err(Broken::new(Law::Deadline, format!("{asked:?}")));
            }
        }
        Ok(())
    }

    /// Time that a device has nothing while a request waits that is not content with idle capacity.
    fn busy(&self) -> Result<(), Broken> {
        let mut longest = self.scenario.wait_max + GRAIN;
        if self.scenario.faults.len() > 1 {
            // It may be left to a device that is expected to have done it sooner.
            longest += self.scenario.full_run();
        }
        for device in 0..self.scenario.faults.len() {
            let dies = self.trace.deaths.iter().find(|(dead, _)| *dead == device);
            let dies = dies.map_or(Duration::MAX, |(_, at)| *at);
            let mut idle_from = Duration::ZERO;
            let mut in_flight: Vec<Duration> = Vec::new();
            let runs = self.trace.runs.iter().filter(|run| run.device == device);
            for run in runs {
                if in_flight.iter().all(|ended| *ended <= run.handed) {
                    self.nobody_waits(device, idle_from, run.handed.min(dies), longest)?;
                }
                let ended = run.ended.map_or(Duration::MAX, |(at, _)| at);
                in_flight.retain(|other| *other > run.handed);
                in_flight.push(ended);
                idle_from = idle_from.max(ended);
            }
            self.nobody_waits(device, idle_from, dies, longest)?;
        }
        Ok(())
    }

    fn nobody_waits(
        &self,
        device: usize,
        from: Duration,
        to: Duration,
        longest: Duration,
    ) -> Result<(), Broken> {
        if to <= from.saturating_add(longest) {
            return Ok(());
        }
        for (number, asked) in self.trace.asked.iter().enumerate() {
            if asked.class == Class::Flex || !asked.was_queued() {
                continue;
            }
            let handed = self.trace.handed(number).unwrap_or(Duration::MAX);
            let waits = (asked.at.max(from), handed.min(asked.until()).min(to));
            if waits.1 > waits.0 + longest {
                let why = format!("device {device} from {from:?} to {to:?}, {number}: {asked:?}");
                return Err(Broken::new(Law::Busy, why));
            }
        }
        Ok(())
    }

    /// Where nothing failed and nothing was asked back, and for requests of one part.
    fn order(&self) -> Result<(), Broken> {
        if self.has_faults() || self.has_flex() {
            return Ok(());
        }
        for run in &self.trace.runs {
            for (number, rows) in &run.requests {
                let asked = &self.trace.asked[*number];
                if asked.rows != *rows {
                    continue;
                }
                let overtaken = self.waiting_at(run.handed).find(|(other_number, other)| {
                    let alike = other.tenant == asked.tenant
                        && other.length == asked.length
                        && other.rows <= asked.rows;
                    let in_it = run
                        .requests
                        .iter()
                        .any(|(number, _)| number == other_number);
                    alike && !in_it && (other.deadline, other_number) < (asked.deadline, number)
                });
                if let Some((_, other)) = overtaken {
                    let why = format!("{asked:?} goes before {other:?} in {run:?}");
                    return Err(Broken::new(Law::Order, why));
                }
            }
        }
        Ok(())
    }

    /// On one device: another might have done it sooner.
    fn flex(&self) -> Result<(), Broken> {
        if self.has_faults() || self.scenario.faults.len() > 1 {
            return Ok(());
        }
        for run in &self.trace.runs {
            let mut classes = run
                .requests
                .iter()
                .map(|(number, _)| self.trace.asked[*number].class);
            if classes.any(|class| class != Class::Flex) {
                continue;
            }
            let mut waiting = self.waiting_at(run.handed);
            if let Some((_, other)) = waiting.find(|(_, other)| other.class != Class::Flex) {
                return Err(Broken::new(Law::Flex, format!("{run:?} before {other:?}")));
            }
        }
        Ok(())
    }

    /// Between any two tenants while both have work that waits: by what they were handed over, at most twice the largest run
    /// apart, over their weights. What counts is what is handed over when `counts` says so.
    fn fair(&self, law: Law, counts: &dyn Fn(Duration) -> bool) -> Result<(), Broken> {
        let tenants = &self.scenario.tenants;
        let largest = self.ended_well().filter_map(|run| match run.ended {
            Some((_, Ran::Well(ns))) => Some(ns),
            _ => None,
        });
        let largest = largest.max().unwrap_or(0) as f64;
        let mut served = vec![0.0; tenants.len()];
        for run in self.trace.runs.iter().filter(|run| counts(run.handed)) {
            let Some((_, Ran::Well(ns))) = run.ended else {
                continue;
            };
            for (number, rows) in &run.requests {
                let tenant = self.trace.asked[*number].tenant;
                let share = ns as f64 * f64::from(*rows) / f64::from(run.rows());
                served[tenant] += share / f64::from(tenants[tenant].weight);
            }
            let mut waiting = vec![false; tenants.len()];
            for (number, asked) in self.trace.asked.iter().enumerate() {
                let handed = self.trace.handed(number).unwrap_or(Duration::MAX);
                waiting[asked.tenant] |= asked.at <= run.handed && handed > run.handed;
            }
            for a in (0..tenants.len()).filter(|a| waiting[*a]) {
                for b in (0..a).filter(|b| waiting[*b]) {
                    let least = tenants[a].weight.min(tenants[b].weight);
                    let apart: f64 = served[a] - served[b];
                    if apart.abs() > 2.0 * largest / f64::from(least) + 1.0 {
                        let why = format!("{served:?} ns after {run:?}, largest run {largest}");
                        return Err(Broken::new(law, why));
                    }
                }
            }
        }
        Ok(())
    }

    fn quiet(&self) -> Result<(), Broken> {
        let quiet: Vec<usize> = self.of(|asked| asked.tenant > 0);
        let Some(at) = quiet.first().map(|number| self.trace.asked[*number].at) else {
            return Ok(());
        };
        // What was handed over at the same instant may have been on its way already.
        let most = quiet.len() as u32 + self.scenario.rows_max;
        for number in quiet {
            let handed = self.trace.handed(number).unwrap_or(Duration::MAX);
            let runs = self.trace.runs.iter();
            let before = runs.filter(|run| run.handed > at && run.handed < handed);
            let rows: u32 = before.map(Run::rows).sum();
            if rows > most {
                let why = format!("{number} after {rows} rows, {most} are enough");
                return Err(Broken::new(Law::Quiet, why));
            }
        }
        Ok(())
    }

    fn of(&self, which: impl Fn(&Asked) -> bool) -> Vec<usize> {
        let all = self.trace.asked.iter().enumerate();
        all.filter(|(_, asked)| which(asked))
            .map(|(number, _)| number)
            .collect()
    }

    fn ended_well(&self) -> impl Iterator<Item = &Run> {
        let runs = self.trace.runs.iter();
        runs.filter(|run| matches!(run.ended, Some((_, Ran::Well(_)))))
    }

    /// Requests that wait in a queue at this instant: asked before it, handed over after.
    fn waiting_at(&self, at: Duration) -> impl Iterator<Item = (usize, &Asked)> {
        let all = self.trace.asked.iter().enumerate();
        all.filter(move |(number, asked)| {
            let waits = asked.was_queued() && asked.at < at && asked.until() > at;
            waits && self.trace.handed(*number).is_none_or(|handed| handed > at)
        })
    }

    fn has_faults(&self) -> bool {
        self.scenario.faults.iter().any(|faults| !faults.is_empty())
    }

    fn has_flex(&self) -> bool {
        let mut tenants = self.scenario.tenants.iter();
        tenants.any(|tenant| tenant.served() == Class::Flex)
    }
}
