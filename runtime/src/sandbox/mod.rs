//! Guests: compiled in a child process, instantiated fresh for each request (unless their owner wants otherwise: `kept`), metered, interrupted, moved, dropped.
//!
//! Knows no socket and no key. Who a guest is comes bound into what it was started with: see `messages`.

mod answer;
mod background;
mod cache;
mod canary;
mod command;
mod compile;
mod compile_queue;
mod components;
mod contract;
mod engine;
mod guest;
mod invoke;
mod kept;
mod logs;
pub mod messages;
mod meter;
mod outgoing;
mod registry;
mod runner;
mod state;
mod ticker;

pub use answer::{Answer, BodyError, GuestBody, Streamed};
pub use cache::{Code, CodeCache, CodeKey, Loaded};
pub(crate) use canary::{Findings, Seat, Who};
pub use compile::{CompileError, child as compile_child};
pub use components::{ComponentStats, Components, Ready};
pub use engine::{Allocator, Sandbox};
pub(crate) use engine::{can_scan_pagemap, files_max};
pub use guest::Tenant;
pub use invoke::{Cpu, Invocation};
pub(crate) use logs::BESIDE_TEXT_BYTES_MAX;
pub use logs::{Follower, Line, LogRing, LogWriter, Origin, Source};
pub(crate) use messages::ComponentId;
pub(crate) use registry::{Chosen, Serving, check_name};
pub use registry::{
    Fetch, Function, FunctionSource, FunctionVersion, Grants, NAME_LEN_MAX, NameError, Registry,
};
pub use runner::{Bound, Busy, Runner};
