//! `layers`: what a call of `hello` costs `shoal serve`, by the layer whose code was running: with a fresh sandbox for each
//! request, and with one for 128 (`reuse`). 32 connections in a closed loop; the node's threads are sampled by Linux's `perf`,
//! and each sample is of the layer that its function belongs to, not of its callers. The parts add up to the CPU time of the
//! node's threads for each request, as the kernel counts it.

use super::dispatch::{Kind, Server};
use crate::closed_loop::closed_loop;
use crate::machine::load_average;
use crate::node::Home;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::task::JoinSet;

const CONNECTIONS: usize = 32;
const WARM_UP: Duration = Duration::from_millis(500);
const LOAD: Duration = Duration::from_secs(8);
/// Sampled within the load.
const SAMPLED_SECONDS: &str = "5";
const SAMPLES_PER_SECOND: &str = "1999";

/// Whose code ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Sockets,
    KernelMemory,
    KernelRest,
    Hyper,
    Tokio,
    Shoal,
    Wasmtime,
    Guest,
    Memory,
    Rest,
}

impl Layer {
    fn name(self) -> &'static str {
        match self {
            Self::Sockets => "kernel: sockets",
            Self::KernelMemory => "kernel: memory of sandboxes",
            Self::KernelRest => "kernel: threads that sleep and wake, and the rest",
            Self::Hyper => "hyper and http",
            Self::Tokio => "tokio",
            Self::Shoal => "shoal, its metrics and logs",
            Self::Wasmtime => "wasmtime: instances, host calls, handles",
            Self::Guest => "the guest's own code",
            Self::Memory => "allocator and copies",
            Self::Rest => "the standard library, and the rest",
        }
    }

    /// Of a function by its name, in the file that it was loaded from.
    fn of(file: &str, symbol: &str) -> Self {
        let any = |parts: &[&str]| parts.iter().any(|part| symbol.contains(part));
        if file.contains("kernel") {
            let sockets = [
                "tcp", "sk_", "sock", "skb", "inet", "ip_", "net", "loopback", "epoll", "ep_",
                "nf_", "sendmsg", "sendto", "recvmsg", "recvfrom", "readv", "writev",
            ];
            let memory = [
                "pagemap", "madvise", "zap", "unmap", "page", "fault", "mmap", "vma", "folio",
                "clear", "tlb", "pte", "mas_", "walk_",
            ];
            // Words that begin so: `finish_task_switch` is nothing of `sk_`.
            let begins =
                |part: &&str| symbol.starts_with(*part) || symbol.contains(&format!("_{part}"));
            return match () {
                () if sockets.iter().any(begins) => Self::Sockets,
                () if memory.iter().any(begins) => Self::KernelMemory,
                () => Self::KernelRest,
            };
        }
        // What the compiler made of a component is in memory alone, sealed.
        if file.contains("shoal-code") {
            return Self::Guest;
        }
        if symbol.starts_with("mi_")
            || symbol.starts_with("_mi_")
            || any(&["memmove", "memset", "memcpy"])
        {
            return Self::Memory;
        }
        // The crate that is named first: `<hyper::X as tokio::Y>::z` is hyper's.
        let crates = [
            ("hyper", Self::Hyper),
            ("http::", Self::Hyper),
            ("httparse", Self::Hyper),
            ("h2::", Self::Hyper),
            ("bytes::", Self::Hyper),
            ("tokio", Self::Tokio),
            ("mio::", Self::Tokio),
            ("shoal", Self::Shoal),
            ("tracing", Self::Shoal),
            ("prometheus", Self::Shoal),
            ("dashmap", Self::Shoal),
            ("flt2dec", Self::Shoal),
            ("wasmtime", Self::Wasmtime),
            ("cranelift", Self::Wasmtime),
        ];
        let named = crates
            .iter()
            .filter_map(|(name, layer)| Some((symbol.find(name)?, *layer)));
        named.min().map_or(Self::Rest, |(_, layer)| layer)
    }
}

pub(super) async fn compare() -> anyhow::Result<()> {
    println!("load average {}\n", load_average()?);
    let mut columns = Vec::new();
    for kind in [Kind::Shoal, Kind::ShoalReused] {
        let Some(column) = measure(kind).await? else {
            eprintln!(
                "layers: `perf record` does not work here: needs linux-perf, and a kernel that lets this user"
            );
            return Ok(());
        };
        columns.push(column);
    }
    let [fresh, reused] = &columns[..] else {
        anyhow::bail!("two columns are measured");
    };
    println!("| CPU µs a request | fresh sandbox | reuse 128 |\n|---|---|---|");
    for layer in fresh
        .keys()
        .chain(reused.keys())
        .collect::<std::collections::BTreeSet<_>>()
    {
        let of = |column: &BTreeMap<Layer, f64>| column.get(layer).copied().unwrap_or_default();
        println!(
            "| {} | {:.1} | {:.1} |",
            layer.name(),
            of(fresh),
            of(reused)
        );
    }
    let sum = |column: &BTreeMap<Layer, f64>| column.values().sum::<f64>();
    println!("| together | {:.1} | {:.1} |", sum(fresh), sum(reused));
    Ok(())
}

/// Microseconds of each layer for a request; `None` where nothing can be sampled.
async fn measure(kind: Kind) -> anyhow::Result<Option<BTreeMap<Layer, f64>>> {
    let mut home = Home::new()?;
    let server = Server::start(kind, &mut home).await?;
    let server = server.context("a node of ours can always be started")?;
    let asked = server.asked(None);
    closed_loop(&asked, CONNECTIONS, WARM_UP).await?;
    let mut load = JoinSet::new();
    let before = server.cpu()?;
    load.spawn(async move { closed_loop(&asked, CONNECTIONS, LOAD).await });
    let file = home.folder().join("perf.data");
    let sampled = sample(server.pid()?, &file).await;
    let answered = load.join_next().await.context("there is one load")???;
    let cpu = server.cpu()?.saturating_sub(before);
    if !sampled {
        return Ok(None);
    }
    // When the load is over: it would share its processors.
    let report = report(&file).await?;
    let us = cpu.as_secs_f64() * 1e6 / answered.took.len() as f64;
    let samples = read(&report);
    let all: u64 = samples.values().sum();
    anyhow::ensure!(all > 0, "nothing was sampled");
    let part = |(layer, samples)| (layer, us * samples as f64 / all as f64);
    Ok(Some(samples.into_iter().map(part).collect()))
}

/// Has the process sampled; whether this machine can and lets us.
async fn sample(pid: u32, file: &Path) -> bool {
    let recorded = Command::new("perf")
        .args(["record", "-e", "cpu-clock", "-F", SAMPLES_PER_SECOND, "-p"])
        .arg(pid.to_string())
        .arg("-o")
        .arg(file)
        .args(["--", "sleep", SAMPLED_SECONDS])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    recorded.is_ok_and(|status| status.success())
}

/// What was sampled, in text.
async fn report(file: &Path) -> anyhow::Result<String> {
    let report = Command::new("perf")
        .args(["report", "--stdio", "-F", "sample,dso,sym", "-i"])
        .arg(file)
        .stderr(Stdio::null())
        .output()
        .await?;
    Ok(String::from_utf8(report.stdout)?)
}

/// Samples of each layer, from lines like `  12  libc.so.6  [.] memmove`.
fn read(report: &str) -> BTreeMap<Layer, u64> {
    let mut samples = BTreeMap::new();
    for line in report.lines().filter(|line| !line.starts_with('#')) {
        let Some((count, rest)) = line.trim_start().split_once(' ') else {
            continue;
        };
        let parts = rest
            .trim_start()
            .split_once("  [")
            .and_then(|(file, rest)| Some((file, rest.split_once("] ")?.1)));
        if let (Ok(count), Some((file, symbol))) = (count.parse::<u64>(), parts) {
            *samples.entry(Layer::of(file.trim(), symbol)).or_default() += count;
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_of_the_layer_of_its_function() {
        let report = "# Samples: 20\n#\n\
            \x20 7  [kernel.kallsyms]  [k] tcp_sendmsg_locked\n\
            \x20 1  [kernel.kallsyms]  [k] finish_task_switch.isra.0\n\
            \x20 2  [kernel.kallsyms]  [k] pagemap_scan_pmd_entry\n\
            \x20 3  shoal-benches      [.] <hyper::proto::h1::Server<S> as tokio::X>::poll\n\
            \x20 1  shoal-benches      [.] shoal::sandbox::runner::Runner::invoke\n\
            \x20 1  shoal-benches      [.] mi_free\n\
            \x20 4  memfd:shoal-code-1 (deleted)  [.] 0x00000000000010fd\n\
            \x20 1  libc.so.6          [.] __memmove_avx512_unaligned_erms\n\n";
        let expected = [
            (Layer::Sockets, 7),
            (Layer::KernelMemory, 2),
            (Layer::KernelRest, 1),
            (Layer::Hyper, 3),
            (Layer::Shoal, 1),
            (Layer::Guest, 4),
            (Layer::Memory, 2),
        ];
        assert_eq!(read(report), BTreeMap::from(expected));
    }
}
