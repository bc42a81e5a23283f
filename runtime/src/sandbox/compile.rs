//! Compiling what tenants send: in a child process with limits on CPU, memory and wall time, because a small module can
//! cost a compiler minutes and gigabytes. The gateway only maps the file the child wrote.
//!
//! [`compile`] is the parent's side, [`child`] what `shoal compile` does.

use super::engine::{Allocator, Sandbox, tunables};
use crate::config::Config;
use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit, nice, setrlimit};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use wasmtime::Engine;
use wasmtime::component::Component;

/// Niceness of the child: requests come first.
const NICE: i32 = 19;
/// What is read of a child's complaint.
const COMPLAINT_BYTES_MAX: u64 = 4 << 10;
/// How a component starts: the wasm magic, then version 13, layer 1.
const COMPONENT_MAGIC: [u8; 8] = [0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];

/// Why a component was refused.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// More bytes than the limit.
    #[error("component has {bytes} bytes, at most {limit} are allowed (component_bytes_max)")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The configured limit.
        limit: usize,
    },
    /// Not a component at all.
    #[error(
        "not a WebAssembly component: expected one of version 13 (a core module must be made into a component)"
    )]
    NotAComponent,
    /// The compiler refused it.
    #[error("component does not compile: {0}")]
    Invalid(String),
    /// The compiler took longer than `compile_timeout`.
    #[error("component took longer than {0:?} to compile (compile_timeout)")]
    Timeout(Duration),
    /// The compiler was stopped at its CPU or memory limit.
    #[error(
        "component needs more than {cpu:?} of CPU time or {memory_bytes} bytes to compile (compile_cpu_max, compile_memory_bytes_max)"
    )]
    OverLimit {
        /// The configured CPU limit.
        cpu: Duration,
        /// The configured memory limit.
        memory_bytes: u64,
    },
    /// The component imports something this node does not have, or exports no HTTP handler.
    #[error("component does not fit the function contract: {0}")]
    Contract(String),
    /// The node's fault.
    #[error("compiler could not be run")]
    Host(#[source] anyhow::Error),
}

/// Compiles `wasm` in a child process and maps the result. Cancel safe: the child is killed with the future.
///
/// # Errors
/// See [`CompileError`]; each names what was expected and the limit.
pub(super) async fn compile(
    sandbox: &Sandbox,
    config: &Config,
    wasm: &[u8],
) -> Result<Component, CompileError> {
    if wasm.len() > config.component_bytes_max {
        return Err(CompileError::TooLarge {
            bytes: wasm.len(),
            limit: config.component_bytes_max,
        });
    }
    if !wasm.starts_with(&COMPONENT_MAGIC) {
        return Err(CompileError::NotAComponent);
    }
    let room = private_directory().map_err(CompileError::Host)?;
    let (input, output) = (room.path().join("in.wasm"), room.path().join("out.cwasm"));
    write(&input, wasm).map_err(CompileError::Host)?;
    run_child(sandbox, config, &input, &output).await?;
    // What was compiled well but does not fit the pool (too many core instances, memories or tables, too large ones) is
    // refused here; the words are wasmtime's, for the owner of the component.
    map(&sandbox.engine, &output).map_err(|why| CompileError::Contract(format!("{why:#}")))
}

async fn run_child(
    sandbox: &Sandbox,
    config: &Config,
    input: &Path,
    output: &Path,
) -> Result<(), CompileError> {
    let reserve = matches!(sandbox.allocator(), Allocator::Pool { .. });
    let mut child = Command::new(&config.compiler)
        .arg("compile")
        .args([input, output])
        .args([
            "--memory-bytes",
            &config.compile_memory_bytes_max.to_string(),
        ])
        .args([
            "--cpu-seconds",
            &config.compile_cpu_max.as_secs().to_string(),
        ])
        .args(["--reserve", &reserve.to_string()])
        .env_clear()
        // In KiB. The allocator reserves 1 GiB ahead by default, and crashes where the limit does not let it.
        .env("MIMALLOC_ARENA_RESERVE", "65536")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", config.compiler.display()))
        .map_err(CompileError::Host)?;
    let ended = async {
        let mut complaint = Vec::new();
        if let Some(mut stderr) = child.stderr.take() {
            let mut first = (&mut stderr).take(COMPLAINT_BYTES_MAX);
            first.read_to_end(&mut complaint).await?;
            // Whoever complains at length must not find a closed pipe.
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, complaint))
    };
    let (status, complaint) = tokio::time::timeout(config.compile_timeout, ended)
        .await
        .map_err(|_| CompileError::Timeout(config.compile_timeout))?
        .map_err(|error| CompileError::Host(error.into()))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(1) => Err(CompileError::Invalid(
            String::from_utf8_lossy(&complaint).trim().to_owned(),
        )),
        // Killed by a signal (CPU limit, or an allocation that failed), or gone in a panic.
        _ => Err(CompileError::OverLimit {
            cpu: config.compile_cpu_max,
            memory_bytes: config.compile_memory_bytes_max,
        }),
    }
}

/// A directory that only this user can enter.
fn private_directory() -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("shoal-compile-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir()
        .context("making a directory for the compiler")
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file =
        std::fs::File::create_new(path).with_context(|| format!("creating {}", path.display()))?;
    file.write_all(bytes)
        .with_context(|| format!("writing {}", path.display()))
}

/// Maps compiled code. The file may be deleted afterwards: the mapping stays.
#[allow(unsafe_code)]
fn map(engine: &Engine, path: &Path) -> anyhow::Result<Component> {
    // SAFETY: the file was written a moment ago by our own binary, from the same engine configuration, into a directory of
    // mode 0700 that was made for it; nobody else could have changed it. Safe code would have to compile in this process.
    unsafe { Component::deserialize_file(engine, path) }.map_err(Into::into)
}

/// What the child may use.
#[derive(Clone, Copy, Debug)]
pub struct ChildLimits {
    /// Address space in bytes.
    pub memory_bytes: u64,
    /// CPU seconds.
    pub cpu_seconds: u64,
}

/// The child's side: limits itself, reads `input`, writes compiled code to `output`.
///
/// # Errors
/// If `input` does not compile; the message is the compiler's and names the place.
pub fn child(
    input: &Path,
    output: &Path,
    reserve: bool,
    limits: ChildLimits,
) -> anyhow::Result<()> {
    limit_self(limits)?;
    let wasm = std::fs::read(input).with_context(|| format!("reading {}", input.display()))?;
    // No pool here: its reservation alone would break the memory limit.
    let engine = Engine::new(&tunables(reserve))?;
    let code = engine.precompile_component(&wasm)?;
    if code.is_empty() {
        bail!("the compiler wrote nothing");
    }
    write(output, &code)
}

fn limit_self(limits: ChildLimits) -> anyhow::Result<()> {
    let limit = |resource, value| {
        let limit = Rlimit {
            current: Some(value),
            maximum: Some(value),
        };
        setrlimit(resource, limit).with_context(|| format!("limiting {resource:?} to {value}"))
    };
    limit(Resource::Core, 0)?;
    limit(Resource::As, limits.memory_bytes)?;
    limit(Resource::Cpu, limits.cpu_seconds)?;
    nice(NICE).context("lowering the compiler's priority")?;
    Ok(())
}
