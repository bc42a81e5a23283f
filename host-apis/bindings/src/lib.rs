//! What a guest can call: the host side of each WIT interface, one file for each. Opens no socket and no file: what answers
//! a call reaches this crate as a trait that `runtime` implements, with the caller's identity already bound to it.
#![forbid(unsafe_code)]

pub mod context;
pub mod embeddings;
pub mod logging;
pub mod many;
pub mod nn;
pub mod witx;
