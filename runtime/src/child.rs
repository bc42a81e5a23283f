//! A child process of this binary, for work on what tenants and operators send: limited in CPU, memory and wall time, alone
//! with its input, and only ever in the way of nothing else. Knows not what it works on.
//!
//! [`run`] is the parent's side; the child calls [`limit_self`] before it reads anything.

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, nice, setrlimit};
use std::ffi::OsString;
use std::path::Path;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

/// Niceness of the child where the kernel has no idle class.
const IDLE_NICE: i32 = 19;
/// Niceness of one that has to get on: a tenth of a processor beside one thread at normal priority.
const LOW_NICE: i32 = 10;
/// Time that a child waits for a processor before another is started in its place that has a share of one.
const STARVED_AFTER: Duration = Duration::from_secs(5);
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);
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
    /// When this process runs
    #[arg(long, value_enum, default_value_t)]
    pub turn: Turn,
}

/// When a child runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Turn {
    /// When nothing else wants to
    #[default]
    Idle,
    /// With a small share of a busy machine
    Low,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    /// This binary.
    pub(crate) binary: &'a Path,
    /// The command and its own arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Address space.
    pub(crate) memory_bytes: u64,
    /// CPU time.
    pub(crate) cpu_seconds: u64,
    /// Wall time, without what it waited for a processor.
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
/// It is in the way of nothing else. Where something else always wants to run, so that it gets nowhere, it is begun again with
/// a share of its own: guests that spin must not keep everybody from deploying.
///
/// # Errors
/// See [`Failure`].
pub(crate) async fn run(task: Task<'_>) -> Result<Vec<u8>, Failure> {
    match attempt(&task, Turn::Idle).await? {
        Attempt::Done(answer) => Ok(answer),
        Attempt::Starved => match attempt(&task, Turn::Low).await? {
            Attempt::Done(answer) => Ok(answer),
            Attempt::Starved => Err(Failure::Timeout),
        },
    }
}

enum Attempt {
    Done(Vec<u8>),
    /// It did not get a processor.
    Starved,
}

async fn attempt(task: &Task<'_>, turn: Turn) -> Result<Attempt, Failure> {
    let mut child = start(task, turn).map_err(Failure::Host)?;
    let (id, began) = (child.id(), Instant::now());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = async {
        let (answer, complaint) = tokio::try_join!(
            read(stdout, ANSWER_BYTES_MAX),
            read(stderr, COMPLAINT_BYTES_MAX)
        )?;
        Ok::<_, std::io::Error>((child.wait().await?, answer, complaint))
    };
    let mut ended = pin!(ended);
    let (status, answer, complaint) = loop {
        let waited = id.map_or(Duration::ZERO, waited_for_a_processor);
        if turn == Turn::Idle && waited > STARVED_AFTER {
            return Ok(Attempt::Starved);
        }
        let left = task
            .timeout
            .saturating_sub(began.elapsed().saturating_sub(waited));
        if left.is_zero() {
            return Err(Failure::Timeout);
        }
        if let Ok(ended) = timeout(left.min(LOOK), ended.as_mut()).await {
            break ended.map_err(|error| Failure::Host(error.into()))?;
        }
    };
    match status.code() {
        Some(0) => Ok(Attempt::Done(answer)),
        Some(1) => Err(Failure::Refused(words(&complaint))),
        // Killed by a signal (CPU limit, a stack or an allocation that had no room), or gone in a panic.
        _ => Err(Failure::OverLimit),
    }
}

fn start(task: &Task<'_>, turn: Turn) -> anyhow::Result<Child> {
    let turn = match turn {
        Turn::Idle => "idle",
        Turn::Low => "low",
    };
    Command::new(task.binary)
        .args(&task.arguments)
        .args(["--memory-bytes", &task.memory_bytes.to_string()])
        .args(["--cpu-seconds", &task.cpu_seconds.to_string()])
        .args(["--turn", turn])
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
}

/// For how long its threads, of which one works at a time, could have run and did not. Where the kernel does not say, never.
fn waited_for_a_processor(id: u32) -> Duration {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else {
        return Duration::ZERO;
    };
    let waited = threads.filter_map(|thread| {
        let schedstat = std::fs::read_to_string(thread.ok()?.path().join("schedstat"));
        waited_ns(&schedstat.ok()?)
    });
    Duration::from_nanos(waited.sum())
}

/// From the text of `schedstat`: time on a processor, time waiting for one, turns.
fn waited_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().nth(1)?.parse().ok()
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

/// The child's side: from here on this process can use no more than this, and runs when it is its turn.
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
    let niceness = match limits.turn {
        Turn::Idle => IDLE_NICE,
        Turn::Low => LOW_NICE,
    };
    nice(niceness).context("lowering this process's priority")?;
    if limits.turn == Turn::Idle {
        run_idle();
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_number_is_the_time_spent_waiting() {
        assert_eq!(waited_ns("1042817 52100 12\n"), Some(52_100));
        assert_eq!(waited_ns(""), None);
        assert!(waited_for_a_processor(std::process::id()) < Duration::from_secs(3_600));
        assert_eq!(waited_for_a_processor(u32::MAX), Duration::ZERO);
    }
}
