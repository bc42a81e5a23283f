//! The admin API's map from failures to answers: status, type, code, the field it is about, and when to try again.

use crate::control::{ControlError, Thing};
use crate::http::{Error as RequestError, ErrorShape};
use crate::models::AdmitError;
use crate::sandbox::CompileError;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use std::time::Duration;

/// Every answer of the admin API that is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// What a request to any part of the node may be refused for.
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("method is not allowed here")]
    Method,
    /// A part of the request that cannot be read: which, and why.
    #[error("{param}: {why}")]
    Invalid { param: &'static str, why: String },
    #[error("body is larger than {limit} bytes ({key})")]
    TooLarge { limit: usize, key: &'static str },
    #[error("request was not done after {0:?} (api_timeout)")]
    Timeout(Duration),
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl ApiError {
    fn shape(&self) -> ErrorShape {
        let wrong = ErrorShape::wrong;
        match self {
            Self::Request(error) => error.shape(),
            Self::Method => wrong(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", None),
            Self::Invalid { param, .. } => {
                wrong(StatusCode::BAD_REQUEST, "invalid_value", Some(param))
            }
            Self::TooLarge { .. } => wrong(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                Some("body"),
            ),
            Self::Timeout(_) => wrong(StatusCode::REQUEST_TIMEOUT, "api_timeout", None),
            Self::Control(error) => control(error),
        }
    }
}

fn control(error: &ControlError) -> ErrorShape {
    let (wrong, server) = (ErrorShape::wrong, ErrorShape::server);
    let bad = |code, param| wrong(StatusCode::BAD_REQUEST, code, Some(param));
    match error {
        ControlError::Name(_) | ControlError::KeyName => bad("invalid_name", "name"),
        ControlError::Limit { .. } => wrong(StatusCode::FORBIDDEN, "limit_reached", None),
        ControlError::Unknown(thing) => {
            let code = match thing {
                Thing::Project => "project_not_found",
                Thing::Function => "function_not_found",
                Thing::Version => "version_not_found",
                Thing::Canary => "canary_not_found",
                Thing::Model => "model_not_found",
                Thing::Key => "key_not_found",
            };
            wrong(StatusCode::NOT_FOUND, code, None)
        }
        ControlError::Exists { .. } => wrong(StatusCode::CONFLICT, "already_exists", Some("name")),
        ControlError::EgressLimit { .. } => bad("egress_limit", "egress"),
        ControlError::ReuseLimit { .. } => bad("reuse_limit", "reuse"),
        ControlError::ProjectLimit { what, .. } => bad("invalid_limit", what),
        ControlError::NoPriority => wrong(StatusCode::FORBIDDEN, "no_priority", Some("class")),
        ControlError::CanaryAlone => bad("canary_alone", "canary"),
        ControlError::UnknownModel(_) => bad("model_not_found", "models"),
        ControlError::ModelInUse { .. } => wrong(StatusCode::CONFLICT, "model_in_use", None),
        ControlError::LastAdminKey => wrong(StatusCode::CONFLICT, "last_admin_key", None),
        ControlError::Component(error) => component(error),
        ControlError::Model(error) => model(error),
        ControlError::ModelLoad => {
            server(StatusCode::INSUFFICIENT_STORAGE, "model_does_not_fit", None)
        }
        ControlError::Conflict => wrong(StatusCode::CONFLICT, "changed_meanwhile", None),
        ControlError::Full => server(StatusCode::INSUFFICIENT_STORAGE, "disk_full", None),
        ControlError::Store => server(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", SOON),
    }
}

const SOON: Option<Duration> = Some(Duration::from_secs(1));

fn component(error: &CompileError) -> ErrorShape {
    let bad = |code| ErrorShape::wrong(StatusCode::BAD_REQUEST, code, Some("component"));
    match error {
        CompileError::TooLarge { .. } => ErrorShape::wrong(
            StatusCode::PAYLOAD_TOO_LARGE,
            "component_too_large",
            Some("component"),
        ),
        CompileError::NotAComponent => bad("not_a_component"),
        CompileError::Invalid(_) => bad("invalid_component"),
        CompileError::Contract(_) => bad("component_contract"),
        CompileError::Timeout(_) | CompileError::OverLimit { .. } => bad("compile_limit"),
        CompileError::Busy { .. } => ErrorShape {
            kind: "rate_limit_error",
            retry_after: SOON,
            ..ErrorShape::wrong(StatusCode::TOO_MANY_REQUESTS, "compile_queue_full", None)
        },
        CompileError::Host(_) => {
            ErrorShape::server(StatusCode::INTERNAL_SERVER_ERROR, "compiler_failed", None)
        }
    }
}

fn model(error: &AdmitError) -> ErrorShape {
    let bad = |code| ErrorShape::wrong(StatusCode::BAD_REQUEST, code, Some("model"));
    match error {
        AdmitError::TooLarge { .. } => ErrorShape::wrong(
            StatusCode::PAYLOAD_TOO_LARGE,
            "model_too_large",
            Some("model"),
        ),
        AdmitError::Refused(_) => bad("invalid_model"),
        AdmitError::OverLimit { .. } | AdmitError::Timeout(_) => bad("model_check_limit"),
        AdmitError::Host(_) => ErrorShape::server(
            StatusCode::INTERNAL_SERVER_ERROR,
            "model_check_failed",
            None,
        ),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let shape = self.shape();
        if shape.status == StatusCode::INTERNAL_SERVER_ERROR {
            // Its words stay here; what goes out names no cause.
            tracing::error!(
                error = format!("{:#}", anyhow::Error::from(self)),
                "a command failed"
            );
            return shape.response("the node could not do this").map(Body::from);
        }
        shape.response(&self.to_string()).map(Body::from)
    }
}
