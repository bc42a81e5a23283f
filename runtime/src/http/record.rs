//! What is known of one invocation, gathered where it happens and written once, when both its answer and its guest are over:
//! one log line and the counters. Never payloads.

use super::body::BodyVerdict;
use crate::metrics::Metrics;
use crate::sandbox::messages::Failure;
use crate::sandbox::{Cpu, Function, Seat};
use http::HeaderValue;
use shoal_inference::Explanation;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// Times and counts of the model calls of one invocation.
#[derive(Debug, Default)]
pub(crate) struct Inferred {
    queue_ns: AtomicU64,
    device_ns: AtomicU64,
    device_share_ns: AtomicU64,
    rows: AtomicU32,
    batch_rows_max: AtomicU32,
}

impl Inferred {
    /// Adds one inference.
    pub(crate) fn add(&self, of: &Explanation) {
        self.queue_ns.fetch_add(nanos(of.queue), Relaxed);
        self.device_ns.fetch_add(nanos(of.device), Relaxed);
        self.device_share_ns.fetch_add(of.device_share_ns, Relaxed);
        self.rows.fetch_add(of.rows, Relaxed);
        self.batch_rows_max.fetch_max(of.batch_rows, Relaxed);
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

/// Shared by all that an invocation is made of; whoever is last writes it.
pub(crate) struct Record {
    request_id: HeaderValue,
    function: Arc<Function>,
    seat: Option<Seat>,
    began: Instant,
    metrics: Arc<Metrics>,
    pub(crate) inferred: Inferred,
    cpu: OnceLock<Cpu>,
    status: AtomicU16,
    complete: AtomicBool,
    /// The request's body broke off.
    client_failed: AtomicBool,
    /// The guest waited for the request's body to its end.
    client_kept_waiting: AtomicBool,
    failure: OnceLock<Failure>,
    verdict: AtomicU8,
    /// From the head of the request to the end of the answer.
    answered_ns: AtomicU64,
}

impl Record {
    pub(crate) fn new(
        request_id: HeaderValue,
        function: Arc<Function>,
        seat: Option<Seat>,
        began: Instant,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            request_id,
            function,
            seat,
            began,
            metrics,
            inferred: Inferred::default(),
            cpu: OnceLock::new(),
            status: AtomicU16::new(0),
            complete: AtomicBool::new(false),
            client_failed: AtomicBool::new(false),
            client_kept_waiting: AtomicBool::new(false),
            failure: OnceLock::new(),
            verdict: AtomicU8::new(0),
            answered_ns: AtomicU64::new(0),
        })
    }

    /// The guest's account, once there is a guest.
    pub(crate) fn set_cpu(&self, cpu: Cpu) {
        // There is one guest, and it is set once.
        let _ = self.cpu.set(cpu);
    }

    /// CPU time of the guest so far.
    pub(crate) fn cpu_used(&self) -> Duration {
        self.cpu.get().map_or(Duration::ZERO, Cpu::used)
    }

    /// One inference was answered.
    pub(crate) fn inferred(&self, explanation: &Explanation) {
        self.inferred.add(explanation);
        self.metrics.inferred(explanation);
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

    /// The head of the answer is about to leave.
    pub(crate) fn answering(&self, status: u16) {
        self.status.store(status, Relaxed);
    }

    /// The request's body broke off.
    pub(crate) fn client_failed(&self) {
        self.client_failed.store(true, Relaxed);
    }

    /// The guest has ended while it waited for the request's body.
    pub(crate) fn client_kept_waiting(&self) {
        self.client_kept_waiting.store(true, Relaxed);
    }

    /// The answer was handed over whole.
    pub(crate) fn complete(&self) {
        self.complete.store(true, Relaxed);
    }

    /// The guest failed.
    pub(crate) fn failed(&self, failure: Failure) {
        // What follows from a failure is not another.
        let _ = self.failure.set(failure);
    }

    /// The answer is over, however it ended.
    pub(crate) fn answered(&self) {
        self.answered_ns.store(nanos(self.began.elapsed()), Relaxed);
    }

    fn outcome(&self) -> &'static str {
        match self.failure.get() {
            None if self.complete.load(Relaxed) => "complete",
            None => "client_gone",
            Some(Failure::Trap) => "trap",
            Some(Failure::Deadline) => "deadline",
            Some(Failure::CpuLimit) => "cpu_limit",
            Some(Failure::NoResponse) => "no_response",
            Some(Failure::Errored) => "errored",
            Some(Failure::Exited) => "exited",
            Some(Failure::Exhausted) => "exhausted",
            Some(Failure::Unavailable) => "unavailable",
            Some(Failure::CompilesBusy) => "compiles_busy",
        }
    }

    /// Whether the version that was called failed; `None` where this call tells nothing of it.
    fn version_failed(&self) -> Option<bool> {
        if self.verdict().is_some() || self.client_failed.load(Relaxed) {
            // Its client did.
            return None;
        }
        match (self.failure.get(), self.status.load(Relaxed)) {
            // For want of room on the node, whichever version.
            (Some(Failure::Exhausted | Failure::CompilesBusy), _) => None,
            (Some(Failure::Deadline), _) if self.client_kept_waiting.load(Relaxed) => None,
            (Some(_), _) => Some(true),
            // Its client went away before it answered.
            (None, 0) => None,
            (None, status) => Some(status >= 500),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (answered, cpu) = (self.answered_ns.load(Relaxed), self.cpu_used());
        self.metrics.invocation(Duration::from_nanos(answered), cpu);
        if let (Some(seat), Some(failed)) = (&self.seat, self.version_failed()) {
            seat.count(failed);
        }
        tracing::info!(
            target: "shoal::invocation",
            request_id = self.request_id.to_str().unwrap_or_default(),
            project = &*self.function.project,
            function = &*self.function.name,
            version = self.function.number,
            status = self.status.load(Relaxed),
            outcome = self.outcome(),
            duration_us = answered / 1_000,
            guest_cpu_us = nanos(cpu) / 1_000,
            queue_us = self.inferred.queue_ns.load(Relaxed) / 1_000,
            device_share_ns = self.inferred.device_share_ns.load(Relaxed),
            rows = self.inferred.rows.load(Relaxed),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_sees_its_own_rows_and_a_bucket_of_the_batch() {
        let inferred = Inferred::default();
        for (own, batch) in [(1, 5), (2, 19)] {
            inferred.add(&Explanation {
                queue: Duration::from_micros(1_500),
                rows: own,
                batch_rows: batch,
                device: Duration::from_micros(250),
                device_share_ns: 10,
                ..Explanation::default()
            });
        }
        assert_eq!(
            inferred.server_timing(Some(Duration::from_micros(40))),
            "queue;dur=3.000, batch;desc=\"3 of 8-31\", device;dur=0.500, guest;dur=0.040"
        );
        assert_eq!(inferred.server_timing(None), "queue;dur=3.000");
    }

    #[test]
    fn without_inference_there_is_no_batch() {
        let timing = Inferred::default().server_timing(Some(Duration::ZERO));
        assert_eq!(timing, "queue;dur=0.000, guest;dur=0.000");
    }
}
