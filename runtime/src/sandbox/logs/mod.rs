//! What guests write for whoever runs them: stdout, stderr and `wasi:logging`, the newest lines of each function in memory.
//!
//! Each function owns its [`LogRing`], so that one tenant's lines can stand in no other's, and a function that is gone leaves
//! nothing behind. A new version of a function goes on with the ring of the old one. Nothing here reaches the node's own log.

mod line;
mod ring;
mod writer;

pub use line::{Line, Origin, Source};
pub use ring::{Follower, LogRing};
pub use writer::LogWriter;

pub(crate) use line::BESIDE_TEXT_BYTES_MAX;

use crate::config::Config;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What the rings of a process share: their limits, and how much they took and lost.
#[derive(Debug)]
pub(crate) struct Logs {
    function_bytes_max: usize,
    line_bytes_max: usize,
    lines: AtomicU64,
    lost: AtomicU64,
}

impl Logs {
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            function_bytes_max: config.function_log_bytes_max,
            line_bytes_max: config.log_line_bytes_max,
            lines: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })
    }

    /// An empty ring: some 150 bytes until its function writes.
    pub(crate) fn ring(self: &Arc<Self>) -> Arc<LogRing> {
        LogRing::new(self.clone())
    }

    /// Lines taken so far.
    pub(crate) fn lines(&self) -> u64 {
        self.lines.load(Relaxed)
    }

    /// Lines that made room for newer ones so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}
