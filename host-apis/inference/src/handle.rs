//! The handle: everything other crates do with the engine. Checks requests and counts them in before they reach the engine's
//! task; holds no queue of its own.

use crate::config::{Config, ConfigError};
use crate::device::{Device, DeviceInfo};
use crate::engine::{Doors, Engine, LoadOrder, ORDERS_MAX, Order, Submission, Submissions};
use crate::error::{Error, LoadError, UnloadError};
use crate::models::{Catalogue, InputLimits, Inputs, Model};
use crate::request::{ModelId, ModelSource, NamedTensor, Reply, Request, TenantId, Terms};
use crate::stats::{Histogram, Stats};
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// The most a tenant can weigh.
const WEIGHT_MAX: u32 = 1_000;

/// A handle to the engine; clones are handles to the same one. The engine ends when the last is gone.
#[derive(Clone, Debug)]
pub struct Inference {
    shared: Arc<Shared>,
    submissions: mpsc::Sender<Submissions>,
    orders: mpsc::Sender<Order>,
}

/// Where an answer arrives.
type Answer = oneshot::Receiver<Result<Reply, Error>>;

/// What the engine's task and all handles see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    devices: Vec<DeviceInfo>,
    /// Stored by the engine's task alone; each request reads it without a lock.
    pub(crate) catalogue: ArcSwap<Catalogue>,
    pub(crate) live: AtomicBool,
    /// One permit for each request that may be unanswered.
    requests: Arc<Semaphore>,
    /// One permit: models are loaded one after the other.
    loads: Arc<Semaphore>,
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

    pub(crate) fn note_refusal(&self, limit: &'static str) {
        self.count(|stats| *stats.refused.entry(limit).or_default() += 1);
    }

    pub(crate) fn refuse(&self, limit: &'static str, max: u64) -> Error {
        self.note_refusal(limit);
        Error::QueueFull {
            limit,
            max,
            retry_after: Duration::from_nanos(self.retry_after_ns.load(Ordering::Relaxed)),
        }
    }
}

impl Inference {
    /// Builds handle and engine; nothing runs until the engine is run. There are no models yet, see [`Inference::load`].
    ///
    /// # Errors
    /// A configuration key out of its range, or no device.
    pub fn new<D: Device>(
        config: Config,
        devices: Vec<D>,
    ) -> Result<(Self, Engine<D>), ConfigError> {
        config.validate()?;
        if devices.is_empty() {
            return Err(ConfigError::NoDevice);
        }
        let (submissions, submitted) = mpsc::channel(config.requests_max);
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let stats = Stats {
            batch_rows: Histogram::up_to(u64::from(config.rows_max)),
            ..Stats::default()
        };
        let shared = Arc::new(Shared {
            devices: devices.iter().map(Device::describe).collect(),
            catalogue: ArcSwap::default(),
            live: AtomicBool::new(false),
            requests: Arc::new(Semaphore::new(config.requests_max)),
            loads: Arc::new(Semaphore::new(1)),
            queued_rows: AtomicU64::new(0),
            retry_after_ns: AtomicU64::new(1_000_000_000),
            stats: Mutex::new(stats),
            config,
        });
        let handle = Self {
            shared: Arc::clone(&shared),
            submissions,
            orders,
        };
        let doors = Doors {
            submissions: submitted,
            orders: ordered,
        };
        Ok((handle, Engine::new(shared, devices, doors)))
    }

    /// Loads a model on every device; then it is in the catalogue, under an id that was never used before. Waits while
    /// another model is loaded. Requests go on meanwhile; on each device they wait as long as it cannot do both, the CPU's
    /// for all the time it takes to read the file. A tokenizer is read by the engine itself, which begins no run meanwhile: tens
    /// of milliseconds for half a MiB.
    ///
    /// Dropping the future withdraws the model, unless it has just come into the catalogue.
    ///
    /// # Errors
    /// See [`LoadError`]. Then the catalogue is as it was, and devices that took the model let go of it.
    pub async fn load(&self, source: ModelSource) -> Result<Arc<Model>, LoadError> {
        if self.model(&source.name).is_some() {
            let model = source.name;
            return Err(LoadError::Duplicate { model });
        }
        let turn = Arc::clone(&self.shared.loads).acquire_owned().await;
        let (reply, answer) = oneshot::channel();
        let order = LoadOrder {
            source,
            reply,
            permit: turn.map_err(|_| LoadError::Stopped)?,
        };
        let sent = self.orders.send(Order::Load(order)).await;
        sent.map_err(|_| LoadError::Stopped)?;
        answer.await.unwrap_or(Err(LoadError::Stopped))
    }

    /// Takes a model out of the catalogue and then off every device. No run of it begins any more: requests that wait for
    /// one are answered [`Error::NotLoaded`]; runs on a device end and are answered. Comes back when every device has let go
    /// of it. Dropping the future changes nothing of that, once the engine has heard of it.
    ///
    /// # Errors
    /// See [`UnloadError`].
    pub async fn unload(&self, name: &str) -> Result<(), UnloadError> {
        let (reply, answer) = oneshot::channel();
        let name = name.to_owned();
        let sent = self.orders.send(Order::Unload { name, reply }).await;
        sent.map_err(|_| UnloadError::Stopped)?;
        answer.await.unwrap_or(Err(UnloadError::Stopped))
    }

    /// The model of this name.
    pub fn model(&self, name: &str) -> Option<Arc<Model>> {
        self.shared.catalogue.load().by_name(name).cloned()
    }

    /// The model of this id.
    pub fn model_of(&self, id: ModelId) -> Option<Arc<Model>> {
        self.shared.catalogue.load().get(id).cloned()
    }

    /// Every model, in the order in which they were loaded.
    pub fn models(&self) -> Vec<Arc<Model>> {
        let catalogue = self.shared.catalogue.load();
        catalogue.models().cloned().collect()
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
        let (submission, answer) = self.admit(request)?;
        // There are as many places as permits, so it can only be closed.
        self.submissions
            .try_send(Submissions::One(submission))
            .map_err(|_| Error::Stopped)?;
        answer.await.unwrap_or(Err(Error::Stopped))
    }

    /// As [`Inference::submit`], for many requests that reach the engine in one piece: those that fit share a batch. Each has
    /// its own answer, in their order.
    pub async fn submit_many(&self, requests: Vec<Request>) -> Vec<Result<Reply, Error>> {
        let mut submissions = Vec::with_capacity(requests.len());
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            answers.push(self.admit(request).map(|(submission, answer)| {
                submissions.push(submission);
                answer
            }));
        }
        let sent = submissions.is_empty()
            || self
                .submissions
                .try_send(Submissions::Many(submissions))
                .is_ok();
        let answers = answers.into_iter().map(|answer| async move {
            match answer {
                Ok(answer) if sent => answer.await.unwrap_or(Err(Error::Stopped)),
                Ok(_) => Err(Error::Stopped),
                Err(refused) => Err(refused),
            }
        });
        join_all(answers).await
    }

    /// Checks a request and counts it in.
    fn admit(&self, request: Request) -> Result<(Submission, Answer), Error> {
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
            class: request.class,
            inputs,
            queued_at,
            deadline: request.deadline,
            reply,
            permit,
        };
        Ok((submission, answer))
    }

    /// What holds for this tenant from now on; `None`: weight 1, and the rest as the configuration has it. Requests that are
    /// queued keep their class; their turns come by the new weight.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a weight over 1,000, [`Error::Stopped`].
    pub async fn set_terms(&self, tenant: TenantId, terms: Option<Terms>) -> Result<(), Error> {
        if let Some(Terms { weight, .. }) = terms
            && weight > WEIGHT_MAX
        {
            return Err(Error::Invalid(format!(
                "weight is {weight}, expected 0 to {WEIGHT_MAX}"
            )));
        }
        let sent = self.orders.send(Order::Terms { tenant, terms }).await;
        sent.map_err(|_| Error::Stopped)
    }

    /// Whether the engine runs and a device lives; it may have no models.
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

    pub(crate) fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, limit: &'static str) {
        self.shared.note_refusal(limit);
    }

    fn check(&self, model: ModelId, given: Vec<NamedTensor>) -> Result<Inputs, Error> {
        let catalogue = self.shared.catalogue.load();
        let model = catalogue.get(model).ok_or(Error::NotLoaded)?;
        let config = &self.shared.config;
        let limits = InputLimits {
            tensor_bytes_max: config.tensor_bytes_max,
            rows_max: [
                ("request_rows_max", config.request_rows_max),
                ("tenant_rows_max", config.tenant_rows_max),
            ]
            .into_iter()
            .min_by_key(|(_, max)| *max)
            .expect("there are two"),
        };
        let checked = Inputs::check(model, given, limits);
        let limit = match &checked {
            Err(Error::TooManyRows { key, .. }) => *key,
            Err(Error::Tensor(_)) => "tensor_bytes_max",
            _ => return checked,
        };
        self.refused(limit);
        checked
    }
}
