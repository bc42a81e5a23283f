//! The one map from everything that can go wrong to an answer: status, type, code, words, and when to try again. Nothing
//! of the host, of a library or of another tenant gets into the words.

use crate::sandbox::messages::Failure;
use crate::sandbox::{Busy, NAME_LEN_MAX};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde_json::json;
use std::time::Duration;

/// Every answer that is not a guest's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// No such path.
    #[error("no such path")]
    UnknownPath,
    /// No such function, or one the caller may not know of.
    #[error("no such function (projects and functions are 1 to {NAME_LEN_MAX} of a-z, 0-9 and -)")]
    UnknownFunction,
    /// A function that is not public, and no key.
    #[error("no API key: send `Authorization: Bearer <key>` with a key of the function's project")]
    NoKey,
    /// A key that nobody has.
    #[error("API key is wrong or was revoked")]
    WrongKey,
    /// An admin key where a project pays.
    #[error("an admin key calls no functions: use a key of the function's project")]
    AdminKey,
    /// A project's key where only the operator may look.
    #[error("this needs an admin key")]
    NotAdmin,
    /// A path of the node's own with a method it does not have.
    #[error("method is not allowed here, only {allowed}")]
    Method { allowed: &'static str },
    /// A request without a host, or with several.
    #[error("request must be for one host (a host header; in HTTP/2 :authority)")]
    Host,
    /// A page of another site, where nobody is asked for a key.
    #[error(
        "this node asks for no key, so it is managed from its own machine only: as localhost or by its loopback address (host), and by pages of that host (origin)"
    )]
    Foreign,
    /// A body that says it is too long, or turned out to be.
    #[error("request body is larger than {limit} bytes (body_bytes_max)")]
    BodyTooLarge { limit: u64 },
    /// A client that sends its body too slowly.
    #[error("request body came slower than {limit} bytes per second (body_rate_min)")]
    BodyTooSlow { limit: u64 },
    /// Too many guests.
    #[error("{0}")]
    Busy(BusyWith),
    /// The node stops.
    #[error("node is shutting down")]
    Draining,
    /// The node is not ready: a device is gone.
    #[error("node is not ready")]
    NotReady,
    /// The guest failed.
    #[error("{0}")]
    Guest(Failure),
}

/// Words for [`Busy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BusyWith(pub(crate) Busy);

impl std::fmt::Display for BusyWith {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Busy::Tenant { limit } => write!(
                f,
                "project has {limit} invocations running, the most it may (tenant_guests_max)"
            ),
            Busy::Node { limit } => write!(
                f,
                "node has {limit} invocations running, the most it can (guests_max)"
            ),
        }
    }
}

/// Status, type, code and field of an error, and when to try again.
pub(crate) struct ErrorShape {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) code: &'static str,
    pub(crate) param: Option<&'static str>,
    pub(crate) retry_after: Option<Duration>,
}

impl ErrorShape {
    /// Whoever asked has to ask otherwise.
    pub(crate) fn wrong(
        status: StatusCode,
        code: &'static str,
        param: Option<&'static str>,
    ) -> Self {
        Self {
            status,
            kind: "invalid_request_error",
            code,
            param,
            retry_after: None,
        }
    }

    /// The node or the function could not.
    pub(crate) fn server(
        status: StatusCode,
        code: &'static str,
        retry_after: Option<Duration>,
    ) -> Self {
        Self {
            status,
            kind: "server_error",
            code,
            param: None,
            retry_after,
        }
    }

    /// The whole answer.
    pub(crate) fn response(&self, message: &str) -> Response<Bytes> {
        let body = json!({"error": {
            "message": message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }});
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

const SOON: Option<Duration> = Some(Duration::from_secs(1));

impl Error {
    /// The configuration key of the limit that was hit, for the counter of refusals.
    pub(crate) fn limit(&self) -> Option<&'static str> {
        match self {
            Error::BodyTooLarge { .. } => Some("body_bytes_max"),
            Error::BodyTooSlow { .. } => Some("body_rate_min"),
            Error::Busy(BusyWith(Busy::Tenant { .. })) => Some("tenant_guests_max"),
            Error::Busy(BusyWith(Busy::Node { .. })) | Error::Guest(Failure::Exhausted) => {
                Some("guests_max")
            }
            Error::Guest(Failure::Deadline) => Some("invocation_timeout"),
            Error::Guest(Failure::CpuLimit) => Some("guest_cpu_max"),
            Error::Guest(Failure::CompilesBusy) => Some("tenant_compiles_max"),
            Error::UnknownPath
            | Error::UnknownFunction
            | Error::NoKey
            | Error::WrongKey
            | Error::AdminKey
            | Error::NotAdmin
            | Error::Method { .. }
            | Error::Host
            | Error::Foreign
            | Error::Draining
            | Error::NotReady
            | Error::Guest(
                Failure::Trap
                | Failure::NoResponse
                | Failure::Errored
                | Failure::Exited
                | Failure::Unavailable,
            ) => None,
        }
    }

    /// What of it goes on the wire.
    pub(crate) fn shape(&self) -> ErrorShape {
        let (wrong, server) = (ErrorShape::wrong, ErrorShape::server);
        let limited = |code| ErrorShape {
            kind: "rate_limit_error",
            retry_after: SOON,
            ..wrong(StatusCode::TOO_MANY_REQUESTS, code, None)
        };
        match self {
            Error::UnknownPath => wrong(StatusCode::NOT_FOUND, "unknown_path", None),
            Error::UnknownFunction => wrong(StatusCode::NOT_FOUND, "function_not_found", None),
            Error::NoKey => wrong(StatusCode::UNAUTHORIZED, "missing_api_key", None),
            Error::WrongKey => wrong(StatusCode::UNAUTHORIZED, "invalid_api_key", None),
            Error::AdminKey => wrong(StatusCode::FORBIDDEN, "project_key_required", None),
            Error::NotAdmin => wrong(StatusCode::FORBIDDEN, "admin_key_required", None),
            Error::Method { .. } => {
                wrong(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", None)
            }
            Error::Host => wrong(StatusCode::BAD_REQUEST, "host_missing", Some("host")),
            Error::Foreign => wrong(StatusCode::FORBIDDEN, "foreign_origin", Some("origin")),
            Error::BodyTooLarge { .. } => wrong(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                Some("body"),
            ),
            Error::BodyTooSlow { .. } => {
                wrong(StatusCode::REQUEST_TIMEOUT, "body_too_slow", Some("body"))
            }
            Error::Busy(BusyWith(Busy::Tenant { .. })) => limited("concurrency_limit"),
            Error::Busy(BusyWith(Busy::Node { .. })) => {
                server(StatusCode::SERVICE_UNAVAILABLE, "node_busy", SOON)
            }
            Error::Draining => server(StatusCode::SERVICE_UNAVAILABLE, "node_draining", SOON),
            Error::NotReady => server(StatusCode::SERVICE_UNAVAILABLE, "node_not_ready", SOON),
            Error::Guest(failure) => {
                let (status, code, retry) = match failure {
                    Failure::Trap => (StatusCode::INTERNAL_SERVER_ERROR, "function_failed", None),
                    Failure::Deadline => (StatusCode::GATEWAY_TIMEOUT, "function_timeout", None),
                    Failure::CpuLimit => (StatusCode::GATEWAY_TIMEOUT, "function_cpu_limit", None),
                    Failure::NoResponse => (StatusCode::BAD_GATEWAY, "function_no_answer", None),
                    Failure::Errored => (StatusCode::BAD_GATEWAY, "function_errored", None),
                    Failure::Exited => (StatusCode::INTERNAL_SERVER_ERROR, "function_exited", None),
                    Failure::Exhausted => (StatusCode::SERVICE_UNAVAILABLE, "node_busy", SOON),
                    Failure::Unavailable => {
                        let code = "component_unavailable";
                        (StatusCode::SERVICE_UNAVAILABLE, code, SOON)
                    }
                    Failure::CompilesBusy => return limited("compile_limit"),
                };
                server(status, code, retry)
            }
        }
    }

    /// Status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        self.shape().status
    }

    /// The whole answer.
    pub(crate) fn into_response(self) -> Response<Bytes> {
        let mut response = self.shape().response(&self.to_string());
        if let Error::Method { allowed } = self {
            let headers = response.headers_mut();
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: [(Failure, u16); 9] = [
        (Failure::Trap, 500),
        (Failure::Deadline, 504),
        (Failure::CpuLimit, 504),
        (Failure::NoResponse, 502),
        (Failure::Errored, 502),
        (Failure::Exited, 500),
        (Failure::Exhausted, 503),
        (Failure::Unavailable, 503),
        (Failure::CompilesBusy, 429),
    ];

    #[test]
    fn every_error_has_a_status_and_all_four_fields() {
        let busy = |busy| Error::Busy(BusyWith(busy));
        let mut all = vec![
            (Error::UnknownPath, 404),
            (Error::UnknownFunction, 404),
            (Error::NoKey, 401),
            (Error::WrongKey, 401),
            (Error::AdminKey, 403),
            (Error::NotAdmin, 403),
            (Error::Method { allowed: "GET" }, 405),
            (Error::Host, 400),
            (Error::Foreign, 403),
            (Error::BodyTooLarge { limit: 7 }, 413),
            (Error::BodyTooSlow { limit: 7 }, 408),
            (busy(Busy::Tenant { limit: 7 }), 429),
            (busy(Busy::Node { limit: 7 }), 503),
            (Error::Draining, 503),
            (Error::NotReady, 503),
        ];
        all.extend(GUEST.map(|(failure, status)| (Error::Guest(failure), status)));
        for (error, status) in all {
            let response = error.clone().into_response();
            assert_eq!(response.status(), status, "{error:?}");
            let retry = response.headers().contains_key(RETRY_AFTER);
            assert_eq!(retry, [429, 503].contains(&status), "{error:?}");
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            let fields: Vec<_> = body["error"].as_object().unwrap().keys().cloned().collect();
            assert_eq!(fields, ["code", "message", "param", "type"]);
        }
    }
}
