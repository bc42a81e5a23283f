//! The limits of the inference engine, validated once.

use std::time::Duration;

/// Limits of the engine. Each is a configuration key of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most rows in one batch, 1 to 65,536. 1 switches batching off.
    pub rows_max: u32,
    /// Longest time an idle device waits for a fuller batch, at most 10 s; it waits only where more is likely to come soon
    /// enough to be worth it. 0: it never waits.
    pub wait_max: Duration,
    /// Time from arrival to answer that a request of class `priority` should take while the devices keep up, 1 ms to 1 h:
    /// batches are made smaller for it, as far as that costs at most a fifth of the throughput.
    pub target_priority: Duration,
    /// The same for all others.
    pub target_default: Duration,
    /// Most rows of one request, 1 to 1,048,576; never more than `tenant_rows_max`. More than `rows_max` run in parts.
    pub request_rows_max: u32,
    /// Most queued rows of one tenant, and of one request, at least `rows_max`.
    pub tenant_rows_max: u32,
    /// Most queued bytes of one tenant, at least `tensor_bytes_max`.
    pub tenant_bytes_max: u64,
    /// Most requests of one tenant not yet answered, 1 to 1,048,576; parts of one request count each. A few tenants at this
    /// limit take all of `requests_max` together: it should be several times as much.
    pub tenant_requests_max: u32,
    /// Most models and shapes, together, that requests of one tenant and class may wait for at once, 1 to 65,536: each is a
    /// queue of its own.
    pub tenant_shapes_max: usize,
    /// Whether requests of class `priority` are served so of every tenant; else only of those whose terms say so.
    pub priority_for_all: bool,
    /// Most requests not yet answered, whole node, 1 to 1,048,576.
    pub requests_max: usize,
    /// Most models at once, 1 to 4,096.
    pub models_max: usize,
    /// Most bytes of one tensor, 1 to 4 GiB. Also bounds the input bytes of a batch of several requests.
    pub tensor_bytes_max: u64,
    /// Most texts of one request, 1 to 65,536.
    pub texts_max: usize,
    /// Most bytes of one text, 1 to 64 KiB.
    pub text_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rows_max: 64,
            wait_max: Duration::from_millis(5),
            target_priority: Duration::from_millis(50),
            target_default: Duration::from_millis(500),
            request_rows_max: 1024,
            tenant_rows_max: 4096,
            tenant_bytes_max: 256 << 20,
            tenant_requests_max: 2048,
            tenant_shapes_max: 64,
            priority_for_all: false,
            requests_max: 16_384,
            models_max: 256,
            tensor_bytes_max: 64 << 20,
            texts_max: 256,
            text_bytes_max: 8 << 10,
        }
    }
}

/// Why the engine cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value outside its range.
    #[error("{key} is {value}, expected {expected}")]
    Key {
        /// The configuration key.
        key: &'static str,
        /// What was given.
        value: u64,
        /// What is allowed.
        expected: String,
    },
    /// Nothing to run on.
    #[error("devices is empty, expected at least one device")]
    NoDevice,
}

impl Config {
    /// Checks every key.
    ///
    /// # Errors
    /// The first key that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wait_ms = u64::try_from(self.wait_max.as_millis()).unwrap_or(u64::MAX);
        between("rows_max", u64::from(self.rows_max), 1, 65_536)?;
        between("wait_max (ms)", wait_ms, 0, 10_000)?;
        for (key, target) in [
            ("target_priority (ms)", self.target_priority),
            ("target_default (ms)", self.target_default),
        ] {
            let ms = u64::try_from(target.as_millis()).unwrap_or(u64::MAX);
            between(key, ms, 1, 3_600_000)?;
        }
        between("requests_max", self.requests_max as u64, 1, 1 << 20)?;
        between("models_max", self.models_max as u64, 1, 4_096)?;
        between("tensor_bytes_max", self.tensor_bytes_max, 1, 4 << 30)?;
        between("texts_max", self.texts_max as u64, 1, 65_536)?;
        between("text_bytes_max", self.text_bytes_max as u64, 1, 64 << 10)?;
        let requests = u64::from(self.tenant_requests_max);
        between("tenant_requests_max", requests, 1, 1 << 20)?;
        between(
            "tenant_shapes_max",
            self.tenant_shapes_max as u64,
            1,
            65_536,
        )?;
        let request_rows_max = u64::from(self.request_rows_max);
        between("request_rows_max", request_rows_max, 1, 1 << 20)?;
        at_least(
            "tenant_rows_max",
            u64::from(self.tenant_rows_max),
            ("rows_max", u64::from(self.rows_max)),
        )?;
        at_least(
            "tenant_bytes_max",
            self.tenant_bytes_max,
            ("tensor_bytes_max", self.tensor_bytes_max),
        )
    }
}

fn between(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Key {
        key,
        value,
        expected: format!("{min} to {max}"),
    })
}

/// A request that fits in a batch must fit in its tenant's queue, else it could never run.
fn at_least(key: &'static str, value: u64, other: (&str, u64)) -> Result<(), ConfigError> {
    if value >= other.1 {
        return Ok(());
    }
    Err(ConfigError::Key {
        key,
        value,
        expected: format!("at least {} ({})", other.0, other.1),
    })
}
