//! A Shoal node in a child process of this binary, so that its memory and its threads are the node's alone. The child's side
//! is in `child`; both agree on [`Spec`] and [`Ready`]. The node is loaded over HTTP and looked at from outside.
//!
//! [`Node`] has what a bar gives it and keeps nothing; [`Served`] is `shoal serve` as its users run it, with data on disk and
//! managed by [`Admin`].

mod admin;
mod child;
mod children;
mod served;

pub(crate) use admin::{Admin, Live};
pub(crate) use child::{DIGITS, digits, serve};
pub(crate) use children::{Children, Peak};
pub(crate) use served::{Home, Served, cpu_of};

use crate::client;
use crate::simulated::simulated;
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use shoal_inference::{AnyDevice, Compute, CpuDevice};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Longest wait until a node is ready: it compiles its functions first.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest wait until a node that was asked to stop has ended.
const STOP_MAX: Duration = Duration::from_secs(20);

/// What a node is to be. What is not here is as in `shoal::Config::default()`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) socket_threads: usize,
    pub(crate) background_threads: usize,
    pub(crate) guests_max: u32,
    /// Each has the function `digits`.
    pub(crate) tenants: usize,
    pub(crate) rows_max: u32,
    pub(crate) device: DeviceSpec,
}

/// What a node runs models on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum DeviceSpec {
    /// One thread of this processor.
    Cpu,
    /// What it answers is real.
    Simulated {
        /// Time of one run, and of each row on top.
        launch: Duration,
        per_row: Duration,
    },
}

impl DeviceSpec {
    /// # Errors
    /// The operating system gives no thread.
    pub(crate) fn start(self) -> std::io::Result<AnyDevice> {
        Ok(match self {
            Self::Cpu => CpuDevice::new(NonZeroUsize::MIN)?.into(),
            Self::Simulated { launch, per_row } => simulated(launch, per_row, Compute::Onnx).into(),
        })
    }
}

/// What a node says of itself, in a line on stdout, when it is about to accept connections.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    address: SocketAddr,
    /// Guests that its pool has room for, or why it has no pool.
    pool: Result<u32, String>,
}

/// A node that runs. It is killed when this is dropped.
pub(crate) struct Node {
    child: Child,
    ready: Ready,
    tenants: usize,
}

/// What a process takes of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// A page that is mapped at several places counts at each.
    pub(crate) resident_kib: u64,
    /// Not part of what is resident.
    pub(crate) page_tables_kib: u64,
    pub(crate) threads: u64,
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resident_kib,
            page_tables_kib,
            threads,
        } = self;
        write!(
            f,
            "{resident_kib} KiB resident, {page_tables_kib} KiB of page tables, {threads} threads"
        )
    }
}

impl Footprint {
    /// Of a process that runs.
    fn of(pid: u32) -> anyhow::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .context("reading the node's status")?;
        Self::parse(&status)
    }

    /// From the text of `/proc/PID/status`.
    fn parse(status: &str) -> anyhow::Result<Self> {
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
                .with_context(|| format!("the process's status has no {name}"))
        };
        Ok(Self {
            resident_kib: field("VmRSS:")?,
            page_tables_kib: field("VmPTE:")?,
            threads: field("Threads:")?,
        })
    }
}

/// What a node has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) guests_live: u64,
    /// Rows that are queued; those on a device are not.
    pub(crate) queue_rows: u64,
}

impl Load {
    /// From the text of `/metrics`.
    fn parse(page: &str) -> anyhow::Result<Self> {
        let gauge = |name: &str| {
            page.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
                .with_context(|| format!("the metrics have no {name}"))
        };
        Ok(Self {
            guests_live: gauge("shoal_guests_live ")?,
            queue_rows: gauge("shoal_inference_queue_rows ")?,
        })
    }
}

impl Node {
    /// Starts a node and waits until it is ready.
    pub(crate) async fn start(spec: &Spec) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("node")
            .arg(serde_json::to_string(spec)?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a node")?;
        let stdout = child.stdout.take().context("the node has no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(START_MAX, lines.next_line()).await;
        let line = line.context("waiting for the node to be ready")??;
        let line = line.context("the node ended before it was ready")?;
        Ok(Self {
            child,
            ready: serde_json::from_str(&line).context("reading what the node says")?,
            tenants: spec.tenants,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.ready.address
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the node has ended")
    }

    /// Why it cannot hold so many guests in its pool, if it cannot: a limit of this machine.
    pub(crate) fn cannot_hold(&self, guests: usize) -> Option<String> {
        match &self.ready.pool {
            Ok(room) if *room as usize >= guests => None,
            Ok(room) => Some(format!(
                "needs a pool of {guests} guests, {room} fit: raise vm.max_map_count"
            )),
            Err(why) => Some(format!(
                "needs the address space of an instance pool: {why}"
            )),
        }
    }

    /// Where each tenant's function of this name is.
    pub(crate) fn paths(&self, function: &str) -> Vec<String> {
        let tenants = (0..self.tenants).map(child::tenant);
        tenants
            .map(|tenant| format!("/f/{tenant}/{function}/"))
            .collect()
    }

    pub(crate) async fn load(&self) -> anyhow::Result<Load> {
        Load::parse(&client::get(self.ready.address, "/metrics").await?)
    }

    pub(crate) fn footprint(&self) -> anyhow::Result<Footprint> {
        Footprint::of(self.pid()?)
    }

    /// Asks the node to drain and waits until it has.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self
            .child
            .id()
            .and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        kill_process(pid.context("the node has ended")?, Signal::TERM)?;
        let ended = timeout(STOP_MAX, self.child.wait()).await;
        let status = ended.context("waiting for the node to end")??;
        anyhow::ensure!(status.success(), "the node ended with {status}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footprint_is_read_from_a_status() {
        let status = "Name:\tx\nVmRSS:\t    5120 kB\nVmPTE:\t     40 kB\nThreads:\t7\n";
        let expected = Footprint {
            resident_kib: 5_120,
            page_tables_kib: 40,
            threads: 7,
        };
        assert_eq!(Footprint::parse(status).unwrap(), expected);
        assert!(Footprint::parse("VmRSS: 1 kB\n").is_err());
    }

    #[test]
    fn a_load_is_read_from_the_metrics() {
        let page = "# TYPE shoal_guests_live gauge\nshoal_guests_live 3\nshoal_inference_queue_rows 2\n# EOF\n";
        let load = Load::parse(page).unwrap();
        assert_eq!((load.guests_live, load.queue_rows), (3, 2));
        assert!(Load::parse("shoal_guests_live 3\n").is_err());
    }
}
