//! How commits reach those who keep a copy of the rows: a ring of the latest, and watches that read it at their own pace. A
//! watch costs the store nothing: one that falls behind what the ring keeps is told to begin anew.

use super::{Op, Revision, Row, RowKey};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The latest commits that a watch can begin before, at most.
pub const KEPT_LEN: usize = 4_096;
/// Names and values that are kept with them; the oldest commits go first. Rows of a registry have some hundred bytes: this is
/// for those that have many more.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which.
    pub revision: Revision,
    /// The rows that it named, each once, in the order of their keys.
    pub changes: Vec<Change>,
}

/// What a commit made of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it is.
    pub key: RowKey,
    /// As it was after the commit; `None`: not there.
    pub row: Option<Row>,
}

/// Some commits are no longer at hand: list, and watch from a revision read before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("commits were missed")]
pub struct Resync;

/// Every commit after a revision, in order.
#[derive(Debug)]
pub struct Watch {
    ring: Arc<Mutex<Ring>>,
    grown: watch::Receiver<()>,
    /// The last commit that was seen; `None` where some were missed.
    seen: Option<Revision>,
}

impl Watch {
    /// The next commit; waits for it. After [`Resync`] it answers nothing else. `None`: the store is closed or has stopped.
    /// Cancel safe: a dropped call loses no commit.
    pub async fn next(&mut self) -> Option<Result<Event, Resync>> {
        loop {
            // Before the ring is read: a commit that comes in between is found or waited for, never slept over.
            self.grown.mark_unchanged();
            let Some(seen) = self.seen else {
                return Some(Err(Resync));
            };
            let next = lock(&self.ring).after(seen);
            match next {
                Ok(Some(event)) => {
                    self.seen = Some(event.revision);
                    return Some(Ok(Event::clone(&event)));
                }
                Ok(None) => self.grown.changed().await.ok()?,
                Err(Resync) => self.seen = None,
            }
        }
    }
}

/// Where watches begin.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    ring: Arc<Mutex<Ring>>,
    grown: watch::Receiver<()>,
}

/// Where commits come in; dropped, every watch ends after what is kept.
#[derive(Debug)]
pub(super) struct Publisher {
    ring: Arc<Mutex<Ring>>,
    grown: watch::Sender<()>,
}

/// The feed of a store that is at `revision`.
pub(super) fn feed(revision: Revision) -> (Publisher, Feed) {
    let ring = Arc::new(Mutex::new(Ring::at(revision)));
    let (sender, grown) = watch::channel(());
    let publisher = Publisher {
        ring: ring.clone(),
        grown: sender,
    };
    (publisher, Feed { ring, grown })
}

impl Feed {
    /// Every commit after `from`.
    pub(super) fn watch(&self, from: Revision) -> Watch {
        // Decided now: when the future it speaks of has come, it is not known any more that this was another one.
        let is_known = from <= lock(&self.ring).last;
        Watch {
            ring: self.ring.clone(),
            grown: self.grown.clone(),
            seen: is_known.then_some(from),
        }
    }
}

impl Publisher {
    /// Hands over the next commit, which is durable.
    pub(super) fn publish(&mut self, event: Event) {
        lock(&self.ring).push(event);
        self.grown.send_replace(());
    }

    /// Forgets all that is kept.
    pub(super) fn forget(&mut self) {
        let mut ring = lock(&self.ring);
        *ring = Ring::at(ring.last);
    }
}

/// The latest commits, without a gap.
#[derive(Debug)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    last: Revision,
}

impl Ring {
    fn at(last: Revision) -> Self {
        Self {
            events: VecDeque::new(),
            bytes: 0,
            last,
        }
    }

    /// The commit after `seen`, which is not after the last.
    fn after(&self, seen: Revision) -> Result<Option<Arc<Event>>, Resync> {
        let missing = self.last.0 - seen.0;
        if missing == 0 {
            return Ok(None);
        }
        let back = usize::try_from(missing).map_err(|_| Resync)?;
        let index = self.events.len().checked_sub(back).ok_or(Resync)?;
        Ok(self.events.get(index).cloned())
    }

    fn push(&mut self, event: Event) {
        assert_eq!(event.revision.0, self.last.0 + 1, "commits are in order");
        self.last = event.revision;
        self.bytes += event.bytes();
        self.events.push_back(Arc::new(event));
        while self.events.len() > KEPT_LEN || self.bytes > KEPT_BYTES_MAX {
            let oldest = self.events.pop_front();
            self.bytes -= oldest.map_or(0, |event| event.bytes());
        }
    }
}

impl Event {
    /// What `ops` made of the rows they name, the last one of each row.
    pub(super) fn new(revision: Revision, ops: Vec<Op>) -> Self {
        let mut values = BTreeMap::new();
        for op in ops {
            match op {
                Op::Put(key, value) => values.insert(key, Some(value)),
                Op::Delete(key) => values.insert(key, None),
            };
        }
        let change = |(key, value): (RowKey, Option<Vec<u8>>)| Change {
            row: value.map(|value| Row {
                key: key.clone(),
                revision,
                value,
            }),
            key,
        };
        Self {
            revision,
            changes: values.into_iter().map(change).collect(),
        }
    }

    fn bytes(&self) -> usize {
        let value_len = |change: &Change| change.row.as_ref().map_or(0, |row| row.value.len());
        self.changes
            .iter()
            .map(|change| change.key.name.len() + value_len(change))
            .sum()
    }
}

/// Nothing panics while it holds this lock but for a bug; the data behind it is plain either way.
fn lock(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Kind, OPERATOR};

    fn key(name: &str) -> RowKey {
        RowKey {
            tenant: OPERATOR,
            kind: Kind::Model,
            name: name.to_owned(),
        }
    }

    /// A commit with a value of so many bytes, and a name of one.
    fn event(revision: u64, bytes: usize) -> Event {
        Event::new(
            Revision(revision),
            vec![Op::Put(key("m"), vec![0; bytes - 1])],
        )
    }

    #[test]
    fn an_event_has_each_row_once_as_the_last_operation_left_it() {
        let ops = vec![
            Op::Put(key("b"), vec![1]),
            Op::Delete(key("c")),
            Op::Put(key("b"), vec![2]),
            Op::Put(key("a"), vec![3]),
            Op::Delete(key("a")),
        ];
        let event = Event::new(Revision(7), ops);
        let absent = |name| Change {
            key: key(name),
            row: None,
        };
        let written = Change {
            key: key("b"),
            row: Some(Row {
                key: key("b"),
                revision: Revision(7),
                value: vec![2],
            }),
        };
        assert_eq!(event.changes, [absent("a"), written, absent("c")]);
    }

    #[test]
    fn the_ring_keeps_as_many_bytes_as_it_may_and_not_one_more() {
        let mut ring = Ring::at(Revision(0));
        let half = KEPT_BYTES_MAX / 2;
        ring.push(event(1, half));
        ring.push(event(2, half));
        assert_eq!(ring.after(Revision(0)).unwrap().unwrap().revision.0, 1);
        ring.push(event(3, 1));
        assert_eq!(ring.after(Revision(0)), Err(Resync));
        assert_eq!(ring.after(Revision(1)).unwrap().unwrap().revision.0, 2);
        assert_eq!(ring.bytes, half + 1);
    }
}
