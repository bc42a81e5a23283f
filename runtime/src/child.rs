//! A child process of this binary, for work on what tenants and operators send: limited in CPU, memory and wall time, alone
//! with its input, and only ever in the way of nothing else. Knows not what it works on.
//!
//! [`run`] is the parent's side; the child calls [`limit_self`] before it reads anything.

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, nice, setrlimit};
use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// Niceness of the child where the kernel has no idle class.
const NICE: i32 = 19;
/// What is read of a child's complaint.
const COMPLAINT_BYTES_MAX: u64 = 4 << 10;
/// What is read of a child's answer.
pub(crate) const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// What a child may use.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ChildLimits {
    /// Address space this process may use
    #[arg(long)]
    pub memory_bytes: u64,
    /// CPU time this process may use
    #[arg(long)]
    pub cpu_seconds: u64,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    /// This binary.
    pub(crate) binary: &'a Path,
    /// The command and its own arguments.
    pub(crate) arguments: Vec<OsString>,
    pub(crate) limits: ChildLimits,
    /// Wall time.
    pub(crate) timeout: Duration,
}

/// Why a child has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It said no, and why.
    Refused(String),
    /// It was ended at a limit on CPU or memory.
    OverLimit,
    /// It was ended at its wall time.
    Timeout,
    /// It could not be run at all.
    Host(anyhow::Error),
}

/// Runs a child to its end: what it wrote to stdout, at most [`ANSWER_BYTES_MAX`]. Cancel safe: it is killed with the future.
///
/// # Errors
/// See [`Failure`].
pub(crate) async fn run(task: Task<'_>) -> Result<Vec<u8>, Failure> {
    let mut child = Command::new(task.binary)
        .args(task.arguments)
        .args(["--memory-bytes", &task.limits.memory_bytes.to_string()])
        .args(["--cpu-seconds", &task.limits.cpu_seconds.to_string()])
        .env_clear()
        // In KiB. The allocator reserves 1 GiB ahead by default, and crashes where the limit does not let it.
        .env("MIMALLOC_ARENA_RESERVE", "65536")
        // Each thread of the ONNX engine's own pool would take address space for its stack.
        .env("RTEN_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", task.binary.display()))
        .map_err(Failure::Host)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = async {
        let (answer, complaint) = tokio::try_join!(
            read(stdout, ANSWER_BYTES_MAX),
            read(stderr, COMPLAINT_BYTES_MAX)
        )?;
        Ok::<_, std::io::Error>((child.wait().await?, answer, complaint))
    };
    let (status, answer, complaint) = tokio::time::timeout(task.timeout, ended)
        .await
        .map_err(|_| Failure::Timeout)?
        .map_err(|error| Failure::Host(error.into()))?;
    match status.code() {
        Some(0) => Ok(answer),
        Some(1) => Err(Failure::Refused(words(&complaint))),
        // Killed by a signal (CPU limit, a stack or an allocation that had no room), or gone in a panic.
        _ => Err(Failure::OverLimit),
    }
}

/// The beginning of what comes, until it ends: whoever writes at length must not find a closed pipe.
async fn read(from: Option<impl AsyncRead + Unpin>, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut first = Vec::new();
    if let Some(mut from) = from {
        (&mut from).take(bytes_max).read_to_end(&mut first).await?;
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    }
    Ok(first)
}

/// A complaint without the name of the program that every command puts before it.
fn words(complaint: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaint);
    let text = text.trim();
    text.strip_prefix("shoal: ").unwrap_or(text).to_owned()
}

/// The child's side: from here on this process can use no more than this, and runs when nothing else wants to.
///
/// # Errors
/// A limit that the operating system does not take.
pub(crate) fn limit_self(limits: ChildLimits) -> anyhow::Result<()> {
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
    nice(NICE).context("lowering this process's priority")?;
    run_idle();
    Ok(())
}

/// Puts this thread, and those it starts, into the class that gives way at once to whatever wakes up: the lowest niceness
/// still ends its slice first, which a request on the same core would wait for. Not every kernel has it: then that niceness
/// is what there is.
#[allow(unsafe_code)]
fn run_idle() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a live `sched_param` on this stack, which the call only reads; 0 is the calling thread. rustix
    // has no such call.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters) };
    if set != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "no idle class");
    }
}
