//! What can run models. A device is owned by its worker (`worker`) and spoken to in the plain messages of [`crate::plan`]:
//! where it really is, on a thread, on a card or in another process, nobody but its own file knows. A new one passes
//! `device_conformance` (in this crate's tests) before anything else.

mod cpu;
mod sim;

pub use cpu::CpuDevice;
pub use sim::{Compute, Fault, SimConfig, SimDevice};

use crate::plan::{Command, Event};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

/// Runs plans, at most [`DeviceInfo::depth`] at a time, and answers each exactly once, in the order in which they ended.
pub trait Device: Send + 'static {
    /// What it is.
    fn describe(&self) -> DeviceInfo;

    /// Hands a command over; never blocks. `payload` is the one buffer the command's tensors point into, or the model's
    /// file, or empty.
    ///
    /// # Errors
    /// The device is gone and will answer nothing more.
    fn send(&mut self, command: Command, payload: Payload) -> Result<(), DeviceGone>;

    /// The next answer and the buffer its tensors point into; waits for it. `None`: the device is gone. Cancel safe: a
    /// dropped call loses no answer.
    fn recv(&mut self) -> impl Future<Output = Option<(Event, Payload)>> + Send;
}

/// The device has ended; what it held is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device is gone")]
pub struct DeviceGone;

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// For logs and metrics.
    pub name: String,
    /// Memory for models and batches, where the device has its own.
    pub memory_bytes: Option<u64>,
    /// Whether its times are a model's and not a machine's.
    pub simulated: bool,
    /// Plans it holds at once: 1, or [`crate::plan::DEPTH`], where the second begins the moment the first ends.
    pub depth: usize,
}

/// The bytes that travel beside a message.
#[derive(Clone, Debug)]
pub enum Payload {
    /// A buffer made for this message.
    Owned(Vec<u8>),
    /// A model's file, which every device reads.
    Shared(Arc<[u8]>),
}

impl Payload {
    /// No bytes.
    pub const fn empty() -> Self {
        Self::Owned(Vec::new())
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Every kind of device.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a node has a handful, each made once and then owned by its worker"
)]
pub enum AnyDevice {
    /// This machine's processor.
    Cpu(CpuDevice),
    /// A simulated accelerator.
    Sim(SimDevice),
}

impl Device for AnyDevice {
    fn describe(&self) -> DeviceInfo {
        match self {
            Self::Cpu(device) => device.describe(),
            Self::Sim(device) => device.describe(),
        }
    }

    fn send(&mut self, command: Command, payload: Payload) -> Result<(), DeviceGone> {
        match self {
            Self::Cpu(device) => device.send(command, payload),
            Self::Sim(device) => device.send(command, payload),
        }
    }

    async fn recv(&mut self) -> Option<(Event, Payload)> {
        match self {
            Self::Cpu(device) => device.recv().await,
            Self::Sim(device) => device.recv().await,
        }
    }
}

impl From<CpuDevice> for AnyDevice {
    fn from(device: CpuDevice) -> Self {
        Self::Cpu(device)
    }
}

impl From<SimDevice> for AnyDevice {
    fn from(device: SimDevice) -> Self {
        Self::Sim(device)
    }
}
