//! Every key of a node, in one validated struct that is read once at start and handed on as plain values.
//!
//! A key is written down once, in the list below: its name, its type, its default, its range and its words. The struct, the
//! file (`node.toml`), the environment, the checks and the commented example all come from that list.

mod file;
mod value;

use crate::egress::Networks;
use crate::sandbox::BESIDE_TEXT_BYTES_MAX;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use value::{Allowed, Expected, HostName, Setting, with_unit};

/// A key with a value that cannot work, or that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value of another kind, or out of its range.
    #[error("{key} must be {expected}, got {actual}")]
    Value {
        /// Which key.
        key: String,
        /// What is allowed.
        expected: String,
        /// What was given.
        actual: String,
    },
    /// A key that does not exist.
    #[error("unknown key {key}; {hint}")]
    Unknown {
        /// The key as it was given.
        key: String,
        /// What to do about it.
        hint: String,
    },
    /// A file that is not TOML.
    #[error("not a TOML file: {0}")]
    Syntax(String),
}

/// One key, for whoever goes through all of them.
struct Key {
    name: &'static str,
    doc: &'static [&'static str],
    show: fn(&Config) -> String,
    set: fn(&mut Config, &str) -> Result<(), &'static str>,
    check: fn(&Config) -> Result<(), Expected>,
}

macro_rules! key {
    ($name:expr, [$($doc:literal),+], $($field:ident).+: $type:ty, $range:expr) => {
        Key {
            name: $name,
            doc: &[$($doc),+],
            show: |config| config.$($field).+.show(),
            set: |config, text| {
                config.$($field).+ = Setting::parse(text).ok_or(<$type as Setting>::EXPECTED)?;
                Ok(())
            },
            check: |config| Allowed::<$type>::check(&$range, &config.$($field).+),
        }
    };
}

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr, $range:expr;)+) => {
        /// What a node is, what it may use and how long it waits. [`Config::default`] is a node on this machine;
        /// [`Config::validate`] names the key that is wrong.
        #[derive(Clone, Debug)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $type,)+
            /// The batcher's own limits.
            pub inference: shoal_inference::Config,
        }

        impl Default for Config {
            fn default() -> Self {
                Self {
                    $($name: $default,)+
                    inference: shoal_inference::Config::default(),
                }
            }
        }

        const NODE_KEYS: &[Key] = &[
            $(key!(stringify!($name), [$($doc),+], $name: $type, $range),)+
        ];
    };
}

/// Those of the batcher: the table `[inference]`. It checks their ranges itself.
const INFERENCE_KEYS: &[Key] = &[
    key!("inference.rows_max", [" Rows of one batch; 1 switches batching off."], inference.rows_max: u32, ..),
    key!("inference.wait_max", [" Longest time an idle device waits for a fuller batch; it does so only where more is likely to come in time."], inference.wait_max: Duration, ..),
    key!("inference.target_priority", [" Time from arrival to answer that priority requests should take: batches are made smaller for it."], inference.target_priority: Duration, ..),
    key!("inference.target_default", [" The same for all others."], inference.target_default: Duration, ..),
    key!("inference.request_rows_max", [" Rows of one request; more than rows_max run in parts."], inference.request_rows_max: u32, ..),
    key!("inference.tenant_rows_max", [" Queued rows of one tenant, and of one request."], inference.tenant_rows_max: u32, ..),
    key!("inference.tenant_bytes_max", [" Queued bytes of one tenant."], inference.tenant_bytes_max: u64, ..),
    key!("inference.tenant_requests_max", [" Requests of one tenant not yet answered; the parts of one count each."], inference.tenant_requests_max: u32, ..),
    key!("inference.tenant_shapes_max", [" Models and shapes of inputs, together, that requests of one tenant may wait for at once."], inference.tenant_shapes_max: usize, ..),
    key!("inference.priority_for_all", [" Whether the functions of every project may use the class priority; else only of those whose limits say so."], inference.priority_for_all: bool, ..),
    key!("inference.requests_max", [" Requests not yet answered, whole node."], inference.requests_max: usize, ..),
    key!("inference.tensor_bytes_max", [" Bytes of one tensor, and of the inputs of one batch."], inference.tensor_bytes_max: u64, ..),
    key!("inference.texts_max", [" Texts of one request for vectors."], inference.texts_max: usize, ..),
    key!("inference.text_bytes_max", [" Bytes of one of them; what is beyond the model's number of tokens is cut off in any case."], inference.text_bytes_max: usize, ..),
];

/// The longest any wait may be set to.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The shortest a wait may be set to: what a timer can tell apart.
const TICK: Duration = Duration::from_millis(1);
/// The most bytes any limit may be set to.
const BYTES_MAX: u64 = 1 << 50;

/// The largest window there is (RFC 9113, section 6.9.1).
const HTTP2_WINDOW_MAX: u32 = (1 << 31) - 1;

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

keys! {
    /// Where functions are called.
    listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)), ..;
    /// Where the node is managed: the admin API and the metrics.
    admin_listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8081)), ..;
    /// Folder that holds all a node must not lose; made with mode 0700.
    data: PathBuf = PathBuf::from("shoal-data"), ..;
    /// Functions are called at `{function}.{project}.<domain>` too. Nothing else should have a host below it: what a browser
    /// keeps for the domain as a whole, all functions can see.
    domain: String = "localhost".to_owned(), HostName;
    /// Threads that serve connections, each with a runtime of its own. Default: all cores.
    socket_threads: usize = cores(), 1..=1024;
    /// Threads that run guests which used more than guest_slice in a row. Default: all cores.
    background_threads: usize = cores(), 1..=1024;
    /// Open connections, in all.
    connections_max: usize = 10_000, 1..=1 << 20;
    /// Open connections of one client address.
    connections_per_address_max: usize = 5_000, 1..=1 << 20;
    /// Time a client has to send a whole request head, idle time between two requests included; in HTTP/2, time that a
    /// connection may have no stream.
    header_timeout: Duration = Duration::from_secs(10), TICK..=DAY;
    /// Bytes of a request head.
    header_bytes_max: usize = 16 << 10, 8 << 10..=1 << 20;
    /// Bytes of a request body.
    body_bytes_max: u64 = 64 << 20, 0..=BYTES_MAX;
    /// Bytes per second a client must send its body with, once body_rate_grace has passed.
    body_rate_min: u64 = 1 << 10, 0..=BYTES_MAX;
    /// Time before body_rate_min is asked for.
    body_rate_grace: Duration = Duration::from_secs(5), TICK..=DAY;
    /// Time a client may leave a full socket unread, or a part of an answer that its HTTP/2 window has no room for.
    write_stall_max: Duration = Duration::from_secs(10), TICK..=DAY;
    /// Streams of one HTTP/2 connection open at once; and how many more its client may cancel than it waits for.
    http2_streams_max: u32 = 100, 1..=1 << 20;
    /// Bytes of one HTTP/2 stream's request that its function has not read; at least one frame.
    http2_stream_window_bytes: u32 = 64 << 10, 16 << 10..=HTTP2_WINDOW_MAX;
    /// Bytes of all requests of one HTTP/2 connection that nobody has read; at least what every connection begins with.
    http2_connection_window_bytes: u32 = 1 << 20, 65_535..=HTTP2_WINDOW_MAX;
    /// Silence after which an HTTP/2 client is asked whether it is still there.
    http2_ping_interval: Duration = Duration::from_secs(20), TICK..=DAY;
    /// Time it has to say so.
    http2_ping_timeout: Duration = Duration::from_secs(10), TICK..=DAY;
    /// Wall time of one invocation, from its head to the end of its answer.
    invocation_timeout: Duration = Duration::from_secs(30), TICK..=DAY;
    /// CPU time of one invocation.
    guest_cpu_max: Duration = Duration::from_secs(10), TICK..=DAY;
    /// CPU time in a row on a socket thread, after which a guest goes on in the background.
    guest_slice: Duration = Duration::from_millis(2), Duration::from_micros(1)..=DAY;
    /// Linear memory of one guest, all its memories together.
    guest_memory_bytes_max: usize = 128 << 20, 64 << 10..=4 << 30;
    /// Elements of one table of a guest.
    guest_table_elements_max: usize = 20_000, 0..=10_000_000;
    /// Handles a guest may hold at once.
    guest_handles_max: usize = 1_000, 16..=1_000_000;
    /// Tensors of one guest in host memory, together.
    guest_tensor_bytes_max: u64 = 64 << 20, 0..=BYTES_MAX;
    /// Guests alive at once; sizes the instance pool.
    guests_max: u32 = 2_000, 1..=1_000_000;
    /// Guests of one tenant alive at once.
    tenant_guests_max: usize = 1_000, 1..=1_000_000;
    /// Sandboxes kept for another call of a function whose owner lets one serve more than one (reuse), in all; each has
    /// at most 8 MiB of linear memory. 0: none.
    guests_kept_max: usize = 64, 0..=1_000_000;
    /// Time without a call after which one goes.
    guest_kept_idle_max: Duration = Duration::from_secs(30), TICK..=DAY;
    /// Calls that the owner of a function may let one sandbox serve.
    function_reuse_max: u32 = 10_000, 1..=u32::MAX;
    /// Functions of one tenant.
    tenant_functions_max: usize = 1_000, 1..=1_000_000;
    /// Versions kept of one function, the live one included; older ones go with the next deploy.
    function_versions_max: usize = 20, 1..=500;
    /// Newest calls of a canary, and of the live version, that its failures are counted over.
    canary_calls: usize = 100, 1..=1 << 16;
    /// Points of a hundred by which a canary's share of failures (5xx) may be above the live version's; one more, and it
    /// gets no calls any more.
    canary_error_points_max: u32 = 5, 0..=100;
    /// Projects of the node.
    projects_max: usize = 10_000, 1..=1_000_000;
    /// Keys of one project, and admin keys of the node.
    project_keys_max: usize = 100, 1..=100_000;
    /// Models of the node.
    models_max: usize = 100, 1..=10_000;
    /// Time for one request to the admin API, its upload included.
    api_timeout: Duration = Duration::from_secs(300), TICK..=DAY;
    /// Bytes of a component as uploaded.
    component_bytes_max: usize = 16 << 20, 8..=1 << 30;
    /// Address space of the compiler's process.
    compile_memory_bytes_max: u64 = 1 << 30, 1 << 20..=BYTES_MAX;
    /// CPU time of the compiler's process; whole seconds count.
    compile_cpu_max: Duration = Duration::from_secs(10), Duration::from_secs(1)..=DAY;
    /// Wall time of the compiler's process, without what it waited for a processor.
    compile_timeout: Duration = Duration::from_secs(12), TICK..=DAY;
    /// Components compiled at once. Default: half of all cores.
    compiles_max: usize = (cores() / 2).max(1), 1..=1024;
    /// Components of one tenant compiled at once or waiting for it.
    tenant_compiles_max: usize = 4, 1..=1_000_000;
    /// Components ready to be instantiated; the least recently used goes.
    components_mapped_max: usize = 2_000, 1..=1_000_000;
    /// Bytes of a model's file.
    model_bytes_max: u64 = 256 << 20, 1..=BYTES_MAX;
    /// Bytes of a model's tokenizer.
    tokenizer_bytes_max: u64 = 16 << 20, 1..=BYTES_MAX;
    /// Address space of the process that checks a model before it is admitted.
    model_check_memory_bytes_max: u64 = 1 << 30, 1 << 20..=BYTES_MAX;
    /// CPU time of that process; whole seconds count.
    model_check_cpu_max: Duration = Duration::from_secs(10), Duration::from_secs(1)..=DAY;
    /// Wall time of that process, without what it waited for a processor.
    model_check_timeout: Duration = Duration::from_secs(12), TICK..=DAY;
    /// Memory of the newest log lines of one function; more than one line of log_line_bytes_max takes.
    function_log_bytes_max: usize = 64 << 10, 2 << 10..=1 << 30;
    /// Text of one log line; what is longer is cut.
    log_line_bytes_max: usize = 4 << 10, 16..=1 << 20;
    /// Binary to start as the compiler and as the model check. Default: the one that runs.
    compiler: PathBuf = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("shoal")), ..;
    /// Outgoing requests of one function under way at once.
    function_egress_max: usize = 64, 1..=1 << 16;
    /// Hosts that one function may be granted.
    function_egress_hosts_max: usize = 32, 0..=10_000;
    /// Networks that functions may reach although they are private, like `10.1.0.0/16, fd00::/8`. Default: none.
    egress_networks: Networks = Networks::default(), ..;
    /// File with certificates (PEM) of authorities that servers are trusted by, besides those that browsers trust. Default:
    /// none.
    egress_roots: Option<PathBuf> = None, ..;
    /// Time to connect to another server for a guest, its name looked up and TLS included.
    egress_connect_timeout: Duration = Duration::from_secs(5), TICK..=DAY;
    /// Time until the head of the server's answer, connecting included.
    egress_answer_timeout: Duration = Duration::from_secs(20), TICK..=DAY;
    /// Time between two parts of its answer.
    egress_silence_max: Duration = Duration::from_secs(20), TICK..=DAY;
    /// Connections to other servers, used or kept, in all.
    egress_connections_max: usize = 2_000, 1..=1 << 20;
    /// Of those, one tenant's.
    tenant_egress_connections_max: usize = 256, 1..=1 << 20;
    /// Bytes of one outgoing request's body, and of its answer's.
    egress_body_bytes_max: u64 = 64 << 20, 0..=BYTES_MAX;
    /// Connections to one host that are kept for a tenant while nobody uses them.
    egress_idle_connections_max: usize = 8, 0..=1 << 16;
    /// How long they are kept.
    egress_idle_max: Duration = Duration::from_secs(30), TICK..=DAY;
    /// Time between a removal (of a function, an old version, a model) and the search for files that nothing names any more.
    collect_interval: Duration = Duration::from_secs(60), TICK..=DAY;
    /// Time that requests in flight get to end once the node was asked to stop.
    shutdown_grace: Duration = Duration::from_secs(30), Duration::ZERO..=DAY;
}

impl Config {
    /// Checks every key.
    ///
    /// # Errors
    /// The first key that is out of its range, with the range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for key in NODE_KEYS {
            (key.check)(self).map_err(|expected| ConfigError::Value {
                key: key.name.to_owned(),
                expected: expected.of(key.name),
                actual: with_unit(key.name, (key.show)(self)),
            })?;
        }
        // Room for the longest line, or a function's log would be empty after it.
        let line = self.log_line_bytes_max + BESIDE_TEXT_BYTES_MAX;
        if self.function_log_bytes_max < line {
            return Err(ConfigError::Value {
                key: "function_log_bytes_max".to_owned(),
                expected: format!("at least {line}, what a line of log_line_bytes_max takes"),
                actual: self.function_log_bytes_max.to_string(),
            });
        }
        self.inference.validate().map_err(inference_error)
    }
}

/// The batcher's words in ours.
fn inference_error(error: shoal_inference::ConfigError) -> ConfigError {
    match error {
        shoal_inference::ConfigError::Key {
            key,
            value,
            expected,
        } => ConfigError::Value {
            key: format!("inference.{key}"),
            expected,
            actual: value.to_string(),
        },
        other => ConfigError::Syntax(other.to_string()),
    }
}

/// Every key there is.
fn all_keys() -> impl Iterator<Item = &'static Key> {
    NODE_KEYS.iter().chain(INFERENCE_KEYS)
}
