//! Tests of the inference crate through its public door: the engine on simulated devices under a paused clock, every device
//! through `device_conformance`, ONNX against ONNX Runtime's answers, and the seam over a socket.
#![allow(
    clippy::unwrap_used,
    reason = "clippy's allowance for tests does not reach their helper functions"
)]

mod support;

mod batching;
mod check;
mod config;
mod device_conformance;
mod embed;
mod fair_queue;
mod faults;
mod liars;
mod limits;
mod models;
mod onnx;
mod seam;
mod tensor;
