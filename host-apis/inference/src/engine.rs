//! The engine: one task that owns all state. Takes submissions in, asks the scheduler what each device should run, hands the
//! batch to the device's worker, and answers the callers. Decides nothing about order (`scheduler`) and touches no tensor's
//! bytes (`worker`).
//!
//! Engine and workers are tasks of one single-threaded runtime on a thread of its own: what they do for a request takes
//! microseconds, less than handing it to another thread would. Whatever takes longer, a device does on its own thread.

mod running;
mod workers;

use crate::device::{AnyDevice, Device};
use crate::error::{Error, LoadError};
use crate::handle::{Loading, Shared};
use crate::models::{Catalogue, Inputs};
use crate::request::{ModelId, ModelSource, Reply, TenantId};
use running::Running;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::Instant;
use workers::Workers;

/// A checked request on its way to the engine.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) tenant: TenantId,
    pub(crate) model: ModelId,
    pub(crate) inputs: Inputs,
    pub(crate) queued_at: Instant,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Result<Reply, Error>>,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// The engine before it runs. See [`Engine::run`].
#[derive(Debug)]
pub struct Engine<D = AnyDevice> {
    shared: Arc<Shared>,
    devices: Vec<D>,
    models: Vec<ModelSource>,
    submissions: mpsc::Receiver<Submission>,
    loaded: watch::Sender<Loading>,
}

impl<D: Device> Engine<D> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        devices: Vec<D>,
        models: Vec<ModelSource>,
        submissions: mpsc::Receiver<Submission>,
        loaded: watch::Sender<Loading>,
    ) -> Self {
        Self {
            shared,
            devices,
            models,
            submissions,
            loaded,
        }
    }

    /// Loads every model on every device, then serves until the last handle is gone, or the last device. A handle that is
    /// gone waits for nothing, so what is still on a device then is let go.
    pub async fn run(self) {
        let Self {
            shared,
            devices,
            models,
            mut submissions,
            loaded,
        } = self;
        let _down = MarkDown(&shared);
        let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
        let mut workers = Workers::spawn(devices, models.into());
        let load = tokio::select! {
            specs = workers.load(&names) => specs,
            // Nothing can be submitted before the catalogue is there: this is the last handle's end.
            _ = submissions.recv() => Err(LoadError::Stopped),
        };
        match load {
            Ok(specs) => {
                let catalogue = Catalogue::new(names, specs, shared.config.rows_max);
                let catalogue = shared.catalogue.get_or_init(|| catalogue);
                shared.live.store(true, Ordering::Release);
                let running = Running::new(&shared, catalogue, workers.len());
                loaded.send_replace(Some(Ok(())));
                running.serve(&mut workers, &mut submissions).await;
            }
            Err(error) => {
                tracing::error!(%error, "the engine does not serve");
                loaded.send_replace(Some(Err(error)));
            }
        }
        workers.close().await;
    }
}

/// Whatever ends the engine, a panic too, ends its being live.
struct MarkDown<'a>(&'a Shared);

impl Drop for MarkDown<'_> {
    fn drop(&mut self) {
        self.0.live.store(false, Ordering::Release);
    }
}

/// Runs the engine on a thread of its own, named `inference`. The thread ends with the engine.
///
/// # Errors
/// The operating system gives no thread or no timer.
pub fn start_thread<D: Device>(engine: Engine<D>) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    std::thread::Builder::new()
        .name("inference".to_owned())
        .spawn(move || runtime.block_on(engine.run()))
}
