//! `dispatch`: what it costs to run a function for a request. The component `hello` in a fresh sandbox each time, on `shoal
//! serve` with all that it does by default (router, admission, metrics, logs, `server-timing`), beside `wasmtime serve` with
//! its defaults, with a pool, and with instances that serve 128 requests each, as ours do where their function's owner wants it
//! (`reuse`); and beside hyper alone, which runs nothing.
//!
//! Closed loops at 1, 8 and 32 connections, three rounds in which the servers take turns; the load is in this process, on the
//! same processors, and asks all of them alike. CPU time is the server's, by the kernel's account, for each right answer.
//! The same in HTTP/2 on 8 connections of 8 streams, beside hyper alone: `wasmtime serve` has none.
//! Then open loops at rising rates: how long answers take below what a server can do.

mod servers;

use super::verdict;
use crate::closed_loop::{Closed, closed_loop};
use crate::machine::load_average;
use crate::node::Home;
use crate::open_loop::OpenLoop;
use crate::plot::{Series, plot};
use crate::samples::Samples;
use anyhow::Context as _;
pub(super) use servers::{Kind, Server, native};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

const CONNECTIONS: [usize; 3] = [1, 8, 32];
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(500);
/// Requests a second of the open loops.
const RATES: [u32; 6] = [250, 500, 1_000, 2_000, 4_000, 6_000];
/// What is to hold.
const TIMES_WASMTIME_MIN: f64 = 3.0;
const TIMES_NATIVE_CPU_MAX: f64 = 7.0;
const TIMES_WASMTIME_REUSED_MIN: f64 = 1.2;
/// Of HTTP/2.
const HTTP2_CONNECTIONS: usize = 8;
const HTTP2_STREAMS: usize = 8;

/// What a server did in all rounds.
#[derive(Debug, Default)]
struct Measured {
    rounds: Vec<Closed>,
    cpu: Duration,
}

impl Measured {
    /// Of the median round.
    fn requests_per_second(&self) -> f64 {
        let all: Samples = self
            .rounds
            .iter()
            .map(Closed::requests_per_second)
            .collect();
        all.percentile(50.0)
    }

    fn cpu_us(&self) -> f64 {
        let answers: usize = self.rounds.iter().map(|round| round.took.len()).sum();
        self.cpu.as_secs_f64() * 1e6 / answers as f64
    }

    fn latency(&self) -> Samples {
        Samples::millis(self.rounds.iter().flat_map(|round| &round.took))
    }
}

pub(super) async fn compare(out: Option<&Path>) -> anyhow::Result<()> {
    println!("load average {}", load_average()?);
    let mut home = Home::new()?;
    let servers = start(&Kind::ALL, &mut home, None).await?;
    for connections in CONNECTIONS {
        let measured = closed(&servers, connections, None).await?;
        let title = format!("{connections} connections");
        print!("{}", table(&title, &measured));
    }
    let streams = Some(HTTP2_STREAMS);
    let http2 = start(&Kind::HTTP2, &mut home, streams).await?;
    let measured = closed(&http2, HTTP2_CONNECTIONS, streams).await?;
    let title = format!("HTTP/2, {HTTP2_CONNECTIONS} connections of {HTTP2_STREAMS} streams");
    print!("{}", table(&title, &measured));
    drop(http2);
    let curves = open(&servers).await?;
    print!("{}", curve_table(&curves));
    if let Some(folder) = out {
        let series: Vec<Series<'_>> = curves
            .iter()
            .map(|(kind, p99)| Series {
                name: kind.name(),
                values: p99.clone(),
            })
            .collect();
        let rates = RATES.map(|rate| rate.to_string()).join(", ");
        let rates = format!("{rates} requests a second");
        let picture = plot("p99 of an open loop", &rates, "ms", &series);
        std::fs::create_dir_all(folder)?;
        let path = folder.join("dispatch.svg");
        std::fs::write(&path, picture).context("writing the plot")?;
        println!("\n{}", path.display());
    }
    Ok(())
}

/// Those that there are, warm.
async fn start(
    kinds: &[Kind],
    home: &mut Home,
    streams: Option<usize>,
) -> anyhow::Result<Vec<(Kind, Server)>> {
    let mut servers = Vec::new();
    for kind in kinds {
        if let Some(server) = Server::start(*kind, home).await? {
            closed_loop(&server.asked(streams), 8, WARM_UP).await?;
            servers.push((*kind, server));
        }
    }
    Ok(servers)
}

async fn closed(
    servers: &[(Kind, Server)],
    connections: usize,
    streams: Option<usize>,
) -> anyhow::Result<Vec<(Kind, Measured)>> {
    let mut measured: Vec<(Kind, Measured)> = servers
        .iter()
        .map(|(kind, _)| (*kind, Measured::default()))
        .collect();
    for _ in 0..ROUNDS {
        for ((_, server), (_, measured)) in servers.iter().zip(&mut measured) {
            let before = server.cpu()?;
            let round = closed_loop(&server.asked(streams), connections, ROUND).await?;
            measured.cpu += server.cpu()?.saturating_sub(before);
            measured.rounds.push(round);
        }
    }
    Ok(measured)
}

/// p99 at each rate, as far as a server answers all that is asked.
async fn open(servers: &[(Kind, Server)]) -> anyhow::Result<Vec<(Kind, Vec<f64>)>> {
    let mut curves = Vec::new();
    for (kind, server) in servers {
        let mut p99 = Vec::new();
        for rate in RATES {
            let open_loop = OpenLoop {
                address: server.address,
                path: server.path.to_owned(),
                answer: "Hello from Shoal\n",
                rate,
            };
            let answers = open_loop.during(ROUND).await?;
            if answers.failed > 0 {
                break;
            }
            p99.push(Samples::millis(&answers.took).percentile(99.0));
        }
        curves.push((*kind, p99));
    }
    Ok(curves)
}

fn table(title: &str, measured: &[(Kind, Measured)]) -> String {
    let of = |wanted| {
        let mut found = measured.iter().filter(|(kind, _)| *kind == wanted);
        found.next().map(|(_, measured)| measured)
    };
    let mut table = format!(
        "\n{title}\n\n| server | requests/s | CPU µs a request | p50 ms | p99 ms |\n|---|---|---|---|---|\n"
    );
    // Writing to a string cannot fail.
    for (kind, measured) in measured {
        let latency = measured.latency();
        let _ = writeln!(
            table,
            "| {} | {:.0} | {:.1} | {:.2} | {:.2} |",
            kind.name(),
            measured.requests_per_second(),
            measured.cpu_us(),
            latency.percentile(50.0),
            latency.percentile(99.0)
        );
    }
    table.push('\n');
    let Some(shoal) = of(Kind::Shoal) else {
        return table;
    };
    if let Some(wasmtime) = of(Kind::Wasmtime) {
        let times = shoal.requests_per_second() / wasmtime.requests_per_second();
        let verdict = verdict(times >= TIMES_WASMTIME_MIN);
        let _ = writeln!(
            table,
            "{times:.2} times the requests/s of wasmtime serve (goal {TIMES_WASMTIME_MIN}): {verdict}"
        );
    }
    if let (Some(ours), Some(theirs)) = (of(Kind::ShoalReused), of(Kind::WasmtimeReused)) {
        let times = ours.requests_per_second() / theirs.requests_per_second();
        let verdict = verdict(times >= TIMES_WASMTIME_REUSED_MIN);
        let _ = writeln!(
            table,
            "with reuse {times:.2} times those of wasmtime serve with reuse (goal {TIMES_WASMTIME_REUSED_MIN}): {verdict}"
        );
    }
    if let Some(native) = of(Kind::Native).or_else(|| of(Kind::NativeHttp2)) {
        let times = shoal.cpu_us() / native.cpu_us();
        let verdict = verdict(times <= TIMES_NATIVE_CPU_MAX);
        let _ = writeln!(
            table,
            "{times:.2} times the CPU of hyper alone (goal {TIMES_NATIVE_CPU_MAX}): {verdict}"
        );
    }
    table
}

fn curve_table(curves: &[(Kind, Vec<f64>)]) -> String {
    let rates = RATES.map(|rate| format!(" {rate}/s |")).concat();
    let mut table = format!("\np99 ms of an open loop\n\n| server |{rates}\n|---|");
    table.push_str(&"---|".repeat(RATES.len()));
    table.push('\n');
    for (kind, p99) in curves {
        let cells = (0..RATES.len()).map(|n| match p99.get(n) {
            Some(ms) => format!(" {ms:.2} |"),
            None => " - |".to_owned(),
        });
        let _ = writeln!(table, "| {} |{}", kind.name(), cells.collect::<String>());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(requests: usize, cpu_ms: u64) -> Measured {
        Measured {
            rounds: vec![Closed {
                took: vec![Duration::from_millis(1); requests],
                wall: Duration::from_secs(1),
            }],
            cpu: Duration::from_millis(cpu_ms),
        }
    }

    #[test]
    fn the_table_compares_with_both_peers() {
        let all = [
            (Kind::Shoal, measured(3_000, 60)),
            (Kind::Wasmtime, measured(1_000, 200)),
            (Kind::Native, measured(10_000, 20)),
        ];
        let text = table("8 connections", &all);
        assert!(
            text.contains("| shoal serve | 3000 | 20.0 | 1.00 | 1.00 |"),
            "{text}"
        );
        assert!(
            text.contains("3.00 times the requests/s of wasmtime serve (goal 3): holds"),
            "{text}"
        );
        assert!(
            text.contains("10.00 times the CPU of hyper alone (goal 7): missed"),
            "{text}"
        );
    }

    #[test]
    fn a_rate_that_was_not_kept_has_no_figure() {
        let text = curve_table(&[(Kind::Native, vec![0.5])]);
        assert!(
            text.contains("| hyper alone | 0.50 | - | - | - | - | - |"),
            "{text}"
        );
    }
}
