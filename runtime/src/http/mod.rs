//! Sockets in, answers out: accept, limit, route, admit, drain, and the one map from failures to answers. Knows no models.

mod body;
mod connection;
mod error;
mod record;
mod router;
mod server;
mod service;

pub(crate) use body::BodyLimits;
pub(crate) use record::Record;
pub(crate) use server::run;
pub(crate) use service::{RequestIds, Service};
