//! The engine's side of its workers: one task each, a bounded channel to each, one back from all.

use crate::device::Device;
use crate::plan::DEPTH;
use crate::worker::{Report, Work, Worker};
use std::collections::HashMap;
use tokio::sync::mpsc;
use tokio::task::{self, AbortHandle, JoinSet};

/// All workers, by the index of their device.
pub(super) struct Workers {
    tasks: JoinSet<()>,
    /// Those that have not left.
    devices: HashMap<task::Id, usize>,
    names: Vec<String>,
    depths: Vec<usize>,
    aborts: Vec<AbortHandle>,
    work: Vec<mpsc::Sender<Work>>,
    reports: mpsc::Receiver<(usize, Report)>,
    /// Keeps `reports` open when no worker is left.
    _reports: mpsc::Sender<(usize, Report)>,
}

/// What a device has at once: its runs, one of which may be asked back, and a model that comes or goes.
const WORK_MAX: usize = DEPTH + 2;

/// What can happen at a worker.
pub(super) enum Event {
    Report(Report),
    /// Its task has ended: the device is gone, or the worker panicked.
    Left,
}

impl Workers {
    pub(super) fn spawn<D: Device>(devices: Vec<D>) -> Self {
        let (reports_tx, reports) = mpsc::channel(devices.len() * WORK_MAX);
        let mut workers = Self {
            tasks: JoinSet::new(),
            devices: HashMap::new(),
            names: Vec::new(),
            depths: Vec::new(),
            aborts: Vec::new(),
            work: Vec::new(),
            reports,
            _reports: reports_tx.clone(),
        };
        for (index, device) in devices.into_iter().enumerate() {
            let (work_tx, work) = mpsc::channel(WORK_MAX);
            let described = device.describe();
            workers.names.push(described.name);
            workers.depths.push(described.depth.clamp(1, DEPTH));
            workers.work.push(work_tx);
            let worker = Worker {
                index,
                device,
                work,
                reports: reports_tx.clone(),
            };
            let task = workers.tasks.spawn(worker.run());
            workers.devices.insert(task.id(), index);
            workers.aborts.push(task);
        }
        workers
    }

    pub(super) fn len(&self) -> usize {
        self.work.len()
    }

    /// Runs that each device holds at once.
    pub(super) fn depths(&self) -> &[usize] {
        &self.depths
    }

    /// The devices whose worker has not left.
    pub(super) fn live(&self) -> impl Iterator<Item = usize> {
        self.devices.values().copied()
    }

    pub(super) fn name(&self, device: usize) -> &str {
        &self.names[device]
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

    /// Hands work over. A worker that has just left is heard of by [`Workers::next`], and its work with it; so is one that takes
    /// nothing any more, because its device keeps it busy with answers to nothing.
    pub(super) fn submit(&self, device: usize, work: Work) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.work[device].try_send(work) {
            tracing::error!(
                device = self.name(device),
                "the device does not take its work"
            );
            self.aborts[device].abort();
        }
    }

    /// Ends every worker and with it its device, and waits for that.
    pub(super) async fn close(mut self) {
        self.tasks.shutdown().await;
    }
}
