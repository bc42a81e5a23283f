//! `shoal serve` in a process of its own, with its data in a folder: what can be killed, drained and started again. The
//! process is this binary, whose first argument makes it `shoal`.

use super::{Admin, Footprint};
use crate::exchange::Exchange;
use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

/// Longest wait until a node is ready.
const START_MAX: Duration = Duration::from_secs(120);
/// Longest wait until a node that was asked to stop has ended: beyond its own grace.
const STOP_MAX: Duration = Duration::from_secs(60);
/// How often a node is asked whether it is ready.
const LOOK: Duration = Duration::from_millis(1);

/// The folder of a node's data, and what its nodes have in common. Removed when it is dropped.
pub(crate) struct Home {
    folder: TempDir,
    /// Variables of the nodes' environment.
    settings: Vec<(&'static str, &'static str)>,
    /// Made by the first node.
    admin_key: Option<String>,
}

/// A node that serves from a [`Home`]. It is killed when this is dropped.
pub(crate) struct Served {
    child: Child,
    functions: SocketAddr,
    admin: SocketAddr,
    admin_key: String,
    /// From the start of its process until it said that it is ready.
    pub(crate) ready_after: Duration,
}

impl Home {
    /// On the disk that temporary files are on. Compilers give way to all else: beside other work on the machine they take
    /// longer than a node lets them, so its nodes let them.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::with(&[
            ("SHOAL_COMPILE_TIMEOUT", "120s"),
            ("SHOAL_COMPILE_CPU_MAX", "60s"),
        ])
    }

    /// The same, for nodes with these variables in their environment and no other.
    pub(crate) fn with(settings: &[(&'static str, &'static str)]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir();
        Ok(Self {
            folder: folder.context("making a folder for the node's data")?,
            settings: settings.to_vec(),
            admin_key: None,
        })
    }

    /// All that is in it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The node's data.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts a node and waits until it is ready.
    pub(crate) async fn start(&mut self) -> anyhow::Result<Served> {
        let began = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--admin-listen", "127.0.0.1:0"])
            .arg("--data")
            .arg(self.data())
            // Not in a folder that may hold a node.toml.
            .current_dir(self.folder.path())
            .envs(self.settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a node")?;
        let stdout = child.stdout.take().context("the node has no stdout")?;
        let ready = async {
            let said = Said::read(BufReader::new(stdout).lines()).await?;
            ready(said.functions).await?;
            anyhow::Ok((said, began.elapsed()))
        };
        let ready = timeout(START_MAX, ready).await;
        let (said, ready_after) = ready.context("waiting for the node to be ready")??;
        if said.admin_key.is_some() {
            self.admin_key = said.admin_key;
        }
        Ok(Served {
            child,
            functions: said.functions,
            admin: said.admin,
            admin_key: self
                .admin_key
                .clone()
                .context("the node has made no admin key")?,
            ready_after,
        })
    }
}

/// What a node says on stdout.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    admin_key: Option<String>,
    functions: SocketAddr,
    admin: SocketAddr,
}

impl Said {
    async fn read(mut lines: Lines<BufReader<ChildStdout>>) -> anyhow::Result<Self> {
        let mut admin_key = None;
        loop {
            let line = lines.next_line().await?;
            let line = line.context("the node ended before it was ready")?;
            if let Some(key) = admin_key_in(&line) {
                admin_key = Some(key.to_owned());
            }
            if let Some((functions, admin)) = addresses_in(&line) {
                return Ok(Self {
                    admin_key,
                    functions,
                    admin,
                });
            }
        }
    }
}

fn admin_key_in(line: &str) -> Option<&str> {
    let (_, key) = line.split_once("kept nowhere): ")?;
    Some(key)
}

fn addresses_in(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (functions, admin) = line.split_once(", managed at http://")?;
    let functions = functions.strip_prefix("functions at http://")?;
    Some((functions.parse().ok()?, admin.parse().ok()?))
}

async fn ready(address: SocketAddr) -> anyhow::Result<()> {
    let mut exchange = Exchange::open(address).await?;
    loop {
        let answer = exchange.ask(Method::GET, "/readyz", None, Bytes::new());
        if answer.await?.status == StatusCode::OK {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

impl Served {
    /// Where functions are called.
    pub(crate) fn functions(&self) -> SocketAddr {
        self.functions
    }

    /// Where it is managed.
    pub(crate) fn admin_at(&self) -> SocketAddr {
        self.admin
    }

    /// A connection of its operator.
    pub(crate) async fn admin(&self) -> anyhow::Result<Admin> {
        Admin::open(self.admin, self.admin_key.clone()).await
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the node has ended")
    }

    pub(crate) fn footprint(&self) -> anyhow::Result<Footprint> {
        Footprint::of(self.pid()?)
    }

    /// CPU time so far of its threads with names that count. See [`cpu_of`].
    pub(crate) fn cpu(&self, counts: fn(&str) -> bool) -> anyhow::Result<Duration> {
        cpu_of(self.pid()?, counts)
    }

    /// Kills it as the operating system would.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("killing the node")
    }

    /// Asks it to drain.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.pid()?.try_into()?).context("the node has no id")?;
        kill_process(pid, Signal::TERM).context("asking the node to drain")
    }

    /// Waits until it has ended as it should.
    pub(crate) async fn ended(mut self) -> anyhow::Result<()> {
        let ended = timeout(STOP_MAX, self.child.wait()).await;
        let status = ended.context("waiting for the node to end")??;
        anyhow::ensure!(status.success(), "the node ended with {status}");
        Ok(())
    }

    /// Asks it to drain and waits until it has.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.terminate()?;
        self.ended().await
    }
}

/// CPU time so far of a process's threads with names that count, as the kernel's scheduler counts it. Exact for threads that
/// sleep; those that ended are left out.
pub(crate) fn cpu_of(pid: u32, counts: fn(&str) -> bool) -> anyhow::Result<Duration> {
    let mut ns = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        if !counts(&std::fs::read_to_string(thread.join("comm"))?) {
            continue;
        }
        let schedstat = std::fs::read_to_string(thread.join("schedstat"))
            .context("the kernel does not say how long a thread ran (CONFIG_SCHED_INFO)")?;
        ns += cpu_ns(&schedstat).context("reading how long a thread ran")?;
    }
    Ok(Duration::from_nanos(ns))
}

/// From the text of `schedstat`: time on a processor, time waiting for one, turns.
fn cpu_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_the_time_on_a_processor() {
        assert_eq!(cpu_ns("1042817 52100 12\n"), Some(1_042_817));
        assert_eq!(cpu_ns(""), None);
    }

    #[test]
    fn a_node_says_its_key_once_and_where_it_is() {
        let key = "admin key (shown this once, kept nowhere): sk-shoal-1-2";
        assert_eq!(admin_key_in(key), Some("sk-shoal-1-2"));
        assert_eq!(addresses_in(key), None);
        let line = "functions at http://127.0.0.1:1, managed at http://127.0.0.1:2";
        let expected = (
            "127.0.0.1:1".parse().unwrap(),
            "127.0.0.1:2".parse().unwrap(),
        );
        assert_eq!(addresses_in(line), Some(expected));
        assert_eq!(admin_key_in(line), None);
    }
}
