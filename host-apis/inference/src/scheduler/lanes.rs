//! What waits, and in which order. A lane is what can share a batch: one model, one shape. In a lane tenants have their turns by
//! what they have been served in all lanes together; a tenant's own requests go by deadline, then by arrival. Two tiers, each
//! with counters of its own: what takes its turn, and what is content with idle capacity.

use super::{Entry, Flow, Key, Shape};
use crate::fair_queue::Counters;
use crate::mutant::{self, Mutant};
use crate::request::{Class, ModelId};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::{BTreeSet, VecDeque};
use tokio::time::Instant;

/// Names a lane; never used again after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneId(u64);

/// See the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Foreground,
    Idle,
}

impl Tier {
    pub(super) fn of(class: Class) -> Self {
        match class {
            Class::Priority | Class::Default => Self::Foreground,
            Class::Flex if mutant::is(Mutant::Eager) => Self::Foreground,
            Class::Flex => Self::Idle,
        }
    }

    /// What a batch of this tier is filled with, in this order.
    pub(super) const fn with_what_fills_it(self) -> &'static [Self] {
        match self {
            Self::Foreground => &[Self::Foreground, Self::Idle],
            Self::Idle => &[Self::Idle],
        }
    }

    /// Its place where there is one for each.
    pub(super) const fn at(self) -> usize {
        match self {
            Self::Foreground => 0,
            Self::Idle => 1,
        }
    }
}

/// What a batch can still take in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) rows: u32,
    pub(super) bytes: u64,
}

/// Tenants whose first request is looked at to fill the rest of a batch. Most requests are of one row, so the first fits; the
/// bound keeps a mix of sizes from costing more than the run.
const LOOK_MAX: usize = 256;

/// Every lane with anything in it.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: FxHashMap<LaneId, Lane>,
    /// The lanes of a model by their shapes.
    names: FxHashMap<ModelId, FxHashMap<Shape, LaneId>>,
    last_id: u64,
    tiers: [Turns; 2],
    rows: u64,
}

/// One tier of all lanes.
#[derive(Debug, Default)]
struct Turns {
    counters: Counters<Flow>,
    /// Those that wait.
    flows: FxHashMap<Flow, Waiting>,
    /// Lanes by the counter of their least served flow, then by who has not run for longest.
    order: BTreeSet<Place>,
}

#[derive(Debug)]
struct Waiting {
    counter: u64,
    /// Where it has requests; most have one.
    lanes: SmallVec<[LaneId; 2]>,
}

/// A lane's place among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    counter: u64,
    last_run: u64,
    lane: LaneId,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) model: ModelId,
    shape: Shape,
    /// Units of one row, see [`crate::cost`].
    pub(super) row_units: u64,
    /// Since when there is something that no run has taken: its first request's arrival, or the latest run.
    pub(super) held_since: Instant,
    last_run: u64,
    queues: [Queue; 2],
}

/// One tier of one lane.
#[derive(Debug, Default)]
struct Queue {
    flows: FxHashMap<Flow, Requests>,
    /// Least served first.
    order: BTreeSet<(u64, Flow)>,
    rows: u64,
    place: Option<Place>,
}

impl Lane {
    pub(super) fn rows(&self, tier: Tier) -> u64 {
        self.queues[tier.at()].rows
    }

    /// The first request of whoever has the next turn.
    pub(super) fn head(&self, tier: Tier) -> Option<&Entry> {
        let queue = &self.queues[tier.at()];
        let (_, flow) = queue.order.first()?;
        queue.flows.get(flow)?.front()
    }
}

/// The requests of one flow in one lane by their keys. Most come in that order, and most leave from the front. Keys stand beside
/// the boxes, so that finding a place reads no memory but this.
#[derive(Debug)]
struct Requests(VecDeque<(Key, Box<Entry>)>);

impl Requests {
    fn of(entry: Entry) -> Self {
        Self(VecDeque::from([(entry.key(), Box::new(entry))]))
    }

    fn front(&self) -> Option<&Entry> {
        self.0.front().map(|(_, entry)| &**entry)
    }

    fn back(&self) -> Option<&Entry> {
        self.0.back().map(|(_, entry)| &**entry)
    }

    fn insert(&mut self, entry: Entry) {
        let key = entry.key();
        let entry = (key, Box::new(entry));
        if self.0.back().is_none_or(|(last, _)| *last < key) {
            self.0.push_back(entry);
            return;
        }
        let at = self.0.partition_point(|(other, _)| *other < key);
        self.0.insert(at, entry);
    }

    fn remove(&mut self, key: Key) -> Option<Entry> {
        let at = self.0.binary_search_by_key(&key, |(other, _)| *other);
        self.0.remove(at.ok()?).map(|(_, entry)| *entry)
    }
}

impl Lanes {
    /// Rows of all lanes.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn get(&self, lane: LaneId) -> Option<&Lane> {
        self.lanes.get(&lane)
    }

    /// Lanes with anything of this tier, in the order of their turns.
    pub(super) fn in_turn(&self, tier: Tier) -> impl Iterator<Item = (LaneId, &Lane)> {
        let order = self.tiers[tier.at()].order.iter();
        order.filter_map(|place| Some((place.lane, self.lanes.get(&place.lane)?)))
    }

    /// Nothing, unless it is broken on purpose.
    pub(super) fn leak(&mut self, entry: &Entry) {
        if mutant::is(Mutant::Leaks) {
            self.rows += u64::from(entry.rows);
        }
    }

    /// Lanes of a model.
    pub(super) fn of_model(&self, model: ModelId) -> Vec<LaneId> {
        let names = self.names.get(&model);
        let mut lanes: Vec<LaneId> = names
            .into_iter()
            .flat_map(|names| names.values().copied())
            .collect();
        lanes.sort_unstable();
        lanes
    }

    /// In how many lanes this request's flow would wait with it.
    pub(super) fn lanes_with(&self, entry: &Entry) -> usize {
        let names = self.names.get(&entry.model);
        let lane = names.and_then(|names| names.get(&entry.shape));
        let flow = entry.flow();
        let turns = &self.tiers[Tier::of(flow.class).at()];
        let lanes = turns.flows.get(&flow).map(|waiting| &waiting.lanes[..]);
        let lanes = lanes.unwrap_or_default();
        lanes.len() + usize::from(lane.is_none_or(|lane| !lanes.contains(lane)))
    }

    /// Adds a request; where it is.
    pub(super) fn push(&mut self, now: Instant, entry: Entry) -> LaneId {
        let id = self.lane_of(now, &entry);
        let lane = self.lanes.get_mut(&id).expect("made where it was not");
        let (tier, flow) = (Tier::of(entry.class), entry.flow());
        let turns = &mut self.tiers[tier.at()];
        let queue = &mut lane.queues[tier.at()];
        let rows = u64::from(entry.rows);
        queue.rows += rows;
        self.rows += rows;
        if let Some(requests) = queue.flows.get_mut(&flow) {
            requests.insert(entry);
            return id;
        }
        let waiting = turns.flows.entry(flow).or_insert_with(|| Waiting {
            counter: turns.counters.enter(&flow),
            lanes: SmallVec::new(),
        });
        waiting.lanes.push(id);
        queue.order.insert((waiting.counter, flow));
        queue.flows.insert(flow, Requests::of(entry));
        self.settle(id, tier);
        id
    }

    fn lane_of(&mut self, now: Instant, entry: &Entry) -> LaneId {
        let names = self.names.entry(entry.model).or_default();
        if let Some(lane) = names.get(&entry.shape) {
            return *lane;
        }
        self.last_id += 1;
        let id = LaneId(self.last_id);
        names.insert(entry.shape.clone(), id);
        let lane = Lane {
            model: entry.model,
            shape: entry.shape.clone(),
            row_units: entry.row_units,
            held_since: now,
            last_run: 0,
            queues: Default::default(),
        };
        self.lanes.insert(id, lane);
        id
    }

    /// The first request of the flow of this lane that is served least and whose first request fits.
    pub(super) fn pop(&mut self, lane: LaneId, tier: Tier, room: Room) -> Option<Entry> {
        let queue = &self.lanes.get(&lane)?.queues[tier.at()];
        let head = |flow: &Flow| {
            let requests = queue.flows.get(flow)?;
            match mutant::is(Mutant::Reversed) {
                true => requests.back(),
                false => requests.front(),
            }
        };
        let fits = |entry: &&Entry| entry.rows <= room.rows && entry.bytes <= room.bytes;
        let flows = queue.order.iter().take(LOOK_MAX);
        let entry = flows.filter_map(|(_, flow)| head(flow)).find(fits)?;
        let (flow, key) = (entry.flow(), entry.key());
        self.remove(lane, flow, key)
    }

    /// A run of this lane begins.
    pub(super) fn ran(&mut self, lane: LaneId, run: u64, now: Instant) {
        let Some(lane_of) = self.lanes.get_mut(&lane) else {
            return;
        };
        lane_of.last_run = run;
        lane_of.held_since = now;
        for tier in [Tier::Foreground, Tier::Idle] {
            self.settle(lane, tier);
        }
    }

    /// The turn of this lane has come: nobody who comes from now on starts behind its first flow.
    pub(super) fn turn(&mut self, lane: LaneId, tier: Tier) {
        let queue = self.lanes.get(&lane).map(|lane| &lane.queues[tier.at()]);
        if let Some((counter, _)) = queue.and_then(|queue| queue.order.first()) {
            self.tiers[tier.at()].counters.turn(*counter);
        }
    }

    /// Takes a request out, if it is there.
    pub(super) fn remove(&mut self, id: LaneId, flow: Flow, key: Key) -> Option<Entry> {
        let tier = Tier::of(flow.class);
        let turns = &mut self.tiers[tier.at()];
        let lane = self.lanes.get_mut(&id)?;
        let queue = &mut lane.queues[tier.at()];
        let requests = queue.flows.get_mut(&flow)?;
        let entry = requests.remove(key)?;
        queue.rows -= u64::from(entry.rows);
        self.rows -= u64::from(entry.rows);
        if !requests.0.is_empty() {
            return Some(entry);
        }
        queue.flows.remove(&flow);
        if let Some(waiting) = turns.flows.get_mut(&flow) {
            queue.order.remove(&(waiting.counter, flow));
            waiting.lanes.retain(|lane| *lane != id);
            if waiting.lanes.is_empty() {
                let counter = waiting.counter;
                turns.flows.remove(&flow);
                turns.counters.leave(&flow, counter);
            }
        }
        self.settle(id, tier);
        if let Some(lane) = self.lanes.get(&id)
            && lane.queues.iter().all(|queue| queue.flows.is_empty())
            && let Some(lane) = self.lanes.remove(&id)
        {
            self.forget_name(lane.model, &lane.shape);
        }
        Some(entry)
    }

    fn forget_name(&mut self, model: ModelId, shape: &Shape) {
        if let Some(names) = self.names.get_mut(&model) {
            names.remove(shape);
            if names.is_empty() {
                self.names.remove(&model);
            }
        }
    }

    /// Everything in a lane, in no order that means anything to a tenant.
    pub(super) fn drain(&mut self, lane: LaneId) -> Vec<Entry> {
        let room = Room {
            rows: u32::MAX,
            bytes: u64::MAX,
        };
        let mut entries = Vec::new();
        for tier in [Tier::Foreground, Tier::Idle] {
            while let Some(entry) = self.pop(lane, tier, room) {
                entries.push(entry);
            }
        }
        entries
    }

    /// Adds to what a flow has been served; wherever it waits, its turn comes later.
    pub(super) fn charge(&mut self, flow: Flow, cost: u64) {
        if !self.moved(flow, |counter| counter.saturating_add(cost)) {
            self.turns(flow).counters.charge(&flow, cost);
        }
    }

    /// Takes back what was charged for nothing.
    pub(super) fn refund(&mut self, flow: Flow, cost: u64) {
        if !self.moved(flow, |counter| counter.saturating_sub(cost)) {
            self.turns(flow).counters.refund(&flow, cost);
        }
    }

    fn turns(&mut self, flow: Flow) -> &mut Turns {
        &mut self.tiers[Tier::of(flow.class).at()]
    }

    /// Changes the counter of a flow that waits; whether it does.
    fn moved(&mut self, flow: Flow, change: impl FnOnce(u64) -> u64) -> bool {
        let Some(waiting) = self.turns(flow).flows.get_mut(&flow) else {
            return false;
        };
        let before = waiting.counter;
        waiting.counter = change(before);
        let (after, lanes) = (waiting.counter, waiting.lanes.clone());
        if before == after {
            return true;
        }
        let tier = Tier::of(flow.class);
        for id in lanes {
            if let Some(lane) = self.lanes.get_mut(&id) {
                let queue = &mut lane.queues[tier.at()];
                queue.order.remove(&(before, flow));
                queue.order.insert((after, flow));
            }
            self.settle(id, tier);
        }
        true
    }

    /// Puts a lane in its place among the others.
    fn settle(&mut self, id: LaneId, tier: Tier) {
        let order = &mut self.tiers[tier.at()].order;
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        let queue = &mut lane.queues[tier.at()];
        let place = queue.order.first().map(|(counter, _)| Place {
            counter: *counter,
            last_run: lane.last_run,
            lane: id,
        });
        if place == queue.place {
            return;
        }
        if let Some(before) = std::mem::replace(&mut queue.place, place) {
            order.remove(&before);
        }
        order.extend(place);
    }
}
