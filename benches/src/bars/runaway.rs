//! `runaway`: 16 kinds of guest that do not end by themselves, 50 of each, one at a time. All are ended, the node goes on
//! answering, and what a guest used beyond its `guest_cpu_max` is at most 10 ms (p99). Three kinds fill all the memory that they
//! may have, which is cleared after them, two of them with one instruction that nothing interrupts: theirs is 10 ms and 0.7 ms
//! for each MiB.
//!
//! What was used is the CPU time of all threads that guests run on, as the kernel counts it, from before the request until its
//! end: the guest, what it asked of the node, the connection, the clearing of its memory. The node's own account of its guests
//! has no part in it. Not counted is the thread that ticks a thousand times a second, whoever runs.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::exchange::{Exchange, Lost, Reply};
use crate::machine::{judge_timed, load_average};
use crate::node::{Home, Served};
use crate::samples::Samples;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const PROBE: &[u8] = include_bytes!("../../../samples/components/probe.wasm");
const HELLO: &[u8] = include_bytes!("../../../samples/components/hello.wasm");
const PROJECT: &str = "acme";

const CPU_MAX: Duration = Duration::from_millis(100);
/// Far above what a guest needs for its CPU time, so that only one that waits gets there.
const WALL_MAX: Duration = Duration::from_secs(1);
/// The nodes' own default.
const MEMORY_MIB: f64 = 128.0;
const PAST_MS_MAX: f64 = 10.0;
const BULK_PAST_MS_MAX: f64 = PAST_MS_MAX + 0.7 * MEMORY_MIB;
/// In which a node that has nothing to do comes to rest.
const REST: Duration = Duration::from_millis(20);

/// How a guest of a kind ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// At a limit of its time.
    Deadline,
    /// At one of its time, but its answer had begun: it is cut off.
    CutOff,
    /// At another limit, before.
    Fault,
}

/// A path of the sample `probe`.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    end: End,
    /// Whether it fills its memory.
    bulk: bool,
}

const KINDS: [Kind; 16] = [
    Kind::of("spin", End::Deadline),
    Kind::of("memory", End::Deadline).bulk(),
    Kind::of("fill", End::Deadline).bulk(),
    Kind::of("copy", End::Deadline).bulk(),
    Kind::of("calls", End::Deadline),
    Kind::of("indirect", End::Deadline),
    Kind::of("recurse", End::Fault),
    Kind::of("allocate", End::Deadline),
    Kind::of("grow", End::Deadline),
    Kind::of("clock", End::Deadline),
    Kind::of("random", End::Deadline),
    Kind::of("poll", End::Deadline),
    Kind::of("blink", End::Deadline),
    Kind::of("log", End::Deadline),
    Kind::of("answer", End::CutOff),
    Kind::of("park", End::Deadline),
];

impl Kind {
    const fn of(name: &'static str, end: End) -> Self {
        Self {
            name,
            end,
            bulk: false,
        }
    }

    const fn bulk(self) -> Self {
        Self { bulk: true, ..self }
    }
}

/// What was seen of all guests.
#[derive(Debug, Default)]
struct Seen {
    guests: u64,
    ended: u64,
    /// Answers of another tenant's function, one after each guest.
    answers: u64,
    /// CPU time beyond the limit.
    past: Vec<Duration>,
    bulk_past: Vec<Duration>,
}

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let load = load_average()?;
    let guests = if run.quick { 5 } else { 50 };
    let mut home = Home::with(&[
        ("SHOAL_GUEST_CPU_MAX", "100ms"),
        ("SHOAL_INVOCATION_TIMEOUT", "1s"),
        ("SHOAL_COMPILE_TIMEOUT", "120s"),
    ])?;
    let node = home.start().await?;
    let mut admin = node.admin().await?;
    admin.make_project(PROJECT).await?;
    admin.make_project("birch").await?;
    admin
        .deploy(PROJECT, "probe", Bytes::from_static(PROBE))
        .await?;
    admin
        .deploy("birch", "hello", Bytes::from_static(HELLO))
        .await?;
    let mut seen = Seen::default();
    for kind in KINDS {
        let mut past = Vec::new();
        for _ in 0..guests {
            past.push(seen.guest(&node, kind).await?);
        }
        let millis = Samples::millis(&past);
        let (median, most) = (millis.percentile(50.0), millis.max());
        eprintln!(
            "runaway: {:<9}past its CPU time: median {median:.1} ms, at most {most:.1} ms",
            kind.name
        );
        let all = if kind.bulk {
            &mut seen.bulk_past
        } else {
            &mut seen.past
        };
        all.extend(past);
    }
    node.stop().await?;
    Ok(seen.outcome(run, load))
}

impl Seen {
    /// Runs one guest to its end; the CPU time it used beyond its limit.
    async fn guest(&mut self, node: &Served, kind: Kind) -> anyhow::Result<Duration> {
        let mut exchange = Exchange::open(node.functions()).await?;
        let path = format!("/f/{PROJECT}/probe/runaway/{}", kind.name);
        let request = exchange.request(Method::GET, &path, None, Bytes::new())?;
        sleep(REST).await;
        let (before, began) = (node.cpu(runs_guests)?, Instant::now());
        let answer = exchange.send(request).await;
        let wall = began.elapsed();
        sleep(REST).await;
        let used = node.cpu(runs_guests)?.saturating_sub(before);
        self.guests += 1;
        if kind.end.is_that_of(&answer) && wall < 2 * WALL_MAX {
            self.ended += 1;
        } else {
            let answer = answer.map(|reply| reply.status);
            eprintln!("runaway: {} ended after {wall:.1?}: {answer:?}", kind.name);
        }
        let mut other = Exchange::open(node.functions()).await?;
        let hello = other.ask(Method::GET, "/f/birch/hello/", None, Bytes::new());
        self.answers += u64::from(hello.await?.status == StatusCode::OK);
        Ok(used.saturating_sub(CPU_MAX))
    }

    /// The time past the limit is the ticks' too: where they are late, guests are.
    fn outcome(&self, run: &Run, load: f64) -> Outcome {
        let p99 = |past: &[Duration]| Samples::millis(past).percentile(99.0);
        let figures = vec![
            Figure {
                value: self.ended as f64,
                unit: "guests_ended",
                target: Target::Exactly(self.guests as f64),
            },
            Figure {
                value: self.answers as f64,
                unit: "answers_of_another_tenant",
                target: Target::Exactly(self.guests as f64),
            },
            Figure {
                value: p99(&self.bulk_past),
                unit: "ms_cpu_past_p99_bulk",
                target: Target::AtMost(BULK_PAST_MS_MAX),
            },
        ];
        let past = Figure {
            value: p99(&self.past),
            unit: "ms_cpu_past_p99",
            target: Target::AtMost(PAST_MS_MAX),
        };
        judge_timed(run, figures, vec![past], self.guests, load)
    }
}

/// Whether a thread of this name does.
fn runs_guests(thread: &str) -> bool {
    ["socket-", "background-"]
        .iter()
        .any(|kind| thread.starts_with(kind))
}

impl End {
    fn is_that_of(self, answer: &Result<Reply, Lost>) -> bool {
        match (self, answer) {
            (Self::Deadline, Ok(reply)) => reply.status == StatusCode::GATEWAY_TIMEOUT,
            (Self::Fault, Ok(reply)) => reply.status == StatusCode::INTERNAL_SERVER_ERROR,
            (Self::CutOff, Err(Lost::Unanswered(_))) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn reply(status: u16) -> Result<Reply, Lost> {
        Ok(Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        })
    }

    #[test]
    fn a_guest_that_answers_was_not_ended() {
        for end in [End::Deadline, End::CutOff, End::Fault] {
            assert!(!end.is_that_of(&reply(200)), "{end:?}");
            assert!(!end.is_that_of(&reply(404)), "{end:?}");
            assert!(!end.is_that_of(&Err(Lost::Late)), "{end:?}");
        }
        assert!(End::Deadline.is_that_of(&reply(504)));
        assert!(End::Fault.is_that_of(&reply(500)));
    }

    #[test]
    fn every_kind_is_one_that_the_probe_has() {
        let source = include_str!("../../../samples/fixtures/probe/src/runaway.rs");
        for kind in KINDS {
            assert!(
                source.contains(&format!("\"{}\" =>", kind.name)),
                "{kind:?}"
            );
        }
        assert_eq!(source.matches("\" =>").count(), KINDS.len());
    }
}
