//! `shoal demo`: a node with throwaway data, a burst of real requests from three tenants, what batching made of it, and then
//! a node to play with.

mod burst;
mod report;

use crate::sandbox::{Allocator, FunctionSource, Grants};
use crate::store::Data;
use crate::{Access, Config, Listeners, Parts, Ready, Seed, Shutdown, shutdown};
use anyhow::Context as _;
use burst::{Burst, Measured};
use report::{Pair, Report};
use shoal_inference::{
    AnyDevice, Compute, CpuDevice, Inference, ModelSource, SimConfig, SimDevice,
};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

const TENANTS: [&str; 3] = ["acme", "birch", "cedar"];
const DIGITS_ONNX: &[u8] = include_bytes!("../../../../samples/models/digits/digits.onnx");
const HELLO: &[u8] = include_bytes!("../../../../samples/components/hello.wasm");
const ECHO: &[u8] = include_bytes!("../../../../samples/components/echo.wasm");
const DIGITS: &[u8] = include_bytes!("../../../../samples/components/digits.wasm");

/// The simulated accelerator: time of a run, and of each row on top.
const SIM_LAUNCH: Duration = Duration::from_millis(2);
const SIM_PER_ROW: Duration = Duration::from_micros(20);
/// Guests alive at once in the nodes of the demo: four pools are reserved one after the other.
const GUESTS_MAX: u32 = 500;

/// Shows what Shoal does.
#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// Stop after the tables
    #[arg(long)]
    once: bool,
    /// Print one JSON object on one line instead of tables
    #[arg(long)]
    json: bool,
    /// Where to listen; another free port is taken if this one is not
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Requests of each burst
    #[arg(long, default_value_t = 1_500, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    requests: u32,
}

impl Demo {
    pub(super) fn run(self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.listen.ip().is_loopback(),
            "--listen must be a loopback address: the demo asks for no key"
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.show())
    }

    async fn show(self) -> anyhow::Result<()> {
        let mut signals = JoinSet::new();
        let stopped = crate::on_signals(&mut signals)?;
        let began = Instant::now();
        let listener = TcpListener::bind(self.listen)
            .or_else(|_| TcpListener::bind((self.listen.ip(), 0)))
            .context("listening on loopback")?;
        let address = listener.local_addr()?;
        progress(&format!("starting a node on http://{address}"));
        // The nodes share what the first of them compiles.
        let temporary = tempfile::tempdir().context("making a directory for compiled code")?;
        let compiled = temporary.path().join("code");
        let main = Node::new(Kind::Cpu, true, all_functions(), &compiled);
        let (ready, is_ready) = oneshot::channel();
        let (own, stop) = shutdown();
        let (running, ended) = oneshot::channel::<()>();
        let node = async {
            let served = serve(main, listener, stop, ready).await;
            drop(running);
            served
        };
        let show = async {
            let inference = is_ready.await.context("the node did not start")?;
            progress(&format!(
                "ready after {:.1} s",
                began.elapsed().as_secs_f64()
            ));
            let burst = Burst::new(TENANTS, self.requests)?;
            let report = measure(&burst, address, &inference, &compiled).await?;
            self.print(&report)?;
            if !self.once {
                print!("{}", report::try_these(address));
                std::future::pending::<()>().await;
            }
            anyhow::Ok(())
        };
        let (mut drain, mut insist) = (stopped.clone(), stopped);
        let demo = async {
            // The first signal ends whatever is going on, the second the drain.
            let shown = tokio::select! {
                shown = show => shown,
                () = drain.draining() => Ok(()),
            };
            own.again();
            tokio::select! {
                _ = ended => {}
                () = insist.stopping() => own.stop(),
            }
            shown
        };
        let (served, shown) = tokio::join!(node, demo);
        served.and(shown)
    }

    fn print(&self, report: &Report) -> anyhow::Result<()> {
        if self.json {
            println!("{}", report.json()?);
        } else {
            print!("{}", report.tables());
        }
        report.check()
    }
}

/// The same burst four times: on this CPU and on the simulated accelerator, with and without batching.
async fn measure(
    burst: &Burst,
    address: SocketAddr,
    inference: &Inference,
    compiled: &Path,
) -> anyhow::Result<Report> {
    progress("burst on this CPU, batching on");
    let batched = burst.run(address, inference).await?;
    progress("burst on this CPU, batching off");
    let unbatched = on_own_node(burst, Kind::Cpu, false, compiled).await?;
    let cpu = Pair { batched, unbatched };
    progress("burst on a simulated accelerator, batching on");
    let batched = on_own_node(burst, Kind::Simulated, true, compiled).await?;
    progress("burst on a simulated accelerator, batching off");
    let unbatched = on_own_node(burst, Kind::Simulated, false, compiled).await?;
    Ok(Report {
        tenants: TENANTS.len(),
        cpu,
        simulated: Pair { batched, unbatched },
    })
}

/// Starts a node for one burst, with the one function that the burst calls.
async fn on_own_node(
    burst: &Burst,
    kind: Kind,
    batching: bool,
    compiled: &Path,
) -> anyhow::Result<Measured> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let (ready, is_ready) = oneshot::channel();
    let (own, stop) = shutdown();
    let node = serve(
        Node::new(kind, batching, functions("digits", DIGITS), compiled),
        listener,
        stop,
        ready,
    );
    let measured = async {
        let inference = is_ready.await.context("the node did not start")?;
        let measured = burst.run(address, &inference).await?;
        drop((inference, own));
        Ok(measured)
    };
    let ((), measured) = tokio::try_join!(node, measured)?;
    Ok(measured)
}

#[derive(Clone, Copy)]
enum Kind {
    Cpu,
    Simulated,
}

/// What differs between the nodes of the demo.
struct Node {
    kind: Kind,
    config: Config,
    functions: Vec<FunctionSource>,
    /// Where all nodes of the demo keep compiled code: their tenants are the same.
    compiled: PathBuf,
}

impl Node {
    fn new(kind: Kind, batching: bool, functions: Vec<FunctionSource>, compiled: &Path) -> Self {
        let mut config = Config {
            guests_max: GUESTS_MAX,
            shutdown_grace: Duration::from_secs(5),
            ..Config::default()
        };
        if !batching {
            config.inference.rows_max = 1;
        }
        Self {
            kind,
            config,
            functions,
            compiled: compiled.to_owned(),
        }
    }

    fn device(&self) -> anyhow::Result<AnyDevice> {
        Ok(match self.kind {
            Kind::Cpu => CpuDevice::new(CpuDevice::threads_default())?.into(),
            Kind::Simulated => SimDevice::new(SimConfig {
                name: "simulated".to_owned(),
                launch: SIM_LAUNCH,
                per_row: SIM_PER_ROW,
                depth: 2,
                memory_bytes: None,
                compute: Compute::Onnx,
                faults: Vec::new(),
            })
            .into(),
        })
    }
}

async fn serve(
    node: Node,
    listener: TcpListener,
    stop: Shutdown,
    ready: oneshot::Sender<Inference>,
) -> anyhow::Result<()> {
    let parts = Parts {
        devices: vec![node.device()?],
        config: node.config,
        listeners: Listeners::one(listener),
        data: Data::in_memory()?.with_code(node.compiled),
        access: Access::Open,
        new_admin_key: false,
        seed: Seed {
            models: vec![ModelSource {
                name: "digits".to_owned(),
                onnx: Arc::from(DIGITS_ONNX),
                tokenizer: None,
                dry_runs: Vec::new(),
            }],
            functions: node.functions,
        },
    };
    crate::run(parts, stop, |node: Ready<'_>| {
        if let Allocator::OnDemand { why } = node.allocator {
            // All nodes of the demo are alike.
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                progress(&format!(
                    "instances are made on demand, without a pool: {why}"
                ))
            });
        }
        // The demo may have been stopped meanwhile.
        let _ = ready.send(node.inference.clone());
    })
    .await
}

fn all_functions() -> Vec<FunctionSource> {
    [("hello", HELLO), ("echo", ECHO), ("digits", DIGITS)]
        .into_iter()
        .flat_map(|(name, wasm)| functions(name, wasm))
        .collect()
}

/// One function for each tenant.
fn functions(name: &str, wasm: &[u8]) -> Vec<FunctionSource> {
    let wasm: Arc<[u8]> = Arc::from(wasm);
    TENANTS
        .map(|tenant| FunctionSource {
            project: tenant.to_owned(),
            name: name.to_owned(),
            wasm: wasm.clone(),
            grants: Grants {
                models: BTreeSet::from(["digits".to_owned()]),
                ..Grants::default()
            },
        })
        .into()
}

/// Progress goes to stderr: stdout is for the result.
fn progress(what: &str) {
    eprintln!("shoal: {what}");
}
