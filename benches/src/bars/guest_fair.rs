//! `guest-fair`: 200 guests of one tenant that compute without end. Beside them another tenant's function answers an open loop
//! of 500 requests a second, all of them, and their p99 is at most 5 ms above what it is without the 200.
//!
//! The load is on the same processors as the node: what it waits for one is in both figures.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::exchange::Exchange;
use crate::machine::{judge_timed, load_average};
use crate::node::{Admin, Home};
use crate::open_loop::{Answers, OpenLoop};
use crate::samples::Samples;
use bytes::Bytes;
use http::Method;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const PROBE: &[u8] = include_bytes!("../../../samples/components/probe.wasm");
const HELLO: &[u8] = include_bytes!("../../../samples/components/hello.wasm");
const SPINNERS: usize = 200;
const RATE: u32 = 500;
const MORE_MS_MAX: f64 = 5.0;
/// Longest wait until all spinners are there.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let load = load_average()?;
    let (rounds, length) = if run.quick { (1, 3) } else { (3, 10) };
    let length = Duration::from_secs(length);
    let mut home = Home::with(&[
        ("SHOAL_GUEST_CPU_MAX", "600s"),
        ("SHOAL_INVOCATION_TIMEOUT", "600s"),
        ("SHOAL_COMPILE_TIMEOUT", "120s"),
    ])?;
    let node = home.start().await?;
    let mut admin = node.admin().await?;
    for (project, function, wasm) in [("acme", "probe", PROBE), ("birch", "hello", HELLO)] {
        admin.make_project(project).await?;
        admin
            .deploy(project, function, Bytes::from_static(wasm))
            .await?;
    }
    let open_loop = OpenLoop {
        address: node.functions(),
        path: "/f/birch/hello/".to_owned(),
        answer: "Hello from Shoal\n",
        rate: RATE,
    };
    let (mut alone, mut beside, mut spinning) = (Answers::default(), Answers::default(), SPINNERS);
    for _ in 0..rounds {
        alone.add(open_loop.during(length).await?);
        let spinners = Spinners::start(node.functions(), &mut admin).await?;
        beside.add(open_loop.during(length).await?);
        spinning = spinning.min(guests_live(&mut admin).await?);
        spinners.end(&mut admin).await?;
    }
    node.stop().await?;
    let failed = alone.failed + beside.failed;
    let (alone, beside) = (Samples::millis(&alone.took), Samples::millis(&beside.took));
    let p99 = |samples: &Samples| samples.percentile(99.0);
    for (name, samples) in [("alone", &alone), ("beside", &beside)] {
        eprintln!("guest-fair: {name}: {samples}");
    }
    let figures = vec![
        Figure {
            value: failed as f64,
            unit: "answers_not_right",
            target: Target::Exactly(0.0),
        },
        Figure {
            value: spinning as f64,
            unit: "guests_spinning",
            target: Target::Exactly(SPINNERS as f64),
        },
    ];
    let more = Figure {
        value: p99(&beside) - p99(&alone),
        unit: "ms_more_p99",
        target: Target::AtMost(MORE_MS_MAX),
    };
    Ok(judge_timed(
        run,
        figures,
        vec![more],
        beside.len() as u64,
        load,
    ))
}

/// Requests that are not answered.
struct Spinners(JoinSet<()>);

impl Spinners {
    async fn start(address: SocketAddr, admin: &mut Admin) -> anyhow::Result<Self> {
        let mut asked = JoinSet::new();
        for _ in 0..SPINNERS {
            let mut exchange = Exchange::open(address).await?;
            asked.spawn(async move {
                let spin = exchange.ask(Method::GET, "/f/acme/probe/spin", None, Bytes::new());
                // Ends with the node or with this task.
                let _ = spin.await;
            });
        }
        wait(admin, SPINNERS).await?;
        Ok(Self(asked))
    }

    /// A guest ends with its connection.
    async fn end(mut self, admin: &mut Admin) -> anyhow::Result<()> {
        self.0.shutdown().await;
        wait(admin, 0).await
    }
}

async fn guests_live(admin: &mut Admin) -> anyhow::Result<usize> {
    Ok(admin.metric("shoal_guests_live").await? as usize)
}

async fn wait(admin: &mut Admin, guests: usize) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while guests_live(admin).await? != guests {
        anyhow::ensure!(Instant::now() < until, "waited in vain for {guests} guests");
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
