//! `batching`: what it costs that callers share batches.
//!
//! Models on this processor, beside the same engine (rten) called directly with batches of the size that was reached: rows for
//! each second of CPU time, that of the callers counted. MiniLM with 32 tokens a row (`samples/models/minilm/make.sh`) and the
//! bundled digits, whose runs are so short that nearly all is overhead. Then a simulated device, 2 ms a run and 20 µs a row,
//! beside what it could do if no moment of it were idle: with callers in this process, and through HTTP and guests.

mod direct;
pub(super) mod engine;
pub(super) mod rows;

use super::verdict;
use crate::closed_loop::{Asked, closed_loop};
use crate::digits::Pictures;
use crate::machine::load_average;
use crate::node::{DeviceSpec, Node, Spec, cpu_of};
use crate::simulated::simulated;
use engine::{Engine, Through};
use rows::Rows;
use shoal_inference::{AnyDevice, Compute, CpuDevice};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(4);
const WARM_UP: Duration = Duration::from_millis(500);
const ROWS_MAX: u32 = 32;
const TOKENS: u32 = 32;
const CALLERS: usize = 64;
/// The simulated device, and callers enough for the run that is under way and the next.
const LAUNCH: Duration = Duration::from_millis(2);
const PER_ROW: Duration = Duration::from_micros(20);
const SIM_CALLERS: usize = 128;
const CONNECTIONS: usize = 64;
/// What is to hold.
const SHARE_MIN: f64 = 0.85;
const OVERHEAD_US_MAX: f64 = 10.0;
const REQUESTS_MIN: f64 = 8_000.0;

pub(super) async fn compare() -> anyhow::Result<()> {
    println!("load average {}\n", load_average()?);
    println!(
        "| model | callers | rows a batch | rows/s | CPU µs a row | of it callers' threads | direct, CPU µs a row | difference |\n|---|---|---|---|---|---|---|---|"
    );
    let minilm =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/models/minilm/model/model.onnx");
    let mut verdicts = Vec::new();
    if minilm.is_file() {
        let compared = beside_direct(&Rows::minilm(&minilm, TOKENS)?, CALLERS).await?;
        let share = compared.direct_us / compared.through_us;
        verdicts.push(format!(
            "minilm: {:.1} % of the engine called directly, for each CPU-second (goal {:.0} %): {}",
            100.0 * share,
            100.0 * SHARE_MIN,
            verdict(share >= SHARE_MIN)
        ));
    } else {
        eprintln!("batching: no MiniLM, left out: run samples/models/minilm/make.sh");
    }
    let digits = Rows::digits()?;
    for callers in [1, CALLERS] {
        let compared = beside_direct(&digits, callers).await?;
        let overhead = compared.through_us - compared.direct_us;
        verdicts.push(format!(
            "digits, {callers} at once: {overhead:.1} µs of CPU a request beyond the run (goal {OVERHEAD_US_MAX}): {}",
            verdict(overhead <= OVERHEAD_US_MAX)
        ));
    }
    println!("\n{}\n", verdicts.join("\n"));
    in_process(&digits).await?;
    through_http().await
}

/// CPU time of one row.
struct Compared {
    through_us: f64,
    direct_us: f64,
}

/// The same rows through the scheduler and directly, in turns.
async fn beside_direct(rows: &Rows, callers: usize) -> anyhow::Result<Compared> {
    let device = CpuDevice::new(NonZeroUsize::MIN)?;
    let engine = Engine::start(device.into(), ROWS_MAX, rows).await?;
    let direct = direct::Model::load(rows)?;
    let mut through = engine.call(rows, callers, WARM_UP).await?;
    direct.run(rows, through.batch_rows(), WARM_UP)?;
    let (mut called, mut direct_us) = (Through::default(), Vec::new());
    for _ in 0..ROUNDS {
        through = engine.call(rows, callers, ROUND).await?;
        direct_us.push(direct.run(rows, through.batch_rows(), ROUND)?);
        called += through;
    }
    direct_us.sort_by(f64::total_cmp);
    let compared = Compared {
        through_us: called.cpu_us(),
        direct_us: direct_us[ROUNDS / 2],
    };
    println!(
        "| {} | {callers} | {} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} |",
        rows.model,
        called.batch_rows(),
        called.rows_per_second(),
        compared.through_us,
        called.callers_cpu_us(),
        compared.direct_us,
        compared.through_us - compared.direct_us
    );
    Ok(compared)
}

/// What the simulated device does for callers in this process.
async fn in_process(rows: &Rows) -> anyhow::Result<()> {
    let device = simulated(LAUNCH, PER_ROW, Compute::Echo(rows.spec()));
    let engine = Engine::start(AnyDevice::from(device), ROWS_MAX, rows).await?;
    engine.call(rows, SIM_CALLERS, WARM_UP).await?;
    let mut called = Through::default();
    for _ in 0..ROUNDS {
        called += engine.call(rows, SIM_CALLERS, ROUND).await?;
    }
    let ideal = f64::from(ROWS_MAX) / (LAUNCH + ROWS_MAX * PER_ROW).as_secs_f64();
    let share = called.rows_per_second() / ideal;
    println!(
        "simulated device, {SIM_CALLERS} callers in this process: {:.0} rows/s of {ideal:.0}, {:.1} % (goal {:.0} %), {} rows a batch: {}",
        called.rows_per_second(),
        100.0 * share,
        100.0 * SHARE_MIN,
        called.batch_rows(),
        verdict(share >= SHARE_MIN)
    );
    Ok(())
}

/// The same device behind a node: each request a guest that reads JSON, calls the model and writes JSON.
async fn through_http() -> anyhow::Result<()> {
    let spec = Spec {
        socket_threads: 2,
        background_threads: 1,
        guests_max: 2 * CONNECTIONS as u32,
        tenants: 4,
        rows_max: ROWS_MAX,
        device: DeviceSpec::Simulated {
            launch: LAUNCH,
            per_row: PER_ROW,
        },
    };
    let node = Node::start(&spec).await?;
    let asked = Asked {
        address: node.address(),
        paths: node.paths("digits"),
        questions: Pictures::read()?.pick(1_000, 1).into(),
        streams: None,
    };
    closed_loop(&asked, CONNECTIONS, WARM_UP).await?;
    let (mut answers, mut wall, mut cpu) = (0, Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        let before = cpu_of(node.pid()?, |_| true)?;
        let round = closed_loop(&asked, CONNECTIONS, ROUND).await?;
        cpu += cpu_of(node.pid()?, |_| true)?.saturating_sub(before);
        answers += round.took.len();
        wall += round.wall;
    }
    let requests = answers as f64 / wall.as_secs_f64();
    println!(
        "the same through HTTP and guests, {CONNECTIONS} connections, 2 socket threads: {requests:.0} requests/s (goal {REQUESTS_MIN}), {:.1} µs of the node's CPU each: {}",
        cpu.as_secs_f64() * 1e6 / answers as f64,
        verdict(requests >= REQUESTS_MIN)
    );
    node.stop().await
}
