//! Guests: compiled in a child process, instantiated fresh for each request, metered, interrupted, moved, dropped.
//!
//! Knows no socket and no key. Who a guest is comes bound into what it was started with: see `messages`.

mod answer;
mod background;
mod compile;
mod engine;
mod guest;
mod invoke;
pub mod messages;
mod meter;
mod registry;
mod runner;
mod state;

pub use answer::{Answer, BodyError, GuestBody, Streamed};
pub use compile::{ChildLimits, CompileError, child as compile_child};
pub use engine::{Allocator, Sandbox};
pub(crate) use engine::{can_scan_pagemap, files_max};
pub use guest::Tenant;
pub use invoke::{Cpu, Invocation};
pub use registry::{DeployError, Function, FunctionSource, NAME_LEN_MAX, Registry};
pub use runner::{Busy, Runner};
