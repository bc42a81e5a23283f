//! Texts: turned into the rows that a model takes, and what it makes of them into vectors.

mod embed;
mod encoder;

pub use embed::{EmbedReply, EmbedRequest};
pub use encoder::Encoder;
