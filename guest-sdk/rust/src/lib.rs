//! Write Shoal functions in Rust: an HTTP request comes in, models are in reach, an HTTP response goes out.
//!
//! A function is a library of crate type `cdylib`, built for `wasm32-wasip2`, that names its handler once:
//!
//! ```
//! use shoal_sdk::{Error, Request, Response};
//!
//! shoal_sdk::http!(handle);
//!
//! fn handle(request: Request) -> Result<Response, Error> {
//!     Ok(Response::text(format!("You asked for {}\n", request.path())))
//! }
//! ```
//!
//! - [`Request`] and its [`Body`]: read whole, up to a limit, or in chunks as they come.
//! - [`Response`]: whole, or streamed through a [`BodyWriter`].
//! - [`Model`]: [`Tensor`]s in, [`Outputs`] out, over `wasi:nn`; many requests at once.
//! - [`embed()`]: texts in, vectors out; the host splits texts into tokens.
//! - [`Fetch`]: requests to other servers, those that the function was granted.
//! - [`context()`]: whose function this is, and how long the request has.
//! - [`log`]: lines for whoever runs the function, each with a level, over `wasi:logging`; what a function prints to stdout
//!   and stderr goes there too.
//! - [`Error`]: each failure has the HTTP answer it deserves, so a handler can use `?` throughout.
//!
//! Every request runs in a fresh sandbox: statics do not survive it, and there are no files, variables or
//! sockets.

use bindings::exports::wasi::http::incoming_handler::{IncomingRequest, ResponseOutparam};

pub use body::{Body, BodyWriter};
pub use context::{Context, context};
pub use embeddings::embed;
pub use error::Error;
pub use fetch::{Fetch, FetchError, Fetched};
pub use model::{ErrorCode, Model, ModelError, Outputs};
pub use request::Request;
pub use response::Response;
pub use tensor::{Element, Tensor, TensorError, TensorType};

#[doc(hidden)]
pub mod bindings;
mod body;
mod context;
mod embeddings;
mod error;
mod fetch;
pub mod log;
mod model;
mod request;
mod response;
mod tensor;

/// Makes `fn(Request) -> Result<Response, Error>` the handler of this function.
///
/// Once in a crate, at its top level: it exports `wasi:http/incoming-handler`.
#[macro_export]
macro_rules! http {
    ($handle:path) => {
        const _: () = {
            use $crate::bindings::exports::wasi::http::incoming_handler::{
                Guest, IncomingRequest, ResponseOutparam,
            };

            struct Function;

            impl Guest for Function {
                fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
                    $crate::answer(request, outparam, $handle);
                }
            }

            $crate::bindings::export! { Function with_types_in $crate::bindings }
        };
    };
}

/// One request, from its arrival to the last byte of its answer: what [`http!`] expands to a call of.
#[doc(hidden)]
pub fn answer(
    request: IncomingRequest,
    outparam: ResponseOutparam,
    handle: impl FnOnce(Request) -> Result<Response, Error>,
) {
    handle(Request::new(request))
        .unwrap_or_else(Response::from)
        .send(outparam);
}
