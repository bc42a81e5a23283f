//! Callers of our engine, each with one row at a time, as its guests are.

use super::rows::Rows;
use crate::machine::{process_cpu, thread_cpu};
use shoal_inference::{
    AnyDevice, Class, Config, Error, Inference, ModelId, ModelSource, NamedTensor, Reply, Request,
    TenantId, start_thread,
};
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

const TENANTS: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(30);

/// An engine with one model. It ends when the last of these is dropped.
#[derive(Clone)]
pub(in crate::benches) struct Engine {
    inference: Inference,
    model: ModelId,
}

/// What came of calls.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Through {
    rows: u64,
    /// Sum over the rows of the rows of their batch.
    batch_rows: u64,
    wall: Duration,
    cpu: Duration,
    /// Of the thread that all callers are on.
    callers_cpu: Duration,
}

impl Engine {
    pub(in crate::benches) async fn start(
        device: AnyDevice,
        rows_max: u32,
        rows: &Rows,
    ) -> anyhow::Result<Self> {
        let config = Config {
            rows_max,
            ..Config::default()
        };
        let (inference, engine) = Inference::new(config, vec![device])?;
        start_thread(engine)?;
        let source = ModelSource {
            name: rows.model.to_owned(),
            onnx: rows.onnx.clone(),
            tokenizer: None,
            dry_runs: Vec::new(),
        };
        let model = inference.load(source).await?.id;
        Ok(Self { inference, model })
    }

    /// One row, for one of the tenants.
    pub(in crate::benches) async fn ask(
        &self,
        tenant: u64,
        inputs: Vec<NamedTensor>,
    ) -> Result<Reply, Error> {
        let request = Request {
            tenant: TenantId(tenant),
            model: self.model,
            class: Class::Default,
            deadline: Instant::now() + PATIENCE,
            inputs,
        };
        self.inference.submit(request).await
    }

    /// So many callers for so long, each of which asks again when it has its answer.
    pub(super) async fn call(
        &self,
        rows: &Rows,
        callers: usize,
        time: Duration,
    ) -> anyhow::Result<Through> {
        let requests: Arc<[Vec<NamedTensor>]> = (0..256)
            .map(|n| rows.request(n))
            .collect::<Result<_, _>>()?;
        let (began, mut calling) = (Instant::now(), JoinSet::new());
        let (cpu, callers_cpu) = (process_cpu(), thread_cpu());
        for caller in 0..callers {
            let engine = self.clone();
            let requests = requests.clone();
            calling.spawn(async move {
                let mut sum = Through::default();
                for inputs in requests.iter().cycle().skip(caller) {
                    let now = Instant::now();
                    if now - began >= time {
                        break;
                    }
                    let reply = engine.ask(caller as u64 % TENANTS, inputs.clone()).await?;
                    sum.rows += 1;
                    sum.batch_rows += u64::from(reply.explanation.batch_rows);
                }
                anyhow::Ok(sum)
            });
        }
        let mut all = Through::default();
        while let Some(called) = calling.join_next().await {
            all += called??;
        }
        all.wall = began.elapsed();
        all.cpu = process_cpu().saturating_sub(cpu);
        all.callers_cpu = thread_cpu().saturating_sub(callers_cpu);
        Ok(all)
    }
}

impl AddAssign for Through {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.batch_rows += other.batch_rows;
        self.wall += other.wall;
        self.cpu += other.cpu;
        self.callers_cpu += other.callers_cpu;
    }
}

impl Through {
    /// Of the batch of the mean row, rounded.
    pub(super) fn batch_rows(&self) -> usize {
        ((self.batch_rows + self.rows / 2) / self.rows.max(1)).max(1) as usize
    }

    pub(super) fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.wall.as_secs_f64()
    }

    /// Microseconds a row.
    pub(super) fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.rows as f64
    }

    /// Of it.
    pub(super) fn callers_cpu_us(&self) -> f64 {
        self.callers_cpu.as_secs_f64() * 1e6 / self.rows as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_that_of_the_mean_row() {
        let mut sum = Through::default();
        assert_eq!(sum.batch_rows(), 1);
        // One batch of three rows, one of one.
        for (rows, batch_rows) in [(3, 9), (1, 1)] {
            sum += Through {
                rows,
                batch_rows,
                wall: Duration::from_millis(500),
                cpu: Duration::from_micros(40),
                ..Through::default()
            };
        }
        assert_eq!((sum.batch_rows(), sum.rows_per_second()), (3, 4.0));
        assert_eq!(sum.cpu_us(), 20.0);
    }
}
