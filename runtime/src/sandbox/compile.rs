//! Compiling what tenants send: in a child process with limits on CPU, memory and wall time, because a small module can
//! cost a compiler minutes and gigabytes. The gateway only takes the file the child wrote.
//!
//! [`compile`] is the parent's side, [`child`] what `shoal compile` does.

use super::engine::{Allocator, Sandbox, tunables};
use crate::child::{self, ChildLimits, Failure};
use crate::config::Config;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use wasmtime::Engine;

/// How a component starts: the wasm magic, then version 13, layer 1.
const COMPONENT_MAGIC: [u8; 8] = [0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];
/// How a core module starts: version 1, layer 0.
const MODULE_MAGIC: [u8; 8] = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];

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
        "not a WebAssembly component: expected one of version 13, or a core module that is a command of preview 1"
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
    /// It imports something this node does not have, or exports nothing that could be called.
    #[error("component does not fit the function contract: {0}")]
    Contract(String),
    /// The tenant has as many components compiled, or waiting for it, as it may.
    #[error(
        "project has {limit} components compiling or waiting, the most it may (tenant_compiles_max)"
    )]
    Busy {
        /// The configured limit.
        limit: usize,
    },
    /// The node's fault.
    #[error("compiler could not be run")]
    Host(#[source] anyhow::Error),
}

/// What the compiler made of a component.
pub(super) struct Compiled {
    /// The file with the code.
    pub(super) code: PathBuf,
    _room: TempDir,
}

/// Refuses what need not be given to a compiler.
///
/// # Errors
/// See [`CompileError`].
pub(super) fn check(config: &Config, wasm: &[u8]) -> Result<(), CompileError> {
    if wasm.len() > config.component_bytes_max {
        return Err(CompileError::TooLarge {
            bytes: wasm.len(),
            limit: config.component_bytes_max,
        });
    }
    if !wasm.starts_with(&COMPONENT_MAGIC) && !wasm.starts_with(&MODULE_MAGIC) {
        return Err(CompileError::NotAComponent);
    }
    Ok(())
}

/// Compiles `wasm` in a child process, which has `room` for its files. Cancel safe: the child is killed with the future.
///
/// # Errors
/// See [`CompileError`]; each names what was expected and the limit.
pub(super) async fn compile(
    sandbox: &Sandbox,
    config: &Config,
    wasm: Bytes,
    room: TempDir,
) -> Result<Compiled, CompileError> {
    let (input, code) = (room.path().join("in.wasm"), room.path().join("out.cwasm"));
    let to = input.clone();
    tokio::task::spawn_blocking(move || write(&to, &wasm))
        .await
        .map_err(|panicked| CompileError::Host(panicked.into()))?
        .map_err(CompileError::Host)?;
    run_child(sandbox, config, &input, &code).await?;
    Ok(Compiled { code, _room: room })
}

async fn run_child(
    sandbox: &Sandbox,
    config: &Config,
    input: &Path,
    output: &Path,
) -> Result<(), CompileError> {
    let reserve = matches!(sandbox.allocator(), Allocator::Pool { .. });
    let task = child::Task {
        binary: &config.compiler,
        arguments: vec![
            "compile".into(),
            input.into(),
            output.into(),
            "--reserve".into(),
            reserve.to_string().into(),
        ],
        memory_bytes: config.compile_memory_bytes_max,
        cpu_seconds: config.compile_cpu_max.as_secs(),
        timeout: config.compile_timeout,
    };
    child::run(task).await.map_err(|failure| match failure {
        Failure::Refused(words) => CompileError::Invalid(words),
        Failure::OverLimit => CompileError::OverLimit {
            cpu: config.compile_cpu_max,
            memory_bytes: config.compile_memory_bytes_max,
        },
        Failure::Timeout => CompileError::Timeout(config.compile_timeout),
        Failure::Host(error) => CompileError::Host(error),
    })?;
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file =
        std::fs::File::create_new(path).with_context(|| format!("creating {}", path.display()))?;
    file.write_all(bytes)
        .with_context(|| format!("writing {}", path.display()))
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
    child::limit_self(limits)?;
    let wasm = std::fs::read(input).with_context(|| format!("reading {}", input.display()))?;
    // No pool here: its reservation alone would break the memory limit.
    let engine = Engine::new(&tunables(reserve))?;
    let code = if wasm.starts_with(&MODULE_MAGIC) {
        engine.precompile_module(&wasm)?
    } else {
        engine.precompile_component(&wasm)?
    };
    if code.is_empty() {
        bail!("the compiler wrote nothing");
    }
    // An attempt before this one may have begun it.
    std::fs::write(output, &code).with_context(|| format!("writing {}", output.display()))
}
