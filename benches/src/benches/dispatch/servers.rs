//! The servers that are compared: each a process of its own that answers `hello`.

use crate::closed_loop::Asked;
use crate::node::{Home, Served, cpu_of};
use anyhow::Context as _;
use bytes::Bytes;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const HELLO: &[u8] = include_bytes!("../../../../samples/components/hello.wasm");
/// A pool that keeps memory as ours does; by itself it gives all back each time.
const POOLED: &str = "pooling-allocator=y,pooling-memory-keep-resident=1048576,pooling-table-keep-resident=4096,\
    pooling-async-stack-keep-resident=32768,pooling-pagemap-scan=auto";
/// Requests that one instance serves, where it serves more than one: as many as `wasmtime serve` lets it where it does.
const REUSE: u32 = 128;
/// Longest wait until a server says where it is.
const START_MAX: Duration = Duration::from_secs(60);

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::benches) enum Kind {
    /// `shoal serve` as it is by default: a fresh sandbox for each request, with its router, metrics and timing.
    Shoal,
    /// The same, whose owner lets a sandbox serve 128 requests (`reuse`).
    ShoalReused,
    /// `wasmtime serve` as it is by default: a fresh instance for each request.
    Wasmtime,
    /// The same with instances from a pool, set as ours.
    WasmtimePooled,
    /// And each of them for 128 requests.
    WasmtimeReused,
    /// hyper alone.
    Native,
    /// The same, in HTTP/2.
    NativeHttp2,
}

impl Kind {
    /// Those that speak HTTP/1.1.
    pub(in crate::benches) const ALL: [Self; 6] = [
        Self::Shoal,
        Self::ShoalReused,
        Self::Wasmtime,
        Self::WasmtimePooled,
        Self::WasmtimeReused,
        Self::Native,
    ];
    /// Those that speak HTTP/2.
    pub(in crate::benches) const HTTP2: [Self; 3] =
        [Self::Shoal, Self::ShoalReused, Self::NativeHttp2];

    pub(in crate::benches) fn name(self) -> &'static str {
        match self {
            Self::Shoal => "shoal serve",
            Self::ShoalReused => "shoal serve, reuse 128",
            Self::Wasmtime => "wasmtime serve",
            Self::WasmtimePooled => "wasmtime serve, pooled",
            Self::WasmtimeReused => "wasmtime serve, pooled, reuse 128",
            Self::Native | Self::NativeHttp2 => "hyper alone",
        }
    }
}

/// A server that runs. It is killed when this is dropped.
pub(in crate::benches) struct Server {
    process: Process,
    pub(in crate::benches) address: SocketAddr,
    pub(in crate::benches) path: &'static str,
}

enum Process {
    Served(Box<(Served, Home)>),
    Other(Child),
}

impl Server {
    /// Starts one; `None`, and a word on stderr, where the peer is not installed.
    pub(in crate::benches) async fn start(
        kind: Kind,
        home: &mut Home,
    ) -> anyhow::Result<Option<Self>> {
        match kind {
            Kind::Shoal => Self::shoal(None).await.map(Some),
            Kind::ShoalReused => Self::shoal(Some(REUSE)).await.map(Some),
            Kind::Wasmtime => wasmtime(home.folder(), &[]).await,
            Kind::WasmtimePooled => wasmtime(home.folder(), &["-O", POOLED]).await,
            Kind::WasmtimeReused => {
                let reuse = REUSE.to_string();
                let reused = ["-O", POOLED, "--max-instance-reuse-count", &reuse];
                wasmtime(home.folder(), &reused).await
            }
            Kind::Native => native(&["one"]).await.map(Some),
            Kind::NativeHttp2 => native(&["two"]).await.map(Some),
        }
    }

    async fn shoal(reuse: Option<u32>) -> anyhow::Result<Self> {
        let mut home = Home::new()?;
        let served = home.start().await?;
        let mut admin = served.admin().await?;
        admin.make_project("acme").await?;
        let hello = Bytes::from_static(HELLO);
        admin.deploy_reused("acme", "hello", hello, reuse).await?;
        Ok(Self {
            address: served.functions(),
            process: Process::Served(Box::new((served, home))),
            path: "/f/acme/hello/",
        })
    }

    /// Its page.
    pub(in crate::benches) fn asked(&self, streams: Option<usize>) -> Asked {
        Asked {
            streams,
            ..Asked::page(self.address, self.path)
        }
    }

    /// CPU time of all its threads so far.
    pub(in crate::benches) fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(self.pid()?, |_| true)
    }

    pub(in crate::benches) fn pid(&self) -> anyhow::Result<u32> {
        match &self.process {
            Process::Served(served) => served.0.pid(),
            Process::Other(child) => child.id().context("the server has ended"),
        }
    }
}

/// Where `benches/peers.sh` puts it.
fn wasmtime_binary() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/bin/wasmtime")
}

async fn wasmtime(folder: &Path, options: &[&str]) -> anyhow::Result<Option<Server>> {
    let binary = wasmtime_binary();
    if !binary.is_file() {
        eprintln!("dispatch: no wasmtime, left out: run benches/peers.sh");
        return Ok(None);
    }
    let component = folder.join("hello.wasm");
    std::fs::write(&component, HELLO)?;
    let mut child = Command::new(binary)
        .args(["serve", "-S", "cli", "--addr", "127.0.0.1:0"])
        .args(options)
        .arg(component)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting wasmtime")?;
    let stderr = child.stderr.take().context("wasmtime has no stderr")?;
    let address = said(stderr).await?;
    Ok(Some(Server {
        process: Process::Other(child),
        address,
        path: "/",
    }))
}

pub(in crate::benches) async fn native(how: &[&str]) -> anyhow::Result<Server> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("native")
        .args(how)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting a native server")?;
    let stdout = child.stdout.take().context("the server has no stdout")?;
    Ok(Server {
        address: said(stdout).await?,
        process: Process::Other(child),
        path: "/",
    })
}

/// The address in the first line that has one.
async fn said(output: impl AsyncRead + Unpin) -> anyhow::Result<SocketAddr> {
    let mut lines = BufReader::new(output).lines();
    let said = async {
        while let Some(line) = lines.next_line().await? {
            if let Some(address) = address_in(&line) {
                return Ok(address);
            }
        }
        anyhow::bail!("a server ended before it said where it is")
    };
    timeout(START_MAX, said)
        .await
        .context("waiting for a server")?
}

fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, address) = line.split_once("http://")?;
    address.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_where_it_is() {
        let address = Some("127.0.0.1:8080".parse().unwrap());
        let line = "Serving HTTP on http://127.0.0.1:8080/";
        assert_eq!(address_in(line), address);
        assert_eq!(address_in("http://127.0.0.1:8080/"), address);
        assert_eq!(address_in("starting"), None);
    }
}
