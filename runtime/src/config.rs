//! Every limit of a node, in one validated struct that is read once at start and handed on as plain values.

use std::path::PathBuf;
use std::time::Duration;

/// What a node may use and how long it waits. [`Config::default`] is a node on this machine; [`Config::validate`] names the
/// key that is wrong.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads that serve connections, each with a runtime of its own. Default: all cores.
    pub socket_threads: usize,
    /// Threads that run guests which used more than [`Config::guest_slice`] in a row. Default: all cores.
    pub background_threads: usize,
    /// Open connections, in all.
    pub connections_max: usize,
    /// Open connections of one client address.
    pub connections_per_address_max: usize,
    /// Time a client has to send a whole request head, idle time between two requests included.
    pub header_timeout: Duration,
    /// Bytes of a request head.
    pub header_bytes_max: usize,
    /// Bytes of a request body.
    pub body_bytes_max: u64,
    /// Bytes per second a client must send its body with, once [`Config::body_rate_grace`] has passed.
    pub body_rate_min: u64,
    /// Time before [`Config::body_rate_min`] is asked for.
    pub body_rate_grace: Duration,
    /// Time a client may leave a full socket unread.
    pub write_stall_max: Duration,
    /// Wall time of one invocation, from its head to the end of its answer.
    pub invocation_timeout: Duration,
    /// CPU time of one invocation.
    pub guest_cpu_max: Duration,
    /// CPU time in a row on a socket thread, after which a guest goes on in the background.
    pub guest_slice: Duration,
    /// Linear memory of one guest, all its memories together.
    pub guest_memory_bytes_max: usize,
    /// Elements of one table of a guest.
    pub guest_table_elements_max: usize,
    /// Handles a guest may hold at once.
    pub guest_handles_max: usize,
    /// Guests alive at once; sizes the instance pool.
    pub guests_max: u32,
    /// Guests of one tenant alive at once.
    pub tenant_guests_max: usize,
    /// Bytes of a component as uploaded.
    pub component_bytes_max: usize,
    /// Address space of the compiler's process.
    pub compile_memory_bytes_max: u64,
    /// CPU time of the compiler's process.
    pub compile_cpu_max: Duration,
    /// Wall time of the compiler's process.
    pub compile_timeout: Duration,
    /// The binary to start as the compiler. Default: the one that runs.
    pub compiler: PathBuf,
    /// Time that requests in flight get to end once the node was asked to stop.
    pub shutdown_grace: Duration,
    /// Tensors of one guest in host memory, together.
    pub guest_tensor_bytes_max: u64,
    /// The batcher's own limits.
    pub inference: shoal_inference::Config,
}

/// The longest any wait may be set to.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The most connections one process can hold anyway.
const CONNECTIONS_MAX: usize = 1 << 20;

impl Default for Config {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            socket_threads: cores,
            background_threads: cores,
            connections_max: 10_000,
            connections_per_address_max: 5_000,
            header_timeout: Duration::from_secs(10),
            header_bytes_max: 16 << 10,
            body_bytes_max: 64 << 20,
            body_rate_min: 1 << 10,
            body_rate_grace: Duration::from_secs(5),
            write_stall_max: Duration::from_secs(10),
            invocation_timeout: Duration::from_secs(30),
            guest_cpu_max: Duration::from_secs(10),
            guest_slice: Duration::from_millis(2),
            guest_memory_bytes_max: 128 << 20,
            guest_table_elements_max: 20_000,
            guest_handles_max: 1_000,
            guests_max: 2_000,
            tenant_guests_max: 1_000,
            component_bytes_max: 16 << 20,
            compile_memory_bytes_max: 1 << 30,
            compile_cpu_max: Duration::from_secs(10),
            compile_timeout: Duration::from_secs(12),
            compiler: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("shoal")),
            shutdown_grace: Duration::from_secs(30),
            guest_tensor_bytes_max: 64 << 20,
            inference: shoal_inference::Config::default(),
        }
    }
}

/// A key of [`Config`] with a value that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} must be {expected}, got {actual}")]
pub struct ConfigError {
    key: &'static str,
    expected: String,
    actual: String,
}

impl Config {
    /// Checks every key.
    ///
    /// # Errors
    /// The first key that is out of its range, with the range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        at_least("socket_threads", self.socket_threads, 1)?;
        at_least("background_threads", self.background_threads, 1)?;
        at_least("connections_max", self.connections_max, 1)?;
        if self.connections_max > CONNECTIONS_MAX {
            let expected = format!("at most {CONNECTIONS_MAX}");
            let actual = self.connections_max.to_string();
            return Err(wrong("connections_max", expected, actual));
        }
        at_least(
            "connections_per_address_max",
            self.connections_per_address_max,
            1,
        )?;
        // hyper's own minimum for its read buffer
        at_least("header_bytes_max", self.header_bytes_max, 8 << 10)?;
        at_least("guests_max", self.guests_max as usize, 1)?;
        at_least("tenant_guests_max", self.tenant_guests_max, 1)?;
        at_least(
            "guest_memory_bytes_max",
            self.guest_memory_bytes_max,
            64 << 10,
        )?;
        at_least("guest_handles_max", self.guest_handles_max, 16)?;
        at_least("component_bytes_max", self.component_bytes_max, 8)?;
        for (key, value) in [
            ("header_timeout", self.header_timeout),
            ("body_rate_grace", self.body_rate_grace),
            ("write_stall_max", self.write_stall_max),
            ("invocation_timeout", self.invocation_timeout),
            ("guest_cpu_max", self.guest_cpu_max),
            ("guest_slice", self.guest_slice),
            ("compile_timeout", self.compile_timeout),
        ] {
            if value.is_zero() || value > DAY {
                let expected = "more than 0 and at most 24 h";
                return Err(wrong(key, expected, format!("{value:?}")));
            }
        }
        // RLIMIT_CPU counts whole seconds
        at_least(
            "compile_cpu_max (seconds)",
            self.compile_cpu_max.as_secs() as usize,
            1,
        )?;
        if self.guest_memory_bytes_max > 4 << 30 {
            return Err(wrong(
                "guest_memory_bytes_max",
                "at most 4 GiB",
                self.guest_memory_bytes_max.to_string(),
            ));
        }
        Ok(())
    }
}

fn at_least(key: &'static str, value: usize, min: usize) -> Result<(), ConfigError> {
    if value < min {
        return Err(wrong(key, format!("at least {min}"), value.to_string()));
    }
    Ok(())
}

fn wrong(key: &'static str, expected: impl Into<String>, actual: String) -> ConfigError {
    ConfigError {
        key,
        expected: expected.into(),
        actual,
    }
}
