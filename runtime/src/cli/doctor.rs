//! `shoal doctor`: what this machine can do, what is missing, and what each absence costs.

use crate::Config;
use crate::sandbox::{Allocator, Sandbox, can_scan_pagemap, files_max};
use serde::Serialize;

/// Looks at this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One thing that is there or not.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    found: String,
    /// What it costs and how to get it, where something is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

impl Finding {
    fn fine(what: &'static str, found: impl ToString) -> Self {
        Self {
            what,
            found: found.to_string(),
            missing: None,
        }
    }

    fn check(what: &'static str, found: impl ToString, ok: bool, cost: &str) -> Self {
        Self {
            what,
            found: found.to_string(),
            missing: (!ok).then(|| cost.to_owned()),
        }
    }
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut findings = kernel();
        findings.push(pool());
        findings.push(Finding::fine("onnx engine", "rten (built in)"));
        findings.extend(cuda());
        if self.json {
            println!("{}", serde_json::to_string(&findings)?);
            return Ok(());
        }
        for finding in &findings {
            let mark = if finding.missing.is_some() { "-" } else { "ok" };
            println!("{mark:>2}  {:<22} {}", finding.what, finding.found);
            if let Some(missing) = &finding.missing {
                println!("    {:<22} {missing}", "");
            }
        }
        Ok(())
    }
}

fn kernel() -> Vec<Finding> {
    let uname = rustix::system::uname();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let files = files_max();
    let connections = Config::default().connections_max as u64;
    let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    vec![
        Finding::fine("kernel", uname.release().to_string_lossy()),
        Finding::fine("cores", cores),
        Finding::check(
            "pagemap_scan",
            if can_scan_pagemap() { "yes" } else { "no" },
            can_scan_pagemap(),
            "a fresh sandbox costs about 70 µs more CPU; needs kernel 6.7 or newer and no swap",
        ),
        Finding::check(
            "open files",
            files,
            files > connections,
            "fewer connections than connections_max: raise it with ulimit -n",
        ),
        Finding::fine("vm.max_map_count", mappings.trim()),
    ]
}

fn pool() -> Finding {
    let found = match Sandbox::new(&Config::default()) {
        Ok(sandbox) => sandbox.allocator().clone(),
        Err(error) => Allocator::OnDemand {
            why: error.to_string(),
        },
    };
    match found {
        Allocator::Pool { guests, .. } => {
            Finding::fine("instance pool", format!("{guests} guests"))
        }
        Allocator::OnDemand { why } => Finding::check(
            "instance pool",
            why,
            false,
            "instances are made on demand, 16-70 µs of CPU more for each request: lift ulimit -v, allow overcommit",
        ),
    }
}

/// Asks whether libraries can be opened; never makes a CUDA context, which panics without a driver.
#[allow(unsafe_code)]
fn cuda() -> Vec<Finding> {
    // SAFETY: each only tries to open a library by name, which runs its initialisers: those of the installed CUDA driver and
    // libraries, which a node with a GPU opens anyway. There is no safe way to ask.
    let found = unsafe {
        [
            (
                "cuda driver",
                cudarc::driver::sys::is_culib_present(),
                "models run on this machine's processor; a GPU needs NVIDIA's driver",
            ),
            (
                "cublasLt",
                cudarc::cublaslt::sys::is_culib_present(),
                "no matrix products on a GPU; comes with NVIDIA's CUDA libraries",
            ),
            (
                "nvrtc",
                cudarc::nvrtc::sys::is_culib_present(),
                "no kernels tuned for a GPU; comes with NVIDIA's CUDA libraries",
            ),
        ]
    };
    found
        .into_iter()
        .map(|(what, present, cost)| {
            Finding::check(what, if present { "yes" } else { "no" }, present, cost)
        })
        .collect()
}
