//! What the demo prints: two labelled tables that are never mixed, or one JSON object, and what to try next.

use super::burst::Measured;
use serde::Serialize;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// The same burst with and without batching.
pub(super) struct Pair {
    pub(super) batched: Measured,
    pub(super) unbatched: Measured,
}

/// All that was measured.
pub(super) struct Report {
    pub(super) tenants: usize,
    /// On this machine's processor.
    pub(super) cpu: Pair,
    /// On the simulated accelerator.
    pub(super) simulated: Pair,
}

#[derive(Serialize)]
struct Json {
    requests: u32,
    errors: u32,
    tenants: usize,
    cpu: JsonPair,
    simulated: JsonPair,
}

#[derive(Serialize)]
struct JsonPair {
    rps: f64,
    p50_ms: f64,
    p99_ms: f64,
    rows_mean: f64,
    device_us_per_row: f64,
    unbatched_rps: f64,
    unbatched_device_us_per_row: f64,
}

impl Report {
    /// One object on one line.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        let all = self.all();
        serde_json::to_string(&Json {
            requests: all.iter().map(|m| m.requests).sum(),
            errors: all.iter().map(|m| m.errors).sum(),
            tenants: self.tenants,
            cpu: JsonPair::of(&self.cpu),
            simulated: JsonPair::of(&self.simulated),
        })
    }

    /// Two tables.
    pub(super) fn tables(&self) -> String {
        let cpu = table(
            "This CPU: the digits model on this machine's processor",
            &self.cpu,
        );
        let simulated = table(
            "Simulated accelerator: the same load, 2 ms a run + 20 µs a row",
            &self.simulated,
        );
        format!("\n{cpu}\n{simulated}\n")
    }

    /// Fails if any request failed: the figures would mean nothing.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let errors: u32 = self.all().iter().map(|m| m.errors).sum();
        anyhow::ensure!(
            errors == 0,
            "{errors} requests failed or were answered wrongly"
        );
        Ok(())
    }

    fn all(&self) -> [&Measured; 4] {
        [
            &self.cpu.batched,
            &self.cpu.unbatched,
            &self.simulated.batched,
            &self.simulated.unbatched,
        ]
    }
}

impl JsonPair {
    fn of(pair: &Pair) -> Self {
        let Pair { batched, unbatched } = pair;
        Self {
            rps: rounded(rps(batched)),
            p50_ms: rounded(percentile_ms(batched, 50)),
            p99_ms: rounded(percentile_ms(batched, 99)),
            rows_mean: rounded(rows_mean(batched)),
            device_us_per_row: rounded(device_us_per_row(batched)),
            unbatched_rps: rounded(rps(unbatched)),
            unbatched_device_us_per_row: rounded(device_us_per_row(unbatched)),
        }
    }
}

/// A row's label and how its figure is computed and shown.
type Row = (&'static str, fn(&Measured) -> String);

const ROWS: [Row; 7] = [
    ("requests", |m| m.requests.to_string()),
    ("errors", |m| m.errors.to_string()),
    ("p50, p99 ms", |m| {
        let (p50, p99) = (percentile_ms(m, 50), percentile_ms(m, 99));
        format!("{p50:.1}, {p99:.1}")
    }),
    ("requests/s", |m| format!("{:.0}", rps(m))),
    ("mean rows per batch", |m| format!("{:.1}", rows_mean(m))),
    ("device µs per row", |m| {
        format!("{:.1}", device_us_per_row(m))
    }),
    ("batches", |m| m.runs.to_string()),
];

fn table(title: &str, pair: &Pair) -> String {
    let mut text = format!(
        "{title}\n  {:<22}{:>16}{:>16}\n",
        "", "batching on", "batching off"
    );
    for (label, show) in ROWS {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {label:<22}{:>16}{:>16}",
            show(&pair.batched),
            show(&pair.unbatched)
        );
    }
    text
}

/// Lines to paste.
pub(super) fn try_these(address: SocketAddr) -> String {
    let image: Vec<String> = SEVEN.iter().map(|row| format!("[{row}]")).collect();
    format!(
        "Serving on http://{address} until Ctrl-C. Try:\n\n  \
         curl http://{address}/f/acme/hello/\n  \
         curl -i --data 'same again' http://{address}/f/birch/echo/any/path\n  \
         curl -i -H 'content-type: application/json' http://{address}/f/cedar/digits/ --data '{{\"image\": [{}]}}'\n  \
         curl http://{address}/metrics\n",
        image.join(",")
    )
}

/// A seven, as the digits sample reads it.
const SEVEN: [&str; 8] = [
    "0,0,0.4,1,1,1,0.8,0",
    "0,0,0.5,0.6,0.5,0.9,0.9,0",
    "0,0,0,0,0.2,1,0.4,0",
    "0,0,0.2,0.5,0.8,1,0.3,0",
    "0,0.2,1,1,1,0.9,0.4,0",
    "0,0,0.2,0.5,1,0.2,0,0",
    "0,0,0,0.9,0.8,0,0,0",
    "0,0,0.4,1,0.2,0,0,0",
];

fn rps(m: &Measured) -> f64 {
    f64::from(m.requests - m.errors) / m.wall.as_secs_f64()
}

fn rows_mean(m: &Measured) -> f64 {
    m.rows as f64 / m.runs.max(1) as f64
}

fn device_us_per_row(m: &Measured) -> f64 {
    m.device_ns as f64 / 1_000.0 / m.rows.max(1) as f64
}

/// The smallest latency that `percent` of the requests did not exceed.
fn percentile_ms(m: &Measured, percent: usize) -> f64 {
    let at = (m.latencies.len() * percent)
        .div_ceil(100)
        .saturating_sub(1);
    m.latencies
        .get(at)
        .map_or(f64::NAN, |latency: &Duration| latency.as_secs_f64() * 1e3)
}

/// Two decimals: more would be noise.
fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(latencies_ms: impl IntoIterator<Item = u64>) -> Measured {
        let latencies: Vec<_> = latencies_ms
            .into_iter()
            .map(Duration::from_millis)
            .collect();
        Measured {
            requests: latencies.len() as u32,
            errors: 0,
            wall: Duration::from_secs(2),
            latencies,
            rows: 100,
            runs: 20,
            device_ns: 5_000_000,
        }
    }

    #[test]
    fn figures_are_what_their_names_say() {
        let m = measured(1..=100);
        assert_eq!(rps(&m), 50.0);
        assert_eq!(rows_mean(&m), 5.0);
        assert_eq!(device_us_per_row(&m), 50.0);
        assert_eq!(percentile_ms(&m, 50), 50.0);
        assert_eq!(percentile_ms(&m, 99), 99.0);
        assert_eq!(percentile_ms(&measured([7]), 99), 7.0);
    }

    #[test]
    fn a_failed_request_fails_the_demo() {
        let pair = || Pair {
            batched: measured(1..=100),
            unbatched: measured(1..=100),
        };
        let mut report = Report {
            tenants: 3,
            cpu: pair(),
            simulated: pair(),
        };
        assert!(report.check().is_ok());
        report.simulated.unbatched.errors = 1;
        assert!(report.check().is_err());
    }
}
