//! `batch-gain`: what batches give, by how many ask at once, beside a batcher that makes none and one with a fixed window: 32
//! rows or 5 ms, whichever comes first, the usual setting of a serving system. Callers in this process, each of whom asks again
//! as soon as it has its answer. A simulated device (2 ms a run and 20 µs a row), and MiniLM on this processor
//! (`samples/models/minilm/make.sh`). Real time, the three in turns.

mod window;

use super::batching::engine::Engine;
use super::batching::rows::Rows;
use super::verdict;
use crate::machine::load_average;
use crate::plot::{Series, plot};
use crate::samples::Samples;
use crate::simulated::simulated;
use anyhow::Context as _;
use shoal_inference::{AnyDevice, Compute, CpuDevice, NamedTensor};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use window::Window;

const ROWS_MAX: u32 = 32;
const LAUNCH: Duration = Duration::from_millis(2);
const PER_ROW: Duration = Duration::from_micros(20);
const CALLERS: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
const MINILM_CALLERS: [usize; 5] = [1, 4, 16, 64, 256];
const TOKENS: u32 = 32;
const ROUND: Duration = Duration::from_millis(1_000);
const MINILM_ROUND: Duration = Duration::from_secs(4);
const TENANTS: u64 = 4;
/// What is to hold.
const LOST_MAX: f64 = 0.03;

pub(super) async fn compare(out: Option<&Path>) -> anyhow::Result<()> {
    println!("load average {}\n", load_average()?);
    let digits = Rows::digits()?;
    let accelerator = || {
        let compute = Compute::Echo(digits.spec());
        Ok(AnyDevice::from(simulated(LAUNCH, PER_ROW, compute)))
    };
    let measured = gain("simulated", &digits, &accelerator, &CALLERS, ROUND).await?;
    if let Some(folder) = out {
        draw(folder, "batch-gain", &measured)?;
    }
    let minilm =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/models/minilm/model/model.onnx");
    if !minilm.is_file() {
        eprintln!("batch-gain: no MiniLM, left out: run samples/models/minilm/make.sh");
        return Ok(());
    }
    let rows = Rows::minilm(&minilm, TOKENS)?;
    let cpu = || Ok(AnyDevice::from(CpuDevice::new(NonZeroUsize::MIN)?));
    let measured = gain("minilm", &rows, &cpu, &MINILM_CALLERS, MINILM_ROUND).await?;
    if let Some(folder) = out {
        draw(folder, "batch-gain-minilm", &measured)?;
    }
    Ok(())
}

/// Rows a second and the median time of a request.
#[derive(Clone, Copy, Debug)]
struct Point {
    rate: f64,
    p50_ms: f64,
}

/// One line of the table: ours, without batches, with a window.
struct Line {
    callers: usize,
    points: [Point; 3],
}

const NAMES: [&str; 3] = ["shoal", "batches of 1", "window of 5 ms, 32 rows"];

async fn gain(
    name: &str,
    rows: &Rows,
    device: &dyn Fn() -> anyhow::Result<AnyDevice>,
    callers: &[usize],
    round: Duration,
) -> anyhow::Result<Vec<Line>> {
    let batchers = [
        Batcher::Engine(Engine::start(device()?, ROWS_MAX, rows).await?),
        Batcher::Engine(Engine::start(device()?, 1, rows).await?),
        Batcher::Window(Window::start(device()?, ROWS_MAX, rows).await?),
    ];
    println!(
        "| {name}: callers | {} rows/s, p50 ms | {} | {} |\n|---|---|---|---|",
        NAMES[0], NAMES[1], NAMES[2]
    );
    let requests: Arc<[Vec<NamedTensor>]> = (0..256)
        .map(|n| rows.request(n))
        .collect::<Result<_, _>>()?;
    let mut lines = Vec::new();
    for callers in callers {
        let mut points = Vec::new();
        for batcher in &batchers {
            call(batcher, &requests, *callers, round / 4).await?;
            points.push(call(batcher, &requests, *callers, round).await?);
        }
        let cell = |point: &Point| format!("{:.0}, {:.2}", point.rate, point.p50_ms);
        let cells: Vec<String> = points.iter().map(cell).collect();
        println!("| {callers} | {} |", cells.join(" | "));
        let points = points.try_into().ok().context("three were measured")?;
        lines.push(Line {
            callers: *callers,
            points,
        });
    }
    judge(name, &lines);
    Ok(lines)
}

fn judge(name: &str, lines: &[Line]) {
    let against = |other: usize| {
        let ratio = |line: &Line| line.points[0].rate / line.points[other].rate;
        lines.iter().map(ratio).fold(f64::INFINITY, f64::min)
    };
    println!();
    for (other, peer) in NAMES.iter().enumerate().skip(1) {
        let least = against(other);
        println!(
            "{name}: at least {least:.2} times the rows/s of {peer} (goal {}): {}",
            1.0 - LOST_MAX,
            verdict(least >= 1.0 - LOST_MAX)
        );
    }
    if let Some(alone) = lines.iter().find(|line| line.callers == 1) {
        let [ours, _, window] = alone.points;
        println!(
            "{name}: one caller waits {:.2} ms, with the window {:.2} ms: {}\n",
            ours.p50_ms,
            window.p50_ms,
            verdict(ours.p50_ms < window.p50_ms)
        );
    }
}

/// Who makes batches.
#[derive(Clone)]
enum Batcher {
    Engine(Engine),
    Window(Window),
}

impl Batcher {
    /// One row, for one of the tenants.
    async fn ask(&self, tenant: u64, inputs: Vec<NamedTensor>) -> anyhow::Result<()> {
        match self {
            Self::Engine(engine) => {
                engine.ask(tenant, inputs).await?;
                Ok(())
            }
            Self::Window(window) => window.ask(inputs).await,
        }
    }
}

async fn call(
    batcher: &Batcher,
    requests: &Arc<[Vec<NamedTensor>]>,
    callers: usize,
    time: Duration,
) -> anyhow::Result<Point> {
    let (began, mut calling) = (Instant::now(), JoinSet::new());
    for caller in 0..callers {
        let requests = requests.clone();
        let batcher = batcher.clone();
        calling.spawn(async move {
            let mut took = Vec::new();
            for inputs in requests.iter().cycle().skip(caller) {
                let at = Instant::now();
                if at - began >= time {
                    break;
                }
                batcher.ask(caller as u64 % TENANTS, inputs.clone()).await?;
                took.push(at.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    let mut took = Vec::new();
    while let Some(called) = calling.join_next().await {
        took.extend(called??);
    }
    let wall = began.elapsed();
    let samples = Samples::millis(&took);
    Ok(Point {
        rate: samples.len() as f64 / wall.as_secs_f64(),
        p50_ms: samples.percentile(50.0),
    })
}

fn draw(folder: &Path, name: &str, lines: &[Line]) -> anyhow::Result<()> {
    let series = NAMES.iter().enumerate().map(|(at, name)| Series {
        name,
        values: lines.iter().map(|line| line.points[at].rate).collect(),
    });
    let series: Vec<Series<'_>> = series.collect();
    let callers: Vec<String> = lines.iter().map(|line| line.callers.to_string()).collect();
    let picture = plot(
        "rows a second, by how many ask at once",
        &format!("{} callers", callers.join(", ")),
        "rows/s",
        &series,
    );
    std::fs::create_dir_all(folder)?;
    let path = folder.join(format!("{name}.svg"));
    std::fs::write(&path, picture).context("writing the plot")?;
    println!("{}\n", path.display());
    Ok(())
}
