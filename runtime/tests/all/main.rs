//! Black-box tests: a real node on a real socket with real guests. One file for each kind of behaviour.

#![allow(
    clippy::unwrap_used,
    reason = "allow-unwrap-in-tests knows #[test] functions, not what they call"
)]

mod command_line;
mod components;
mod drain;
mod hostile;
mod inference;
mod invocation;
mod limits;
mod operations;
mod peer;
mod seam;
mod support;
