//! Black-box tests: a real node on a real socket with real guests. One file for each kind of behaviour.

#![allow(
    clippy::unwrap_used,
    reason = "allow-unwrap-in-tests knows #[test] functions, not what they call"
)]

#[path = "../../../host-apis/inference/tests/all/support/compass.rs"]
mod compass;
#[path = "../../../host-apis/inference/tests/all/support/onnx_file.rs"]
#[allow(dead_code, reason = "the inference crate's tests use all of it")]
mod onnx_file;

mod cache;
mod canary;
mod client;
mod command;
mod command_line;
mod components;
mod deploy;
mod dev;
mod drain;
mod egress;
mod embed;
mod frames;
mod hostile;
mod http2;
mod inference;
mod invocation;
mod limits;
mod logs;
mod model_admission;
mod operations;
mod origin;
mod reuse;
mod seam;
mod serve;
mod shares;
mod store;
mod support;
mod trailers;
mod upload;
