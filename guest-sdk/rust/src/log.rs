//! Lines for whoever runs the function, over `wasi:logging`. The node keeps the newest ones of each function, with the time
//! and the request's id; what `println!` and `eprintln!` write stands between them, without a level.
//!
//! ```no_run
//! use shoal_sdk::log;
//!
//! let rows = 0;
//! log::warn(format!("expected rows, got {rows}"));
//! ```
//!
//! A line too long for the node is cut, and control characters are shown escaped. Logging never fails and never waits.

pub use crate::bindings::wasi::logging::logging::Level;
use crate::bindings::wasi::logging::logging::log as raw;

/// A line of one level. `context` groups similar lines, as the name of a part does; it may be empty.
pub fn log(level: Level, context: &str, message: impl AsRef<str>) {
    raw(level, context, message.as_ref());
}

/// The values of variables and the flow of control.
pub fn trace(message: impl AsRef<str>) {
    log(Level::Trace, "", message);
}

/// Of interest to someone who looks for a mistake.
pub fn debug(message: impl AsRef<str>) {
    log(Level::Debug, "", message);
}

/// Of interest to someone who watches the function.
pub fn info(message: impl AsRef<str>) {
    log(Level::Info, "", message);
}

/// Something that may become an error.
pub fn warn(message: impl AsRef<str>) {
    log(Level::Warn, "", message);
}

/// An error.
pub fn error(message: impl AsRef<str>) {
    log(Level::Error, "", message);
}
