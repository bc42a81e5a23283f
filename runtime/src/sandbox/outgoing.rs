//! Outgoing HTTP as a guest sees it: `wasi:http/outgoing-handler` over `egress`, with the guest's identity bound in.

use super::logs::LogWriter;
use super::registry::Function;
use crate::egress::Egress;
use http::{HeaderName, Request, Response};
use shoal_host::logging::Level;
use std::future::{Future, ready};
use std::sync::Arc;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error as HttpError, RequestOptions, WasiBody, WasiHttpHooks,
};

/// Bytes of one write to an outgoing body; two are buffered.
const BODY_CHUNK_BYTES: usize = 64 << 10;
/// The context of what the platform itself writes to a function's log.
const LOG_CONTEXT: &str = "egress";

/// What one guest sends.
pub(crate) struct Outgoing {
    pub(super) egress: Egress,
    pub(super) function: Arc<Function>,
    pub(super) log: LogWriter,
}

/// An answer's head, and what moves its connection: nothing, since that has a thread of its own.
type Answered = (
    Response<WasiBody>,
    Box<dyn Future<Output = Result<(), HttpError>> + Send>,
);

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answered, HttpError>> + Send> {
        let Function { tenant, reach, .. } = &*self.function;
        let sent = self
            .egress
            .send(tenant.id, reach, request, options.unwrap_or_default());
        match sent {
            Ok(answer) => Box::new(async move {
                let moves: Box<dyn Future<Output = _> + Send> = Box::new(ready(Ok(())));
                Ok((answer.await?, moves))
            }),
            Err(refused) => {
                // The guest gets a code alone, which says neither what was asked for nor what would have to change.
                self.log.log(Level::Warn, LOG_CONTEXT, &refused.to_string());
                Box::new(ready(Err(refused.told())))
            }
        }
    }

    /// The default makes a closure on the heap for each name it is asked about.
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    /// The client sets it, where its version of HTTP has it.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }
}
