//! The engine's side of its workers: one task each, a bounded channel to each, one back from all.

use crate::device::Device;
use crate::error::LoadError;
use crate::plan::DEPTH;
use crate::request::{ModelSource, ModelSpec};
use crate::worker::{Job, Report, Worker};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{self, JoinSet};

/// All workers, by the index of their device.
pub(super) struct Workers {
    tasks: JoinSet<()>,
    devices: HashMap<task::Id, usize>,
    names: Vec<String>,
    jobs: Vec<mpsc::Sender<Job>>,
    reports: mpsc::Receiver<(usize, Report)>,
    /// Keeps `reports` open when no worker is left.
    _reports: mpsc::Sender<(usize, Report)>,
}

/// What can happen at a worker.
pub(super) enum Event {
    Report(Report),
    /// Its task has ended: the device is gone, or the worker panicked.
    Left,
}

impl Workers {
    pub(super) fn spawn<D: Device>(devices: Vec<D>, models: Arc<[ModelSource]>) -> Self {
        let (reports_tx, reports) = mpsc::channel(devices.len() * (DEPTH + 1));
        let mut workers = Self {
            tasks: JoinSet::new(),
            devices: HashMap::new(),
            names: Vec::new(),
            jobs: Vec::new(),
            reports,
            _reports: reports_tx.clone(),
        };
        for (index, device) in devices.into_iter().enumerate() {
            let (jobs_tx, jobs) = mpsc::channel(DEPTH);
            workers.names.push(device.describe().name);
            workers.jobs.push(jobs_tx);
            let worker = Worker {
                index,
                device,
                jobs,
                reports: reports_tx.clone(),
            };
            let task = workers.tasks.spawn(worker.run(Arc::clone(&models)));
            workers.devices.insert(task.id(), index);
        }
        workers
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn name(&self, device: usize) -> &str {
        &self.names[device]
    }

    /// Waits until every device has loaded every model, and compares what they found in them.
    pub(super) async fn load(&mut self, models: &[String]) -> Result<Vec<ModelSpec>, LoadError> {
        let mut found: Option<Vec<ModelSpec>> = None;
        for _ in 0..self.len() {
            let (device, event) = self.next().await;
            let device_name = || self.names[device].clone();
            let specs = match event {
                Event::Report(Report::Loaded(Ok(specs))) => specs,
                Event::Report(Report::Loaded(Err((model, reason)))) => {
                    return Err(LoadError::Model {
                        model: models[model.0 as usize].clone(),
                        device: device_name(),
                        reason,
                    });
                }
                Event::Report(Report::Ran { .. }) | Event::Left => {
                    return Err(LoadError::DeviceGone {
                        device: device_name(),
                    });
                }
            };
            let first = found.get_or_insert_with(|| specs.clone());
            if let Some(at) = (0..models.len()).find(|at| first[*at] != specs[*at]) {
                return Err(LoadError::Disagreement {
                    model: models[at].clone(),
                });
            }
        }
        Ok(found.unwrap_or_default())
    }

    /// The next event of any worker. Reports come first, so that a worker that has left has been heard out. Cancel safe.
    pub(super) async fn next(&mut self) -> (usize, Event) {
        loop {
            tokio::select! {
                biased;
                Some((device, report)) = self.reports.recv() => return (device, Event::Report(report)),
                Some(ended) = self.tasks.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(panicked) => panicked.id(),
                    };
                    if let Some(device) = self.devices.remove(&id) {
                        return (device, Event::Left);
                    }
                }
            }
        }
    }

    /// A report that is there already.
    pub(super) fn try_next(&mut self) -> Option<(usize, Event)> {
        let (device, report) = self.reports.try_recv().ok()?;
        Some((device, Event::Report(report)))
    }

    /// Hands a batch over. A worker that has just left is heard of by [`Workers::next`], and its batch with it.
    pub(super) fn submit(&self, device: usize, job: Job) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.jobs[device].try_send(job) {
            unreachable!("a device is given at most {DEPTH} runs");
        }
    }

    /// Ends every worker and with it its device, and waits for that.
    pub(super) async fn close(mut self) {
        self.tasks.shutdown().await;
    }
}
