//! Sockets in, answers out: accept, limit, route, admit, drain, and the one map from failures to answers. Knows no models.

mod access;
mod body;
mod connection;
mod error;
mod head;
mod origin;
mod pace;
mod preface;
mod record;
mod router;
mod server;
mod service;
mod socket;
mod streams;

pub(crate) use body::BodyLimits;
pub(crate) use error::{Error, ErrorShape};
pub(crate) use record::Record;
pub(crate) use router::{NODE_ROUTES, NodeRoute, Role};
pub(crate) use server::run;
pub(crate) use service::{RequestIds, Service};
