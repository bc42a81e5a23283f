//! The engine: one task that owns all state. Takes submissions in, asks the scheduler what each device should run, hands the
//! batch to the device's worker, and answers the callers; lets models come and go meanwhile. Decides nothing about order
//! (`scheduler`) and touches no tensor's bytes (`worker`).
//!
//! Engine and workers are tasks of one single-threaded runtime on a thread of its own: what they do for a request takes
//! microseconds, less than handing it to another thread would. Whatever takes longer, a device does on its own thread: while
//! a model is loaded, the engine goes on, and runs wait as long as the device itself lets them wait.

mod changes;
mod running;
mod workers;

use crate::device::{AnyDevice, Device};
use crate::error::{Error, LoadError, UnloadError};
use crate::handle::Shared;
use crate::models::{Inputs, Model};
use crate::request::{Class, ModelId, ModelSource, Reply, TenantId, Terms};
use running::Running;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use workers::Workers;

/// A checked request on its way to the engine.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) tenant: TenantId,
    pub(crate) model: ModelId,
    pub(crate) class: Class,
    pub(crate) inputs: Inputs,
    pub(crate) queued_at: Instant,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Result<Reply, Error>>,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// What reaches the engine at once.
#[derive(Debug)]
pub(crate) enum Submissions {
    One(Submission),
    /// The requests of one call.
    Many(Vec<Submission>),
}

/// A change of what the engine knows on its way to it.
#[derive(Debug)]
pub(crate) enum Order {
    Terms {
        tenant: TenantId,
        terms: Option<Terms>,
    },
    Load(LoadOrder),
    Unload {
        name: String,
        reply: oneshot::Sender<Result<(), UnloadError>>,
    },
}

/// A model to be loaded.
#[derive(Debug)]
pub(crate) struct LoadOrder {
    pub(crate) source: ModelSource,
    pub(crate) reply: oneshot::Sender<Result<Arc<Model>, LoadError>>,
    /// There is one: a file waits with its owner, not here.
    pub(crate) permit: OwnedSemaphorePermit,
}

impl LoadOrder {
    /// Who has left meanwhile needs no answer.
    fn answer(self, result: Result<Arc<Model>, LoadError>) {
        drop(self.permit);
        drop(self.reply.send(result));
    }
}

/// Orders that may wait for the engine to look up from what it does: microseconds.
pub(crate) const ORDERS_MAX: usize = 8;

/// What reaches the engine from its handles.
#[derive(Debug)]
pub(crate) struct Doors {
    pub(crate) submissions: mpsc::Receiver<Submissions>,
    pub(crate) orders: mpsc::Receiver<Order>,
}

/// The engine before it runs. See [`Engine::run`].
#[derive(Debug)]
pub struct Engine<D = AnyDevice> {
    shared: Arc<Shared>,
    devices: Vec<D>,
    doors: Doors,
}

impl<D: Device> Engine<D> {
    pub(crate) fn new(shared: Arc<Shared>, devices: Vec<D>, doors: Doors) -> Self {
        Self {
            shared,
            devices,
            doors,
        }
    }

    /// Serves until the last handle is gone, or the last device. A handle that is gone waits for nothing, so what is still
    /// on a device then is let go.
    pub async fn run(self) {
        let Self {
            shared,
            devices,
            mut doors,
        } = self;
        let _down = MarkDown(&shared);
        let mut workers = Workers::spawn(devices);
        shared.live.store(true, Ordering::Release);
        let running = Running::new(&shared, workers.depths());
        running.serve(&mut workers, &mut doors).await;
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
