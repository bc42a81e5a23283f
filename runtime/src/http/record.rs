//! What is known of one invocation, gathered where it happens and written once, when it ends, however it ends: one log line
//! and the counters. Never payloads.

use super::body::BodyVerdict;
use crate::metrics::Metrics;
use crate::sandbox::messages::Failure;
use crate::sandbox::{Cpu, Function};
use http::HeaderValue;
use shoal_inference::Explanation;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// Times and counts of one invocation, added to by its host calls.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    queue_ns: AtomicU64,
    device_ns: AtomicU64,
    device_share_ns: AtomicU64,
    rows: AtomicU32,
    batch_rows_max: AtomicU32,
    verdict: AtomicU8,
}

impl Facts {
    /// Adds one inference.
    pub(crate) fn add(&self, of: &Explanation) {
        self.queue_ns.fetch_add(nanos(of.queue), Relaxed);
        self.device_ns.fetch_add(nanos(of.device), Relaxed);
        self.device_share_ns.fetch_add(of.device_share_ns, Relaxed);
        self.rows.fetch_add(of.rows, Relaxed);
        self.batch_rows_max.fetch_max(of.batch_rows, Relaxed);
    }

    /// Remembers why the request's body was cut off.
    pub(crate) fn set_verdict(&self, verdict: BodyVerdict) {
        let code = match verdict {
            BodyVerdict::TooLarge => 1,
            BodyVerdict::TooSlow => 2,
        };
        self.verdict.store(code, Relaxed);
    }

    /// Why the request's body was cut off, if it was.
    pub(crate) fn verdict(&self) -> Option<BodyVerdict> {
        match self.verdict.load(Relaxed) {
            1 => Some(BodyVerdict::TooLarge),
            2 => Some(BodyVerdict::TooSlow),
            _ => None,
        }
    }

    /// `Server-Timing` of an answer, in milliseconds. With the guest's CPU time only when the guest has ended; before, a
    /// stream's head knows no more than the time in the queue.
    ///
    /// The rows of others in the batch show as a bucket only.
    pub(crate) fn server_timing(&self, cpu: Option<Duration>) -> HeaderValue {
        let mut text = format!("queue;dur={:.3}", millis(self.queue_ns.load(Relaxed)));
        if let Some(cpu) = cpu {
            let rows = self.rows.load(Relaxed);
            if rows > 0 {
                let bucket = bucket(self.batch_rows_max.load(Relaxed));
                let device = millis(self.device_ns.load(Relaxed));
                // Writing to a string cannot fail.
                let _ = write!(
                    text,
                    ", batch;desc=\"{rows} of {bucket}\", device;dur={device:.3}"
                );
            }
            let _ = write!(text, ", guest;dur={:.3}", millis(nanos(cpu)));
        }
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("queue"))
    }
}

/// The sizes of a batch that a tenant may tell apart.
fn bucket(rows: u32) -> &'static str {
    match rows {
        0 | 1 => "1",
        2..=7 => "2-7",
        8..=31 => "8-31",
        _ => "32+",
    }
}

fn nanos(of: Duration) -> u64 {
    u64::try_from(of.as_nanos()).unwrap_or(u64::MAX)
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// How an invocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Its answer was read to the end.
    Complete,
    /// The guest failed.
    Failed(Failure),
    /// The client went away first.
    Gone,
}

/// Writes the log line and the counters of one invocation when it is dropped.
pub(crate) struct Record {
    pub(crate) request_id: HeaderValue,
    pub(crate) function: Arc<Function>,
    pub(crate) facts: Arc<Facts>,
    pub(crate) cpu: Cpu,
    pub(crate) began: Instant,
    pub(crate) metrics: Arc<Metrics>,
    status: u16,
    outcome: Outcome,
}

impl Record {
    pub(crate) fn new(
        request_id: HeaderValue,
        function: Arc<Function>,
        facts: Arc<Facts>,
        cpu: Cpu,
        (began, metrics): (Instant, Arc<Metrics>),
    ) -> Self {
        Self {
            request_id,
            function,
            facts,
            cpu,
            began,
            metrics,
            status: 0,
            outcome: Outcome::Gone,
        }
    }

    /// The head is about to leave.
    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// The body was handed over whole.
    pub(crate) fn ended(&mut self) {
        if self.outcome == Outcome::Gone {
            self.outcome = Outcome::Complete;
        }
    }

    /// The guest failed.
    pub(crate) fn failed(&mut self, failure: Failure) {
        self.outcome = Outcome::Failed(failure);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.began.elapsed();
        let cpu = self.cpu.used();
        self.metrics.invocation(duration, cpu);
        let outcome = match self.outcome {
            Outcome::Complete => "complete",
            Outcome::Gone => "client_gone",
            Outcome::Failed(Failure::Trap) => "trap",
            Outcome::Failed(Failure::Deadline) => "deadline",
            Outcome::Failed(Failure::CpuLimit) => "cpu_limit",
            Outcome::Failed(Failure::NoResponse) => "no_response",
            Outcome::Failed(Failure::Errored) => "errored",
            Outcome::Failed(Failure::Exhausted) => "exhausted",
        };
        tracing::info!(
            target: "shoal::invocation",
            request_id = self.request_id.to_str().unwrap_or_default(),
            project = &*self.function.project,
            function = &*self.function.name,
            status = self.status,
            outcome,
            duration_us = duration.as_micros() as u64,
            guest_cpu_us = cpu.as_micros() as u64,
            queue_us = self.facts.queue_ns.load(Relaxed) / 1_000,
            device_share_ns = self.facts.device_share_ns.load(Relaxed),
            rows = self.facts.rows.load(Relaxed),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_sees_its_own_rows_and_a_bucket_of_the_batch() {
        let facts = Facts::default();
        for (own, batch) in [(1, 5), (2, 19)] {
            facts.add(&Explanation {
                queue: Duration::from_micros(1_500),
                rows: own,
                batch_rows: batch,
                device: Duration::from_micros(250),
                device_share_ns: 10,
            });
        }
        assert_eq!(
            facts.server_timing(Some(Duration::from_micros(40))),
            "queue;dur=3.000, batch;desc=\"3 of 8-31\", device;dur=0.500, guest;dur=0.040"
        );
        assert_eq!(facts.server_timing(None), "queue;dur=3.000");
    }

    #[test]
    fn without_inference_there_is_no_batch() {
        let timing = Facts::default().server_timing(Some(Duration::ZERO));
        assert_eq!(timing, "queue;dur=0.000, guest;dur=0.000");
    }
}
