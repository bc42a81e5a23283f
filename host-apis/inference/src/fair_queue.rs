//! Whose turn it is: weighted virtual counters, and a queue over them. Pure: no clock, no I/O. Devices' time and guests' CPU
//! are both shared by it, so it knows neither; what a unit of service is, its user decides by what it charges.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing", SIGCOMM 1996), charged after the fact like the
//! virtual token counters of arXiv 2401.00588: each key has a counter, the service it has received over its weight, and there
//! is a floor, the counter that the service as a whole has reached. A key that comes back from idle is lifted to the floor:
//! being quiet earns no credit. A key that goes idle ahead of the floor is remembered until the floor has caught up with it:
//! going quiet for a moment does not pay off a debt. When nothing at all waits there is nobody to be fair to, and all is
//! forgotten.

use crate::mutant::{self, Mutant};
use rustc_hash::FxHashMap;
use std::collections::{BTreeSet, VecDeque};
use std::hash::Hash;

/// What each key has been served, in units of service over its weight, for keys that do not wait. The counter of one that does
/// is in the hands of whoever keeps what it waits with, from [`Counters::enter`] to [`Counters::leave`]. See the module's
/// description.
///
/// Keys are hashed without a secret: they must not be of a client's making.
#[derive(Clone, Debug)]
pub(crate) struct Counters<K> {
    /// Those ahead of the floor.
    idle: FxHashMap<K, u64>,
    idle_order: BTreeSet<(u64, K)>,
    floor: u64,
    waiting: usize,
}

impl<K> Default for Counters<K> {
    fn default() -> Self {
        Self {
            idle: FxHashMap::default(),
            idle_order: BTreeSet::new(),
            floor: 0,
            waiting: 0,
        }
    }
}

impl<K: Ord + Hash + Clone> Counters<K> {
    /// Keys that are remembered though they do not wait: they went idle ahead of the floor.
    pub(crate) fn idle_len(&self) -> usize {
        self.idle.len()
    }

    /// This key waits from now on, with this counter.
    pub(crate) fn enter(&mut self, key: &K) -> u64 {
        if self.waiting == 0 {
            self.forget_everyone();
        }
        self.waiting += 1;
        let before = self.forget(key);
        match () {
            () if mutant::is(Mutant::Credits) => 0,
            () if mutant::is(Mutant::Snubs) => self.floor + (1 << 40),
            () => before.unwrap_or(self.floor),
        }
    }

    /// This key waits no longer; its counter.
    pub(crate) fn leave(&mut self, key: &K, counter: u64) {
        self.waiting -= 1;
        self.remember(key, counter);
    }

    /// Adds to what a key has been served that does not wait.
    pub(crate) fn charge(&mut self, key: &K, cost: u64) {
        let before = self.forget(key).unwrap_or(self.floor);
        self.remember(key, before.saturating_add(cost));
    }

    /// Takes back what was charged for nothing to a key that does not wait.
    pub(crate) fn refund(&mut self, key: &K, cost: u64) {
        let before = self.forget(key).unwrap_or(self.floor);
        self.remember(key, before.saturating_sub(cost));
    }

    /// Whoever has this counter has its turn: nobody who comes from now on starts behind it.
    pub(crate) fn turn(&mut self, counter: u64) {
        if counter <= self.floor {
            return;
        }
        self.floor = counter;
        while let Some((counter, _)) = self.idle_order.first()
            && *counter <= self.floor
            && let Some((_, key)) = self.idle_order.pop_first()
        {
            self.idle.remove(&key);
        }
    }

    fn remember(&mut self, key: &K, counter: u64) {
        if counter > self.floor {
            self.idle.insert(key.clone(), counter);
            self.idle_order.insert((counter, key.clone()));
        }
    }

    fn forget(&mut self, key: &K) -> Option<u64> {
        let counter = self.idle.remove(key)?;
        self.idle_order.remove(&(counter, key.clone()));
        Some(counter)
    }

    /// Starts over: called when no key waits.
    fn forget_everyone(&mut self) {
        self.floor = 0;
        self.idle.clear();
        self.idle_order.clear();
    }
}

/// Items of many keys (tenants), first in first out within a key; between keys whoever has been served least goes next. Two
/// keys that both have items all the time differ in service by at most the largest charge between two of their pops.
///
/// ```
/// let mut queue = shoal_inference::FairQueue::new();
/// queue.push("busy", 1);
/// queue.push("busy", 2);
/// queue.push("quiet", 3);
/// assert_eq!(queue.pop(), Some(("busy", 1)));
/// queue.charge(&"busy", 10);
/// assert_eq!(queue.pop(), Some(("quiet", 3)));
/// assert_eq!(queue.pop(), Some(("busy", 2)));
/// ```
#[derive(Clone, Debug)]
pub struct FairQueue<K, T> {
    counters: Counters<K>,
    /// Keys with items, least served first.
    order: BTreeSet<(u64, K)>,
    flows: FxHashMap<K, Flow<T>>,
    len: usize,
}

/// One key with items.
#[derive(Clone, Debug)]
struct Flow<T> {
    counter: u64,
    items: VecDeque<T>,
}

impl<K, T> Default for FairQueue<K, T> {
    fn default() -> Self {
        Self {
            counters: Counters::default(),
            order: BTreeSet::new(),
            flows: FxHashMap::default(),
            len: 0,
        }
    }
}

impl<K: Ord + Hash + Clone, T> FairQueue<K, T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Items of all keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no key has an item.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keys this queue remembers: those with items, and those that went idle ahead of the floor.
    pub fn keys_len(&self) -> usize {
        self.flows.len() + self.counters.idle_len()
    }

    /// Adds an item behind the others of its key.
    pub fn push(&mut self, key: K, item: T) {
        self.len += 1;
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.items.push_back(item);
            return;
        }
        let counter = self.counters.enter(&key);
        let items = VecDeque::from([item]);
        self.order.insert((counter, key.clone()));
        self.flows.insert(key, Flow { counter, items });
    }

    /// Takes the first item of the key that has been served least; the smaller key where two are equal.
    pub fn pop(&mut self) -> Option<(K, T)> {
        let (counter, key) = self.order.first()?.clone();
        self.counters.turn(counter);
        let flow = self.flows.get_mut(&key)?;
        let item = flow.items.pop_front()?;
        self.len -= 1;
        if flow.items.is_empty() {
            self.flows.remove(&key);
            self.order.pop_first();
            self.counters.leave(&key, counter);
        }
        Some((key, item))
    }

    /// Adds `cost` to what this key has been served, whether it has items or not. For a key of weight `w`, charge `cost / w`.
    pub fn charge(&mut self, key: &K, cost: u64) {
        let Some(flow) = self.flows.get_mut(key) else {
            self.counters.charge(key, cost);
            return;
        };
        self.order.remove(&(flow.counter, key.clone()));
        // Saturation (after years of nanoseconds without a pause) costs fairness between the saturated, no more.
        flow.counter = flow.counter.saturating_add(cost);
        self.order.insert((flow.counter, key.clone()));
    }
}
