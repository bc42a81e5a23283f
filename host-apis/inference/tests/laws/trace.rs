//! What was seen of one play, in the order in which it happened.

use shoal_inference::{Class, Explanation};
use std::time::Duration;

/// See the module's description. Times are since the beginning.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Trace {
    /// By their number, which their rows carry.
    pub(crate) asked: Vec<Asked>,
    /// In the order in which they were handed over.
    pub(crate) runs: Vec<Run>,
    /// When each device that died did.
    pub(crate) deaths: Vec<(usize, Duration)>,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    /// From 0.
    pub(crate) tenant: usize,
    pub(crate) class: Class,
    pub(crate) rows: u32,
    pub(crate) length: u32,
    pub(crate) at: Duration,
    pub(crate) deadline: Duration,
    pub(crate) ended: Option<(Duration, End)>,
}

/// What its caller got.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// Whether all rows were its own, and what it cost.
    Answered(bool, Explanation),
    /// One of its tenant's queues was full.
    Full,
    /// Its deadline passed, or would have.
    Late,
    /// The device failed.
    Failed,
    /// It left.
    Left,
    /// Nothing came, long after the deadline.
    Lost,
}

/// A batch on a device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) device: usize,
    pub(crate) ticket: u64,
    pub(crate) handed: Duration,
    /// The numbers of its requests, and the rows of each.
    pub(crate) requests: Vec<(usize, u32)>,
    pub(crate) ended: Option<(Duration, Ran)>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ran {
    Well(u64),
    Failed,
    Cancelled,
}

impl Trace {
    /// Where two plays part.
    pub(crate) fn first_difference(&self, other: &Self) -> Option<String> {
        let runs = self.runs.iter().zip(&other.runs).find(|(a, b)| a != b);
        let asked = self.asked.iter().zip(&other.asked).find(|(a, b)| a != b);
        match (runs, asked) {
            (Some((a, b)), _) => Some(format!("{a:?}, then {b:?}")),
            (None, Some((a, b))) => Some(format!("{a:?}, then {b:?}")),
            (None, None) if self != other => Some("one play is longer".to_owned()),
            (None, None) => None,
        }
    }

    /// When a request first went to a device.
    pub(crate) fn handed(&self, request: usize) -> Option<Duration> {
        let of_it = |run: &&Run| run.requests.iter().any(|(number, _)| *number == request);
        self.runs.iter().find(of_it).map(|run| run.handed)
    }
}

impl Asked {
    /// When it stopped to wait, at the latest.
    pub(crate) fn until(&self) -> Duration {
        self.ended.as_ref().map_or(Duration::MAX, |(at, _)| *at)
    }

    /// Whether it was taken in at all.
    pub(crate) fn was_queued(&self) -> bool {
        !matches!(self.ended, Some((_, End::Full)))
    }
}

impl Run {
    pub(crate) fn rows(&self) -> u32 {
        self.requests.iter().map(|(_, rows)| rows).sum()
    }
}
