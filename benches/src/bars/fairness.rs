//! `fairness`: a tenant that asks for a tenth of what a device can do, beside one that asks for fifty times as much. The device
//! is simulated (2 ms and 20 µs a row, 32 rows, two runs), the clock is paused: the figures are exact, and the same everywhere.
//! Alone, beside the flood, and beside it in order of arrival, which is what a batcher does that knows no tenants.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::random::draw;
use crate::samples::Samples;
use crate::simulated::{echo, echo_source, simulated};
use anyhow::Context as _;
use shoal_inference::{Class, Config, Error, Inference, ModelId, Request, TenantId, Tensor, Terms};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

const LAUNCH: Duration = Duration::from_millis(2);
const PER_ROW: Duration = Duration::from_micros(20);
const ROWS_MAX: u32 = 32;
/// Of the device's rate with full batches.
const QUIET_SHARE: f64 = 0.1;
const FLOOD_TIMES: f64 = 50.0;
const TICK: Duration = Duration::from_millis(1);
const TIME: Duration = Duration::from_secs(20);
/// In which queues fill and costs are learnt: a full queue of the lighter tenant is 1.4 s long.
const WARM_UP: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);
const P99_TIMES_MAX: f64 = 1.5;
const WEIGHTS: [u32; 2] = [1, 3];
const SHARE_OFF_MAX: f64 = 5.0;
const THROUGHPUT_LOST_MAX: f64 = 3.0;

const QUIET: TenantId = TenantId(1);
const FLOOD: TenantId = TenantId(2);

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let time = if run.quick { TIME / 10 } else { TIME };
    let seed = run.seed;
    let played = tokio::task::spawn_blocking(move || play(time, seed));
    played.await.context("playing")?
}

/// All plays, each on a clock of its own.
fn play(time: Duration, seed: u64) -> anyhow::Result<Outcome> {
    let of = |tenants: &[Offer], order| paused(Play { time, seed, order }.run(tenants));
    let rate = f64::from(ROWS_MAX) / (LAUNCH + PER_ROW * ROWS_MAX).as_secs_f64();
    let quiet = Offer::of(QUIET, rate * QUIET_SHARE);
    let flood = Offer::of(FLOOD, rate * QUIET_SHARE * FLOOD_TIMES);
    let alone = of(&[quiet], Order::Fair)?;
    let beside = of(&[quiet, flood], Order::Fair)?;
    let arrival = of(&[quiet, flood], Order::Arrival)?;
    let heavy = |tenant, weight| Offer {
        weight,
        ..Offer::of(tenant, 2.0 * rate)
    };
    let [light, weighty] = WEIGHTS;
    let weighed = of(&[heavy(QUIET, light), heavy(FLOOD, weighty)], Order::Fair)?;
    let p99 = |answers: &Answers| Samples::millis(&answers.of(QUIET).took).percentile(99.0);
    eprintln!(
        "fairness: quiet p99 alone {:.2} ms, beside the flood {:.2} ms, in order of arrival {:.2} ms",
        p99(&alone),
        p99(&beside),
        p99(&arrival)
    );
    let (served, expected) = (
        weighed.of(FLOOD).device_ns as f64 / weighed.device_ns() as f64,
        f64::from(weighty) / f64::from(light + weighty),
    );
    let lost = 1.0 - beside.rows() as f64 / arrival.rows() as f64;
    eprintln!(
        "fairness: weights {WEIGHTS:?} get {:.1} % and {:.1} %; {} rows, in order of arrival {}",
        100.0 * (1.0 - served),
        100.0 * served,
        beside.rows(),
        arrival.rows()
    );
    let figure = |value, unit, target| Figure {
        value,
        unit,
        target,
    };
    Ok(Outcome::Measured {
        figures: vec![
            figure(
                p99(&beside) / p99(&alone),
                "times_p99_alone",
                Target::AtMost(P99_TIMES_MAX),
            ),
            figure(
                beside.of(QUIET).refused as f64,
                "quiet_requests_refused",
                Target::Exactly(0.0),
            ),
            figure(
                100.0 * (served - expected).abs(),
                "points_off_the_weights",
                Target::AtMost(SHARE_OFF_MAX),
            ),
            figure(
                100.0 * lost,
                "%_of_throughput_lost_to_fairness",
                Target::AtMost(THROUGHPUT_LOST_MAX),
            ),
        ],
        n: beside.rows(),
    })
}

/// On a runtime whose clock only moves when everybody waits.
fn paused<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(future)
}

/// A tenant and what it asks for.
#[derive(Clone, Copy)]
struct Offer {
    tenant: TenantId,
    /// Rows a second, one a request.
    rate: f64,
    weight: u32,
}

impl Offer {
    fn of(tenant: TenantId, rate: f64) -> Self {
        Self {
            tenant,
            rate,
            weight: 1,
        }
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Fair,
    /// All are one tenant to the engine.
    Arrival,
}

struct Play {
    time: Duration,
    seed: u64,
    order: Order,
}

/// What one tenant got after the warm-up.
#[derive(Default)]
struct Got {
    /// Of requests that were asked after it.
    took: Vec<Duration>,
    /// Answered after it.
    rows: u64,
    device_ns: u64,
    refused: u64,
}

struct Answers(Vec<(TenantId, Got)>);

impl Answers {
    fn of(&self, tenant: TenantId) -> &Got {
        let got = self.0.iter().find(|(other, _)| *other == tenant);
        &got.expect("it has asked").1
    }

    fn rows(&self) -> u64 {
        self.0.iter().map(|(_, got)| got.rows).sum()
    }

    fn device_ns(&self) -> u64 {
        self.0.iter().map(|(_, got)| got.device_ns).sum()
    }
}

impl Play {
    async fn run(self, offers: &[Offer]) -> anyhow::Result<Answers> {
        let config = Config {
            rows_max: ROWS_MAX,
            ..Config::default()
        };
        let (inference, engine) = Inference::new(config, vec![simulated(LAUNCH, PER_ROW, echo())])?;
        let mut engines = JoinSet::new();
        engines.spawn(engine.run());
        let model = inference.load(echo_source()).await?.id;
        let mut tenants = JoinSet::new();
        for offer in offers {
            if self.order == Order::Fair {
                let terms = Terms {
                    weight: offer.weight,
                    priority: false,
                    rows_max: 4_096,
                    bytes_max: 256 << 20,
                    requests_max: 4_096,
                };
                inference.set_terms(offer.tenant, Some(terms)).await?;
            }
            let asking = Asking {
                inference: inference.clone(),
                model,
                offer: *offer,
                as_tenant: match self.order {
                    Order::Fair => offer.tenant,
                    Order::Arrival => TenantId(0),
                },
            };
            let (time, seed) = (self.time, self.seed);
            tenants.spawn(async move { (asking.offer.tenant, asking.during(time, seed).await) });
        }
        let mut answers = Vec::new();
        while let Some(tenant) = tenants.join_next().await {
            let (tenant, got) = tenant?;
            answers.push((tenant, got?));
        }
        Ok(Answers(answers))
    }
}

/// One tenant in an open loop.
struct Asking {
    inference: Inference,
    model: ModelId,
    offer: Offer,
    as_tenant: TenantId,
}

impl Asking {
    async fn during(&self, time: Duration, seed: u64) -> anyhow::Result<Got> {
        let began = Instant::now();
        let (mut ticks, mut due, mut nth) = (interval(TICK), 0.0, 0_u64);
        let mut asked = JoinSet::new();
        let mut got = Got::default();
        while began.elapsed() < WARM_UP + time {
            ticks.tick().await;
            nth += 1;
            // Between none and twice the mean, so that tenants are not in step.
            let part = draw(seed ^ self.offer.tenant.0, nth) % 1_000;
            due += self.offer.rate * TICK.as_secs_f64() * part as f64 / 500.0;
            while due >= 1.0 {
                due -= 1.0;
                let request = self.request()?;
                let inference = self.inference.clone();
                asked.spawn(async move {
                    let at = Instant::now();
                    (at, inference.submit(request).await, Instant::now())
                });
            }
            while let Some(answered) = asked.try_join_next() {
                got.note(began, answered?)?;
            }
        }
        // What is still queued is not waited for: it was not answered in the time.
        asked.shutdown().await;
        Ok(got)
    }

    fn request(&self) -> anyhow::Result<Request> {
        Ok(Request {
            tenant: self.as_tenant,
            model: self.model,
            class: Class::Default,
            deadline: Instant::now() + PATIENCE,
            inputs: vec![("x".to_owned(), Tensor::f32(vec![1, 1], &[0.0])?)],
        })
    }
}

type Answered = (Instant, Result<shoal_inference::Reply, Error>, Instant);

impl Got {
    fn note(&mut self, began: Instant, (at, answer, now): Answered) -> anyhow::Result<()> {
        if now < began + WARM_UP {
            return Ok(());
        }
        match answer {
            Ok(reply) => {
                if at >= began + WARM_UP {
                    self.took.push(now - at);
                }
                self.rows += 1;
                self.device_ns += reply.explanation.device_share_ns;
            }
            Err(Error::QueueFull { .. }) => self.refused += 1,
            Err(other) => return Err(other.into()),
        }
        Ok(())
    }
}
