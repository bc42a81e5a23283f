//! Plays a scenario: an engine on simulated devices whose every message is noted, and its callers, on a clock of its own.

use super::scenario::{Ask, Scenario};
use super::trace::{Asked, End, Ran, Run, Trace};
use super::{Broken, Law};
use shoal_inference::plan::{Command, Event, RunError};
use shoal_inference::{
    Compute, Config, DType, Device, DeviceGone, DeviceInfo, Error, Inference, ModelId, ModelSource,
    ModelSpec, Payload, Port, Reply, Request, SimConfig, SimDevice, TenantId, Tensor, Terms,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// How long after its deadline a request is given up for lost.
const LOST: Duration = Duration::from_secs(10);

type Log = Arc<Mutex<Trace>>;

fn lock(log: &Log) -> MutexGuard<'_, Trace> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that happened, from the first request to the last answer.
pub(super) fn play(scenario: &Scenario) -> Result<Trace, Broken> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| Broken::new(Law::Leak, error))?;
    let log = Log::default();
    runtime.block_on(run(scenario, &log))?;
    let alive = runtime.metrics().num_alive_tasks();
    if alive > 0 {
        return Err(Broken::new(Law::Leak, format!("{alive} tasks are left")));
    }
    drop(runtime);
    let trace = std::mem::take(&mut *lock(&log));
    Ok(trace)
}

async fn run(scenario: &Scenario, log: &Log) -> Result<(), Broken> {
    let began = Instant::now();
    let devices = (0..scenario.faults.len()).map(|at| Noted {
        at,
        began,
        log: log.clone(),
        device: device(scenario, at),
    });
    let config = Config {
        rows_max: scenario.rows_max,
        wait_max: scenario.wait_max,
        tenant_rows_max: scenario.tenant_rows_max,
        ..Config::default()
    };
    let wrong = |error: &dyn std::fmt::Display| Broken::new(Law::Answered, error);
    let (inference, engine) =
        Inference::new(config, devices.collect()).map_err(|error| wrong(&error))?;
    let mut running = JoinSet::new();
    running.spawn(engine.run());
    let model = inference.load(source(scenario)).await;
    let model = model.map_err(|error| wrong(&error))?.id;
    let mut callers = JoinSet::new();
    for (tenant, plan) in scenario.tenants.iter().enumerate() {
        let terms = Terms {
            weight: plan.weight,
            priority: true,
            rows_max: scenario.tenant_rows_max.into(),
            bytes_max: 1 << 30,
            requests_max: 1 << 20,
        };
        let id = TenantId(tenant as u64 + 1);
        let set = inference.set_terms(id, Some(terms)).await;
        set.map_err(|error| wrong(&error))?;
        for ask in &plan.asks {
            let caller = Caller {
                inference: inference.clone(),
                log: log.clone(),
                began,
                model,
                tenant,
                ask: *ask,
                plan: plan.clone(),
            };
            callers.spawn(caller.call());
        }
    }
    while let Some(called) = callers.join_next().await {
        called.map_err(|error| wrong(&error))?;
    }
    // What was left by its callers ends on the device.
    sleep_until(Instant::now() + LOST).await;
    let queued = inference.stats().queued_rows;
    if queued > 0 {
        return Err(Broken::new(Law::Leak, format!("{queued} rows are queued")));
    }
    drop(inference);
    while let Some(ended) = running.join_next().await {
        ended.map_err(|error| Broken::new(Law::Answered, format!("the engine ended: {error}")))?;
    }
    Ok(())
}

/// Rows of f32, given back as they are; what they cost is known from admission.
fn source(scenario: &Scenario) -> ModelSource {
    let dry_run = |rows: u32| {
        let cost = scenario.launch + scenario.per_row * rows;
        (
            u64::from(rows),
            u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX),
        )
    };
    ModelSource {
        name: "echo".to_owned(),
        onnx: Arc::from([]),
        tokenizer: None,
        dry_runs: [1, 4, 16].map(dry_run).into(),
    }
}

fn device(scenario: &Scenario, at: usize) -> SimDevice {
    let port = |name: &str| Port {
        name: name.to_owned(),
        dtype: DType::F32,
        dims: vec![None, None],
    };
    SimDevice::new(SimConfig {
        name: format!("sim-{at}"),
        launch: scenario.launch,
        per_row: scenario.per_row,
        depth: scenario.depth,
        memory_bytes: None,
        compute: Compute::Echo(ModelSpec {
            inputs: vec![port("x")],
            outputs: vec![port("y")],
            batchable: true,
        }),
        faults: scenario.faults[at].clone(),
    })
}

/// One caller of a tenant.
struct Caller {
    inference: Inference,
    log: Log,
    began: Instant,
    model: ModelId,
    tenant: usize,
    ask: Ask,
    plan: super::scenario::TenantPlan,
}

impl Caller {
    async fn call(self) {
        sleep_until(self.began + self.ask.at).await;
        for _ in 0..self.ask.times {
            self.once().await;
        }
    }

    async fn once(&self) {
        let (now, ask) = (Instant::now(), self.ask);
        let deadline = now + ask.lives;
        let number = {
            let mut log = lock(&self.log);
            log.asked.push(Asked {
                tenant: self.tenant,
                class: self.plan.served(),
                rows: ask.rows,
                length: ask.length,
                at: now - self.began,
                deadline: deadline - self.began,
                ended: None,
            });
            log.asked.len() - 1
        };
        let mut values = vec![number as f32; (ask.rows * ask.length) as usize];
        if ask.poison {
            values[0] = f32::NAN;
        }
        let tensor = Tensor::f32(vec![ask.rows, ask.length], &values);
        let request = Request {
            tenant: TenantId(self.tenant as u64 + 1),
            model: self.model,
            class: self.plan.class,
            deadline,
            inputs: vec![("x".to_owned(), tensor.expect("its data has its size"))],
        };
        let patience = ask.leaves.unwrap_or(ask.lives + LOST);
        let end = match timeout(patience, self.inference.submit(request)).await {
            Ok(answer) => end(answer, &values),
            Err(_) if ask.leaves.is_some() => End::Left,
            Err(_) => End::Lost,
        };
        let at = self.began.elapsed();
        lock(&self.log).asked[number].ended = Some((at, end));
    }
}

fn end(answer: Result<Reply, Error>, values: &[f32]) -> End {
    match answer {
        Ok(reply) => {
            let output = reply
                .outputs
                .first()
                .and_then(|(_, tensor)| tensor.to_f32());
            End::Answered(output.as_deref() == Some(values), reply.explanation)
        }
        Err(Error::QueueFull { .. }) => End::Full,
        Err(Error::DeadlineExceeded | Error::TooLate { .. }) => End::Late,
        Err(Error::Device) => End::Failed,
        Err(_) => End::Lost,
    }
}

/// A device whose messages are noted.
struct Noted {
    at: usize,
    began: Instant,
    log: Log,
    device: SimDevice,
}

impl Device for Noted {
    fn describe(&self) -> DeviceInfo {
        self.device.describe()
    }

    fn send(&mut self, command: Command, payload: Payload) -> Result<(), DeviceGone> {
        if let Command::Submit { ticket, plan, .. } = &command {
            let requests = plan.requests.iter().map(|inputs| {
                let bytes = inputs[0].bytes(&payload).unwrap_or_default();
                let (values, _) = bytes.as_chunks::<4>();
                // The first of a poisoned one is not a number; one row more is never all of it.
                let last = values.last().copied().map_or(0.0, f32::from_le_bytes);
                (last as usize, inputs[0].rows())
            });
            let run = Run {
                device: self.at,
                ticket: ticket.0,
                handed: self.began.elapsed(),
                requests: requests.collect(),
                ended: None,
            };
            lock(&self.log).runs.push(run);
        }
        self.device.send(command, payload)
    }

    async fn recv(&mut self) -> Option<(Event, Payload)> {
        let answer = self.device.recv().await;
        let now = self.began.elapsed();
        let mut log = lock(&self.log);
        match &answer {
            Some((Event::Outcome { ticket, result }, _)) => {
                let ran = match result {
                    Ok(done) => Ran::Well(done.device_ns),
                    Err(RunError::Cancelled) => Ran::Cancelled,
                    Err(RunError::Failed(_) | RunError::OutOfMemory) => Ran::Failed,
                };
                let run = log.runs.iter_mut().rev().find(|run| run.ticket == ticket.0);
                if let Some(run) = run {
                    run.ended = Some((now, ran));
                }
            }
            Some(_) => {}
            None => log.deaths.push((self.at, now)),
        }
        drop(log);
        answer
    }
}
