//! The handle: everything other crates do with the engine. Checks requests and counts them in before they reach the engine's
//! task; holds no queue of its own.

use crate::config::{Config, ConfigError};
use crate::device::{Device, DeviceInfo};
use crate::engine::{Engine, Submission};
use crate::error::{Error, LoadError};
use crate::models::{Catalogue, Inputs, Model};
use crate::request::{ModelId, ModelSource, NamedTensor, Reply, Request};
use crate::stats::{Histogram, Stats};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

/// A handle to the engine; clones are handles to the same one. The engine ends when the last is gone.
#[derive(Clone, Debug)]
pub struct Inference {
    shared: Arc<Shared>,
    submissions: mpsc::Sender<Submission>,
    loading: watch::Receiver<Loading>,
}

/// How far the engine has come.
pub(crate) type Loading = Option<Result<(), LoadError>>;

/// What the engine's task and all handles see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    devices: Vec<DeviceInfo>,
    /// Set once, when every device has loaded every model.
    pub(crate) catalogue: OnceLock<Catalogue>,
    pub(crate) live: AtomicBool,
    /// One permit for each request that may be unanswered.
    requests: Arc<Semaphore>,
    pub(crate) queued_rows: AtomicU64,
    /// The engine's latest estimate of when the queues will have drained, in nanoseconds.
    pub(crate) retry_after_ns: AtomicU64,
    stats: Mutex<Stats>,
}

impl Shared {
    /// A short section over plain counters.
    pub(crate) fn count(&self, update: impl FnOnce(&mut Stats)) {
        // A panic between two counters leaves counters: still good to read.
        update(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn refuse(&self, limit: &'static str, max: u64) -> Error {
        self.count(|stats| *stats.refused.entry(limit).or_default() += 1);
        Error::QueueFull {
            limit,
            max,
            retry_after: Duration::from_nanos(self.retry_after_ns.load(Ordering::Relaxed)),
        }
    }
}

impl Inference {
    /// Builds handle and engine; nothing runs and nothing is loaded until the engine is run. `models[i]` becomes
    /// `ModelId(i)`.
    ///
    /// # Errors
    /// A configuration key out of its range, no device, or two models of one name.
    pub fn new<D: Device>(
        config: Config,
        devices: Vec<D>,
        models: Vec<ModelSource>,
    ) -> Result<(Self, Engine<D>), ConfigError> {
        config.validate()?;
        if devices.is_empty() {
            return Err(ConfigError::NoDevice);
        }
        let mut names = HashSet::new();
        for model in &models {
            if !names.insert(model.name.as_str()) {
                return Err(ConfigError::DuplicateModel(model.name.clone()));
            }
        }
        let (submissions, submitted) = mpsc::channel(config.requests_max);
        let (loaded, loading) = watch::channel(None);
        let stats = Stats {
            batch_rows: Histogram::up_to(u64::from(config.rows_max)),
            ..Stats::default()
        };
        let shared = Arc::new(Shared {
            devices: devices.iter().map(Device::describe).collect(),
            catalogue: OnceLock::new(),
            live: AtomicBool::new(false),
            requests: Arc::new(Semaphore::new(config.requests_max)),
            queued_rows: AtomicU64::new(0),
            retry_after_ns: AtomicU64::new(1_000_000_000),
            stats: Mutex::new(stats),
            config,
        });
        let handle = Self {
            shared: Arc::clone(&shared),
            submissions,
            loading,
        };
        Ok((
            handle,
            Engine::new(shared, devices, models, submitted, loaded),
        ))
    }

    /// Waits until every device has loaded every model.
    ///
    /// # Errors
    /// The first model that a device cannot load, and why; [`LoadError::Stopped`] if the engine is gone.
    pub async fn loaded(&self) -> Result<(), LoadError> {
        let mut loading = self.loading.clone();
        let state = loading.wait_for(Option::is_some).await;
        state
            .ok()
            .and_then(|state| state.clone())
            .unwrap_or(Err(LoadError::Stopped))
    }

    /// The model of this name; `None` until [`Inference::loaded`].
    pub fn model(&self, name: &str) -> Option<Arc<Model>> {
        self.shared.catalogue.get()?.by_name(name).cloned()
    }

    /// Every model, by id; empty until [`Inference::loaded`].
    pub fn models(&self) -> &[Arc<Model>] {
        self.shared
            .catalogue
            .get()
            .map_or(&[], |catalogue| catalogue.models())
    }

    /// What the node runs models on.
    pub fn devices(&self) -> &[DeviceInfo] {
        &self.shared.devices
    }

    /// Runs one request in a batch with others and waits for its answer, at most until its deadline. Never waits for room:
    /// a full queue is an answer. Dropping the future withdraws the request; if its run has not begun, it costs nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn submit(&self, request: Request) -> Result<Reply, Error> {
        let queued_at = Instant::now();
        if self.submissions.is_closed() {
            return Err(Error::Stopped);
        }
        let inputs = self.check(request.model, request.inputs)?;
        if request.deadline <= queued_at {
            self.shared.count(|stats| stats.expired += 1);
            return Err(Error::DeadlineExceeded);
        }
        let requests_max = self.shared.config.requests_max as u64;
        let permit = Arc::clone(&self.shared.requests)
            .try_acquire_owned()
            .map_err(|_| self.shared.refuse("requests_max", requests_max))?;
        let (reply, answer) = oneshot::channel();
        let submission = Submission {
            tenant: request.tenant,
            model: request.model,
            inputs,
            queued_at,
            deadline: request.deadline,
            reply,
            permit,
        };
        // There are as many places as permits, so it can only be closed.
        self.submissions
            .try_send(submission)
            .map_err(|_| Error::Stopped)?;
        answer.await.unwrap_or(Err(Error::Stopped))
    }

    /// Whether the engine runs and each model has a device that runs.
    pub fn is_live(&self) -> bool {
        self.shared.live.load(Ordering::Acquire)
    }

    /// What has been done so far.
    pub fn stats(&self) -> Stats {
        let mut snapshot = None;
        self.shared.count(|stats| snapshot = Some(stats.clone()));
        Stats {
            queued_rows: self.shared.queued_rows.load(Ordering::Relaxed),
            ..snapshot.unwrap_or_default()
        }
    }

    fn check(&self, model: ModelId, given: Vec<NamedTensor>) -> Result<Inputs, Error> {
        let catalogue = self.shared.catalogue.get();
        let Some(model) = catalogue.and_then(|catalogue| catalogue.get(model)) else {
            return Err(Error::Invalid(format!("model {} is not loaded", model.0)));
        };
        let checked = Inputs::check(model, given, self.shared.config.tensor_bytes_max);
        let limit = match &checked {
            Err(Error::TooManyRows { .. }) => "rows_max",
            Err(Error::Tensor(_)) => "tensor_bytes_max",
            _ => return checked,
        };
        self.shared
            .count(|stats| *stats.refused.entry(limit).or_default() += 1);
        checked
    }
}
