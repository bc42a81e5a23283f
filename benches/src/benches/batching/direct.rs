//! rten as a program would call it that has its batch already.

use super::rows::Rows;
use crate::machine::process_cpu;
use rten::{Model as Graph, ModelOptions, RunOptions, ThreadPool};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A model that was loaded as our engine loads it, for one thread.
pub(super) struct Model {
    graph: Graph,
    threads: Arc<ThreadPool>,
}

impl Model {
    pub(super) fn load(rows: &Rows) -> anyhow::Result<Self> {
        let mut options = ModelOptions::with_all_ops();
        let graph = options.prepack_weights(true).load(rows.onnx.to_vec())?;
        Ok(Self {
            graph,
            threads: Arc::new(ThreadPool::with_num_threads(1)),
        })
    }

    /// Runs batches of so many rows for so long; microseconds of CPU time for each row.
    pub(super) fn run(&self, rows: &Rows, batch: usize, time: Duration) -> anyhow::Result<f64> {
        let threads = self.threads.clone();
        // As our device does: from one of the pool's own threads, so that no run changes threads.
        threads.run(move || {
            let (began, before, mut done) = (Instant::now(), process_cpu(), 0);
            while began.elapsed() < time {
                let inputs = rows
                    .batch(done, batch)
                    .into_iter()
                    .map(|(name, value)| anyhow::Ok((self.graph.node_id(name)?, value.into())));
                let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
                let options = RunOptions::default().with_thread_pool(Some(self.threads.clone()));
                self.graph
                    .run(inputs, self.graph.output_ids(), Some(options))?;
                done += batch;
            }
            let cpu = process_cpu().saturating_sub(before);
            Ok(cpu.as_secs_f64() * 1e6 / done as f64)
        })
    }
}
