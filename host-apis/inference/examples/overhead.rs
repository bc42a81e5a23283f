//! What the platform itself costs for a request to the digits model: CPU time of the whole process, callers included, less
//! the time of the runs.
//!
//! ```text
//! cargo run --release -p shoal-inference --example overhead
//! ```

use rustix::time::{ClockId, clock_gettime};
use shoal_inference::{
    AnyDevice, Class, Config, CpuDevice, Inference, ModelSource, Request, TenantId, Tensor,
    start_thread,
};
use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

const REQUESTS: u64 = 200_000;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let digits = std::fs::read(root.join("../../samples/models/digits/digits.onnx"))?;
    let digits = ModelSource {
        name: "digits".to_owned(),
        onnx: digits.into(),
        tokenizer: None,
        dry_runs: Vec::new(),
    };
    let device = AnyDevice::from(CpuDevice::new(NonZeroUsize::MIN)?);
    let (inference, engine) = Inference::new(Config::default(), vec![device])?;
    let thread = start_thread(engine)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(inference.load(digits))?;
    println!(
        "callers  requests/s  rows a run  run µs  CPU µs a request  less its share of the run"
    );
    for callers in [1, 8, 64, 256, 1024] {
        runtime.block_on(measure(&inference, callers))?;
    }
    drop(inference);
    thread.join().map_err(|_| "the engine panicked")?;
    Ok(())
}

async fn measure(inference: &Inference, callers: u64) -> Result<(), Box<dyn Error>> {
    ask(inference, callers, REQUESTS / 10).await?;
    let (before, cpu_before, began) = (inference.stats(), cpu_time(), Instant::now());
    ask(inference, callers, REQUESTS).await?;
    let (after, cpu, wall) = (inference.stats(), cpu_time() - cpu_before, began.elapsed());
    let runs = (after.runs - before.runs) as f64;
    let rows = (after.rows - before.rows) as f64;
    let device_us = (after.device_busy_ns - before.device_busy_ns) as f64 / 1e3;
    let cpu_us = cpu.as_secs_f64() * 1e6;
    println!(
        "{callers:7}  {:10.0}  {:10.1}  {:6.1}  {:16.2}  {:25.2}",
        rows / wall.as_secs_f64(),
        rows / runs,
        device_us / runs,
        cpu_us / rows,
        (cpu_us - device_us) / rows,
    );
    Ok(())
}

/// So many requests by so many callers, each with one at a time.
async fn ask(inference: &Inference, callers: u64, requests: u64) -> Result<(), Box<dyn Error>> {
    let model = inference.model("digits").ok_or("digits is not loaded")?.id;
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let inference = inference.clone();
        tasks.spawn(async move {
            for _ in 0..requests / callers {
                let request = Request {
                    tenant: TenantId(caller % 7),
                    model,
                    class: Class::Default,
                    deadline: Instant::now() + Duration::from_secs(30),
                    inputs: vec![("image".to_owned(), Tensor::f32(vec![1, 64], &[0.5; 64])?)],
                };
                inference.submit(request).await?;
            }
            Ok::<(), Box<dyn Error + Send + Sync>>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended?.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    let secs = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
    Duration::new(secs, nanos)
}
