//! `first-request`: what the first request to a function costs on a node that has just started, beside the second. The
//! function was deployed before the start, so its code is on disk, compiled; nothing of it is in the node's memory. Its
//! component has about 100 KB. To be under 5 ms at the client (median of 20 starts).
//!
//! The client's connection is open before the first request, and what is timed is from the request until the whole answer.
//! Beside wall time stands the CPU time of the node, all threads, and of the guest, from the answer's `server-timing`. The
//! parts of the first request that the second does not have are measured apart, in this process and on the same files: reading
//! and checking the code (`CodeCache::load`), and mapping and linking it (the rest of `Components::ready`).
//!
//! There is no peer for it: what keeps compiled code of many tenants on disk, and maps it when somebody calls, is what a node
//! is. The files are in the machine's memory, as on a node that was restarted, not on a machine that was.

use crate::exchange::Exchange;
use crate::greetings::Greeting;
use crate::machine::load_average;
use crate::node::{Home, Served};
use crate::plot::{Series, plot};
use crate::samples::Samples;
use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use shoal::Config;
use shoal::sandbox::{CodeCache, CodeKey, Components, Loaded, Sandbox};
use shoal::store::Digest;
use shoal_inference::TenantId;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const STARTS: usize = 20;
const FIRST_MS_MAX: f64 = 5.0;
const GREETING: Greeting = Greeting(0);
const PATH: &str = "/f/acme/greeting/";

/// One request.
#[derive(Clone, Copy, Debug)]
struct Request {
    wall: Duration,
    /// Of the node.
    cpu: Duration,
    guest_ms: f64,
}

/// The parts of bringing a component.
#[derive(Clone, Copy, Debug)]
struct Parts {
    load: Duration,
    map: Duration,
}

pub(super) async fn compare(out: Option<&Path>) -> anyhow::Result<()> {
    println!("load average {}", load_average()?);
    let mut home = Home::new()?;
    let node = home.start().await?;
    let mut admin = node.admin().await?;
    let project = admin.make_project("acme").await?;
    let wasm = GREETING.wasm()?;
    admin.deploy("acme", "greeting", wasm.clone()).await?;
    node.stop().await?;
    let key = (tenant(&project.id)?, Digest::of(&wasm).into());
    let config = Config::default();
    let sandbox = Arc::new(Sandbox::new(&config)?);
    let (mut first, mut second, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for start in 0..STARTS {
        let node = home.start().await?;
        let mut exchange = Exchange::open(node.functions()).await?;
        first.push(request(&node, &mut exchange).await?);
        second.push(request(&node, &mut exchange).await?);
        node.stop().await?;
        let cache = CodeCache::open(&home.data().join("code"), sandbox.engine())?;
        parts.push(bring(&sandbox, &config, cache, key).await?);
        eprintln!(
            "first-request: start {start}: {:.2?}, then {:.2?}",
            first[start].wall, second[start].wall
        );
    }
    print!("{}", table(&first, &second, &parts));
    if let Some(folder) = out {
        let series = [("first", &first), ("second", &second)];
        let series = series.map(|(name, requests)| Series {
            name,
            values: requests.iter().map(|r| millis(r.wall)).collect(),
        });
        let picture = plot("request after a start of the node", "start", "ms", &series);
        std::fs::create_dir_all(folder)?;
        let path = folder.join("first-request.svg");
        std::fs::write(&path, picture).context("writing the plot")?;
        println!("\n{}", path.display());
    }
    Ok(())
}

/// From the id that the admin API gives a project.
fn tenant(project: &str) -> anyhow::Result<TenantId> {
    let digits = project.strip_prefix("proj_").context("a project's id")?;
    Ok(TenantId(u64::from_str_radix(digits, 16)?))
}

async fn request(node: &Served, exchange: &mut Exchange) -> anyhow::Result<Request> {
    let request = exchange.request(Method::GET, PATH, None, Bytes::new())?;
    let before = node.cpu(|_| true)?;
    let began = Instant::now();
    let reply = exchange.send(request).await?;
    let wall = began.elapsed();
    let cpu = node.cpu(|_| true)?.saturating_sub(before);
    anyhow::ensure!(reply.body == GREETING.text(), "answered {reply:?}");
    let timing = reply.header("server-timing").and_then(guest_ms);
    Ok(Request {
        wall,
        cpu,
        guest_ms: timing.context("the answer does not say what its guest took")?,
    })
}

/// The guest's CPU time in a `server-timing`.
fn guest_ms(timing: &str) -> Option<f64> {
    let mut entries = timing.split(", ");
    entries
        .find_map(|entry| entry.strip_prefix("guest;dur="))?
        .parse()
        .ok()
}

/// Brings a component as a node that has not mapped it does.
async fn bring(
    sandbox: &Arc<Sandbox>,
    config: &Config,
    cache: CodeCache,
    key: CodeKey,
) -> anyhow::Result<Parts> {
    let began = Instant::now();
    let loaded = cache.load(key)?;
    let load = began.elapsed();
    anyhow::ensure!(
        matches!(loaded, Loaded::Code(_)),
        "the node left no code: {loaded:?}"
    );
    drop(loaded);
    let components = Components::new(sandbox.clone(), config, cache);
    let began = Instant::now();
    let compiled = async { anyhow::bail!("the node left no code") };
    let ready = components.ready(key.0, key.1, compiled).await?;
    let map = began.elapsed().saturating_sub(load);
    drop(ready);
    Ok(Parts { load, map })
}

fn millis(of: Duration) -> f64 {
    of.as_secs_f64() * 1e3
}

fn table(first: &[Request], second: &[Request], parts: &[Parts]) -> String {
    fn row<T>(name: &str, of: &[T], value: impl Fn(&T) -> f64) -> String {
        let samples: Samples = of.iter().map(value).collect();
        let [median, p90, max] = [50.0, 90.0, 100.0].map(|percent| samples.percentile(percent));
        format!("| {name} | {median:.2} | {p90:.2} | {max:.2} |\n")
    }
    let wall: Samples = first.iter().map(|request| millis(request.wall)).collect();
    let median = wall.percentile(50.0);
    let verdict = if median <= FIRST_MS_MAX {
        "holds"
    } else {
        "missed"
    };
    [
        format!("{} starts, ms\n\n", wall.len()),
        "| | median | p90 | most |\n|---|---|---|---|\n".to_owned(),
        row("first request, wall time", first, |r| millis(r.wall)),
        row("second request, wall time", second, |r| millis(r.wall)),
        row("first request, CPU time of the node", first, |r| {
            millis(r.cpu)
        }),
        row("second request, CPU time of the node", second, |r| {
            millis(r.cpu)
        }),
        row("first request, CPU time of the guest", first, |r| {
            r.guest_ms
        }),
        row("second request, CPU time of the guest", second, |r| {
            r.guest_ms
        }),
        row("reading and checking the code", parts, |p| millis(p.load)),
        row("mapping and linking it", parts, |p| millis(p.map)),
        format!("\nfirst request at most {FIRST_MS_MAX} ms (median): {verdict}\n"),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_time_is_taken_from_the_answer() {
        assert_eq!(guest_ms("queue;dur=0.000, guest;dur=1.250"), Some(1.25));
        assert_eq!(guest_ms("queue;dur=0.000"), None);
    }

    #[test]
    fn a_tenant_is_read_from_its_projects_id() {
        assert_eq!(tenant("proj_00000000000000ff").unwrap(), TenantId(255));
        assert!(tenant("acme").is_err());
    }

    #[test]
    fn the_table_says_whether_the_median_holds() {
        let request = |ms| Request {
            wall: Duration::from_millis(ms),
            cpu: Duration::from_millis(1),
            guest_ms: 0.5,
        };
        for (ms, verdict) in [(5, "holds"), (6, "missed")] {
            let first = [request(1), request(ms), request(ms)];
            let parts = Parts {
                load: Duration::from_millis(2),
                map: Duration::from_millis(1),
            };
            let table = table(&first, &[request(1)], &[parts]);
            assert!(
                table.ends_with(&format!("(median): {verdict}\n")),
                "{table}"
            );
            let line = format!("| first request, wall time | {ms}.00 | {ms}.00 | {ms}.00 |");
            assert!(table.contains(&line), "{table}");
        }
    }
}
