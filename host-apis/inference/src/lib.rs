//! Batches formed across tenants on shared devices. Knows no wasm, no HTTP and no JSON of an API.
//!
//! [`Inference`] is the handle. Behind it one engine task owns all state (`engine`), asks a pure scheduler what to run next
//! (`scheduler`, `fair_queue`), and one worker for each device gathers, submits and scatters (`worker`). What a device is
//! sent and answers is plain data (`plan`).
#![deny(unsafe_code)]

pub mod plan;

mod check;
mod config;
mod cost;
mod device;
mod engine;
mod error;
mod fair_queue;
mod handle;
mod models;
mod mutant;
mod onnx;
mod request;
mod scheduler;
mod share;
mod stats;
mod tensor;
mod text;
mod worker;

#[cfg(test)]
extern crate self as shoal_inference;
#[cfg(test)]
#[path = "../tests/laws/mod.rs"]
mod laws;
#[cfg(test)]
#[path = "../tests/all/support/seed.rs"]
mod seed;

pub use check::{CheckError, CheckLimits, DryRun, ModelReport, check_model};
pub use config::{Config, ConfigError};
pub use device::{
    AnyDevice, Compute, CpuDevice, Device, DeviceGone, DeviceInfo, Fault, Payload, SimConfig,
    SimDevice,
};
pub use engine::{Engine, start_thread};
pub use error::{Error, LoadError, UnloadError};
pub use fair_queue::FairQueue;
pub use handle::Inference;
pub use models::Model;
pub use request::{
    Class, Explanation, ModelId, ModelSource, ModelSpec, NamedTensor, Port, Reply, Request,
    TenantId, Terms,
};
pub use scheduler::scheduler_cost;
pub use stats::{Histogram, Stats};
pub use tensor::{DType, RANK_MAX, Tensor, TensorError, byte_len};
pub use text::{EmbedReply, EmbedRequest, Encoder};
