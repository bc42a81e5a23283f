//! A fair queue: items of many keys (tenants), first in first out within a key, and between keys whoever has been served
//! least goes next. Pure: no clock, no I/O. Used for device batches here and for guests' CPU in the runtime, so it knows
//! neither; what a unit of service is, its user decides with [`FairQueue::charge`].
//!
//! Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing", SIGCOMM 1996), charged after the fact like the
//! virtual token counters of arXiv 2401.00588: each key has a virtual time, the service it has received, and the queue has
//! a floor, the virtual time it has reached as a whole. A key that comes back from idle is lifted to the floor: being quiet
//! earns no credit. A key that goes idle ahead of the floor is remembered until the floor has caught up with it: going
//! quiet for a moment does not pay off a debt. When nothing at all waits there is nobody to be fair to, and all is forgotten.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

/// See the module's description. Two keys that both have items all the time differ in service by at most the largest
/// charge between two of their pops.
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
    flows: HashMap<K, Flow<T>>,
    /// Keys with items, least served first.
    waiting: BTreeSet<(u64, K)>,
    /// Keys without items that are still ahead of the floor.
    idle: BTreeSet<(u64, K)>,
    floor: u64,
    len: usize,
}

/// One key. Either it has items and is in `waiting`, or it has none and is in `idle`.
#[derive(Clone, Debug)]
struct Flow<T> {
    virtual_time: u64,
    items: VecDeque<T>,
}

impl<K, T> Default for FairQueue<K, T> {
    fn default() -> Self {
        Self {
            flows: HashMap::new(),
            waiting: BTreeSet::new(),
            idle: BTreeSet::new(),
            floor: 0,
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

    /// Items of one key.
    pub fn len_of(&self, key: &K) -> usize {
        self.flows.get(key).map_or(0, |flow| flow.items.len())
    }

    /// Keys this queue remembers: those with items, and those that went idle ahead of the floor.
    pub fn keys_len(&self) -> usize {
        self.flows.len()
    }

    /// Adds an item behind the others of its key.
    pub fn push(&mut self, key: K, item: T) {
        if self.is_empty() {
            self.forget_everyone();
        }
        let floor = self.floor;
        let flow = self.flows.entry(key.clone()).or_insert_with(|| Flow {
            virtual_time: floor,
            items: VecDeque::new(),
        });
        if flow.items.is_empty() {
            self.idle.remove(&(flow.virtual_time, key.clone()));
            flow.virtual_time = flow.virtual_time.max(floor);
            self.waiting.insert((flow.virtual_time, key));
        }
        flow.items.push_back(item);
        self.len += 1;
    }

    /// Takes the first item of the key that has been served least; the smaller key where two are equal.
    pub fn pop(&mut self) -> Option<(K, T)> {
        let (_, key) = self.waiting.first()?.clone();
        let item = self.pop_of(&key)?;
        Some((key, item))
    }

    /// Takes the first item of this key, out of turn.
    pub fn pop_of(&mut self, key: &K) -> Option<T> {
        let flow = self.flows.get_mut(key)?;
        let item = flow.items.pop_front()?;
        self.len -= 1;
        // The floor follows the least served key that waits, so that a pop out of turn does not move it.
        let (least, _) = self
            .waiting
            .first()
            .expect("a key with an item is among the waiting");
        self.floor = self.floor.max(*least);
        if flow.items.is_empty() {
            let place = (flow.virtual_time, key.clone());
            self.waiting.remove(&place);
            self.idle.insert(place);
        }
        self.forget_settled();
        Some(item)
    }

    /// Adds `cost` to what this key has been served, whether it has items or not. For a key of weight `w`, charge `cost / w`.
    pub fn charge(&mut self, key: &K, cost: u64) {
        if cost == 0 {
            return;
        }
        let floor = self.floor;
        let flow = self.flows.entry(key.clone()).or_insert_with(|| Flow {
            virtual_time: floor,
            items: VecDeque::new(),
        });
        let place = if flow.items.is_empty() {
            &mut self.idle
        } else {
            &mut self.waiting
        };
        place.remove(&(flow.virtual_time, key.clone()));
        // Saturation (after 584 years of nanoseconds) costs fairness between the saturated, nothing else.
        flow.virtual_time = flow.virtual_time.saturating_add(cost);
        place.insert((flow.virtual_time, key.clone()));
    }

    /// The item that [`FairQueue::pop`] would take.
    pub fn peek(&self) -> Option<(&K, &T)> {
        self.heads().next()
    }

    /// The first item of each key, least served key first.
    pub fn heads(&self) -> impl Iterator<Item = (&K, &T)> {
        self.waiting.iter().filter_map(|(_, key)| {
            let (key, flow) = self.flows.get_key_value(key)?;
            Some((key, flow.items.front()?))
        })
    }

    /// Takes every item of this key that `matches`, in order, and leaves the others where they are. Nobody is charged.
    pub fn extract(&mut self, key: &K, mut matches: impl FnMut(&T) -> bool) -> Vec<T> {
        let Some(flow) = self.flows.get_mut(key) else {
            return Vec::new();
        };
        if flow.items.is_empty() {
            return Vec::new();
        }
        let (taken, kept): (Vec<T>, Vec<T>) = flow.items.drain(..).partition(|item| matches(item));
        self.len -= taken.len();
        flow.items = kept.into();
        if flow.items.is_empty() {
            let place = (flow.virtual_time, key.clone());
            self.waiting.remove(&place);
            self.idle.insert(place);
            self.forget_settled();
        }
        taken
    }

    /// Forgets idle keys that the floor has caught up with: coming back they would start at the floor anyway.
    fn forget_settled(&mut self) {
        while let Some((virtual_time, _)) = self.idle.first()
            && *virtual_time <= self.floor
            && let Some((_, key)) = self.idle.pop_first()
        {
            self.flows.remove(&key);
        }
    }

    /// Starts over where the furthest key is: called when no key has an item.
    fn forget_everyone(&mut self) {
        if let Some((furthest, _)) = self.idle.last() {
            self.floor = self.floor.max(*furthest);
        }
        self.idle.clear();
        self.flows.clear();
    }
}
