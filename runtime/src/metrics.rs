//! Every metric name of the node, in one place. Units are in the names; no label has a value that a client chooses.

use crate::sandbox::{Registry as Functions, Runner};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use shoal_inference::{Explanation, Inference};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

type Seconds = Counter<f64, AtomicU64>;

/// Labels of `shoal_http_requests_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    code: u16,
}

/// Labels of `shoal_refused_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusedLabels {
    limit: &'static str,
}

/// The node's counters. Cheap to add to from any thread.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    invocation_seconds: Histogram,
    guest_cpu_seconds: Seconds,
    queue_seconds: Histogram,
    panics: Counter,
    pub(crate) connections_open: Gauge,
}

impl Metrics {
    pub(crate) fn new(
        runner: Arc<Runner>,
        functions: Arc<Functions>,
        inference: Inference,
    ) -> Self {
        let mut registry = Registry::with_prefix("shoal");
        let requests = Family::default();
        registry.register(
            "http_requests",
            "Requests by route and status",
            requests.clone(),
        );
        let refused = Family::default();
        registry.register(
            "refused",
            "Refusals by the limit that was hit",
            refused.clone(),
        );
        let invocation_seconds = Histogram::new(exponential_buckets(0.000_25, 2.0, 18));
        registry.register(
            "invocation_duration_seconds",
            "Wall time of an invocation, head to end",
            invocation_seconds.clone(),
        );
        let guest_cpu_seconds = Seconds::default();
        registry.register(
            "guest_cpu_seconds",
            "CPU time of guests",
            guest_cpu_seconds.clone(),
        );
        registry.register(
            "compile_duration_seconds",
            "Time to compile a component",
            runner.components().compile_seconds().clone(),
        );
        let queue_seconds = Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        registry.register(
            "inference_queue_seconds",
            "Time from submission until the batch was handed to the device",
            queue_seconds.clone(),
        );
        let connections_open = Gauge::default();
        registry.register(
            "http_connections_open",
            "Connections open now",
            connections_open.clone(),
        );
        let panics = Counter::default();
        registry.register(
            "panics",
            "Connections and streams that a bug of ours ended",
            panics.clone(),
        );
        registry.register_collector(Box::new(Snapshot {
            runner,
            functions,
            inference,
        }));
        Self {
            registry,
            requests,
            refused,
            invocation_seconds,
            guest_cpu_seconds,
            queue_seconds,
            panics,
            connections_open,
        }
    }

    /// One answer of the node.
    pub(crate) fn request(&self, route: &'static str, code: u16) {
        self.requests
            .get_or_create(&RequestLabels { route, code })
            .inc();
    }

    /// One refusal, by the configuration key of its limit.
    pub(crate) fn refused(&self, limit: &'static str) {
        self.refused.get_or_create(&RefusedLabels { limit }).inc();
    }

    /// One invocation that ended.
    pub(crate) fn invocation(&self, duration: Duration, cpu: Duration) {
        self.invocation_seconds.observe(duration.as_secs_f64());
        self.guest_cpu_seconds.inc_by(cpu.as_secs_f64());
    }

    /// A connection or a stream ended in a panic.
    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    /// One inference that was answered.
    pub(crate) fn inferred(&self, explanation: &Explanation) {
        self.queue_seconds.observe(explanation.queue.as_secs_f64());
    }

    /// The Prometheus page.
    pub(crate) fn page(&self) -> String {
        let mut page = String::with_capacity(8 << 10);
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut page, &self.registry);
        page
    }
}

/// What others count, read when somebody asks.
struct Snapshot {
    runner: Arc<Runner>,
    functions: Arc<Functions>,
    inference: Inference,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        self.sandbox(&mut to)?;
        self.components(&mut to)?;
        self.logs(&mut to)?;
        self.egress(&mut to)?;
        self.batches(&mut to)?;
        self.process(&mut to)
    }
}

impl Snapshot {
    fn sandbox(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        gauge(
            to,
            "guests_live",
            "Guests alive now",
            self.runner.guests_live() as u64,
        )?;
        gauge(
            to,
            "guests_kept",
            "Sandboxes that wait for another call of their function",
            self.runner.guests_kept() as u64,
        )?;
        counter(
            to,
            "guests_reused",
            "Calls served by a sandbox that had served one before",
            self.runner.guests_reused(),
        )?;
        let moved = self.runner.sandbox().guests_moved();
        counter(
            to,
            "guests_moved",
            "Guests moved to the background pool",
            moved,
        )?;
        counter(
            to,
            "canaries_failed",
            "Versions on trial that failed more than canary_error_points_max allows",
            self.functions.canaries_failed(),
        )
    }

    fn components(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let stats = self.runner.components().stats();
        gauge(
            to,
            "components_mapped",
            "Components ready to be instantiated",
            stats.mapped,
        )?;
        counter(
            to,
            "component_mappings",
            "Components mapped so far",
            stats.mapped_total,
        )?;
        counter(
            to,
            "component_cache_hits",
            "Components mapped without a compile",
            stats.cache_hits,
        )?;
        counter(
            to,
            "component_cache_damaged",
            "Entries of the code cache that were damaged and compiled again",
            stats.cache_damaged,
        )
    }

    fn logs(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let logs = &self.runner.sandbox().logs;
        counter(
            to,
            "function_log_lines",
            "Lines that functions wrote to their logs",
            logs.lines(),
        )?;
        counter(
            to,
            "function_log_lines_lost",
            "Of those, lines that made room for newer ones",
            logs.lost(),
        )
    }

    fn egress(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let stats = self.runner.sandbox().egress.stats();
        counter(
            to,
            "egress_requests",
            "Requests that functions sent to other servers",
            stats.sent(),
        )?;
        gauge(
            to,
            "egress_requests_open",
            "Of those, the ones that are under way",
            stats.open(),
        )?;
        let mut refused = describe(
            to,
            "egress_refused",
            "Requests of functions that did not leave, by what was in their way",
            MetricType::Counter,
        )?;
        for (limit, count) in stats.refused() {
            let labels = RefusedLabels { limit };
            ConstCounter::new(count).encode(refused.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn batches(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let stats = self.inference.stats();
        gauge(
            to,
            "inference_queue_rows",
            "Rows waiting now",
            stats.queued_rows,
        )?;
        let busy = ConstCounter::new(stats.device_busy_ns as f64 / 1e9);
        let metric = describe(
            to,
            "device_busy_seconds",
            "Time devices ran",
            MetricType::Counter,
        )?;
        busy.encode(metric)?;
        counter(
            to,
            "inference_failed_runs",
            "Runs that failed and ran again in parts",
            stats.failed_runs,
        )?;
        counter(
            to,
            "inference_expired",
            "Requests whose deadline passed in the queue",
            stats.expired,
        )?;
        counter(
            to,
            "inference_too_late",
            "Requests not begun because they could not have ended before their deadline",
            stats.too_late,
        )?;
        counter(
            to,
            "inference_preempted",
            "Batches of flex requests that made room for others before they had begun",
            stats.preempted,
        )?;
        counter(
            to,
            "devices_lost",
            "Devices that ended before the node",
            stats.lost_devices,
        )?;
        let mut refused = describe(
            to,
            "inference_refused",
            "Inferences refused, by the limit that was hit",
            MetricType::Counter,
        )?;
        for (limit, count) in &stats.refused {
            let labels = RefusedLabels { limit };
            ConstCounter::new(*count).encode(refused.encode_family(&labels)?)?;
        }
        batch_rows(to, &stats.batch_rows)
    }

    fn process(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .split_whitespace()
                        .next()?
                        .parse()
                        .ok()
                })
                .unwrap_or(0_u64)
        };
        gauge(
            to,
            "process_resident_memory_bytes",
            "Resident memory",
            field("VmRSS:") << 10,
        )?;
        gauge(
            to,
            "process_threads",
            "Threads of the operating system",
            field("Threads:"),
        )?;
        // Since Linux 6.2 the size of this directory is the number of open files; to list it costs milliseconds.
        let files = std::fs::metadata("/proc/self/fd").map_or(0, |files| files.len());
        gauge(to, "process_open_fds", "Open files", files)?;
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu = ConstCounter::new(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9);
        let metric = describe(to, "process_cpu_seconds", "CPU time", MetricType::Counter)?;
        cpu.encode(metric)
    }
}

fn describe<'a>(
    to: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    to.encode_descriptor(name, help, None, kind)
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    ConstGauge::new(value).encode(describe(to, name, help, MetricType::Gauge)?)
}

fn counter(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(describe(to, name, help, MetricType::Counter)?)
}

/// Rows of each batch.
fn batch_rows(to: &mut DescriptorEncoder, batch: &shoal_inference::Histogram) -> fmt::Result {
    let buckets: Vec<(f64, u64)> = batch
        .bounds
        .iter()
        .map(|bound| *bound as f64)
        .chain([f64::MAX])
        .zip(batch.counts.iter().copied().chain([0]))
        .collect();
    let count = batch.counts.iter().sum();
    let mut rows = describe(
        to,
        "batch_rows",
        "Rows of each batch",
        MetricType::Histogram,
    )?;
    rows.encode_histogram::<NoLabelSet>(batch.sum as f64, count, &buckets, None)
}
