//! What can go wrong in a function, and the one place that says which HTTP answer each failure becomes.

use std::{fmt, io};

use serde::Serialize;

use crate::model::code_name;
use crate::{ErrorCode, FetchError, ModelError, Response, TensorError};

/// A failure that answers the request.
///
/// The answer is `{"error":{"message","type","param","code"}}` with the status that fits. A 5xx is logged as well.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The client sent something this function cannot use: 400.
    BadInput {
        /// What was expected and what came.
        message: String,
        /// The field at fault, where there is one.
        param: Option<String>,
    },
    /// The request's body is longer than this function reads: 413.
    BodyTooLarge {
        /// The most it reads.
        limit_bytes: usize,
    },
    /// The request's body broke off before its end: 400.
    BodyIncomplete(io::Error),
    /// A model did not answer: 503 where trying again later helps, 413 for too much input, else 500 or 502.
    Model(ModelError),
    /// Another server did not answer: 502, 504 where it took too long, 500 where this function may not ask it.
    Fetch(FetchError),
    /// Reading or writing failed elsewhere, as when the client leaves in the middle of a streamed response: 500.
    Io(io::Error),
    /// The function itself failed: 500.
    Internal(String),
}

impl Error {
    /// The client's fault, in a message for it.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self::BadInput {
            message: message.into(),
            param: None,
        }
    }

    /// The client's fault, in the field `param`.
    pub fn bad_field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::BadInput {
            message: message.into(),
            param: Some(param.into()),
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::BadInput { .. } | Self::BodyIncomplete(_) => 400,
            Self::BodyTooLarge { .. } => 413,
            Self::Model(ModelError::Host { code, .. }) => model_status(*code),
            Self::Fetch(error) => error.status(),
            Self::Model(ModelError::NoOutput { .. } | ModelError::Tensor(_))
            | Self::Io(_)
            | Self::Internal(_) => 500,
        }
    }

    /// The `code` of the answer: for programs, and stable.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::BadInput { .. } => None,
            Self::BodyTooLarge { .. } => Some("body_too_large"),
            Self::BodyIncomplete(_) => Some("body_incomplete"),
            Self::Model(ModelError::Host { code, .. }) => Some(code_name(*code)),
            Self::Model(ModelError::NoOutput { .. } | ModelError::Tensor(_)) => {
                Some("model_mismatch")
            }
            Self::Fetch(error) => Some(error.code()),
            Self::Io(_) | Self::Internal(_) => Some("internal_error"),
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::BadInput { param, .. } => param.as_deref(),
            Self::BodyTooLarge { .. }
            | Self::BodyIncomplete(_)
            | Self::Model(_)
            | Self::Fetch(_)
            | Self::Io(_)
            | Self::Internal(_) => None,
        }
    }
}

/// A function that names the wrong model or passes the wrong tensors is at fault itself, not its client: 500.
fn model_status(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::Timeout => 503,
        ErrorCode::TooLarge => 413,
        ErrorCode::RuntimeError | ErrorCode::Unknown => 502,
        ErrorCode::InvalidArgument
        | ErrorCode::InvalidEncoding
        | ErrorCode::UnsupportedOperation
        | ErrorCode::NotFound
        | ErrorCode::Security => 500,
    }
}

impl From<Error> for Response {
    fn from(error: Error) -> Self {
        let status = error.status();
        if status >= 500 {
            eprintln!("{error}");
        }
        let response = Response::new(status)
            .header("content-type", "application/json")
            .body(answer_json(&error));
        if status == 503 {
            response.header("retry-after", "1")
        } else {
            response
        }
    }
}

fn answer_json(error: &Error) -> Vec<u8> {
    let message = error.to_string();
    let kind = if error.status() >= 500 {
        "server_error"
    } else {
        "invalid_request_error"
    };
    let answer = Answer {
        error: Detail {
            message: &message,
            kind,
            param: error.param(),
            code: error.code(),
        },
    };
    serde_json::to_vec(&answer).expect("strings have a JSON form")
}

#[derive(Serialize)]
struct Answer<'a> {
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::BodyIncomplete(error) | Self::Io(error) => Some(error),
            Self::Model(error) => Some(error),
            Self::Fetch(error) => Some(error),
            Self::BadInput { .. } | Self::BodyTooLarge { .. } | Self::Internal(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadInput { message, .. } | Self::Internal(message) => f.write_str(message),
            Self::BodyTooLarge { limit_bytes } => {
                write!(f, "body is longer than {limit_bytes} bytes")
            }
            Self::BodyIncomplete(error) => write!(f, "body broke off: {error}"),
            Self::Io(error) => error.fmt(f),
            Self::Model(error) => error.fmt(f),
            Self::Fetch(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<FetchError> for Error {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

impl From<ModelError> for Error {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

impl From<TensorError> for Error {
    fn from(error: TensorError) -> Self {
        Self::Model(ModelError::Tensor(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(code: ErrorCode) -> Error {
        Error::Model(ModelError::Host {
            code,
            message: "queue of digits is full".to_owned(),
        })
    }

    fn json(error: &Error) -> String {
        String::from_utf8(answer_json(error)).expect("JSON is UTF-8")
    }

    #[test]
    fn the_answer_has_all_four_fields() {
        let error = Error::bad_field("image", "image: expected 64 numbers, got 3");
        let expected = r#"{"error":{"message":"image: expected 64 numbers, got 3","type":"invalid_request_error","param":"image","code":null}}"#;
        assert_eq!(json(&error), expected);

        let expected = r#"{"error":{"message":"model_timeout: queue of digits is full","type":"server_error","param":null,"code":"model_timeout"}}"#;
        assert_eq!(json(&host(ErrorCode::Timeout)), expected);
    }

    #[test]
    fn the_functions_own_failures_have_their_status_and_code() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mismatch = ModelError::NoOutput {
            name: "label".to_owned(),
        };
        let limit_bytes = 9;
        let cases = [
            (Error::bad_input("no"), 400, None),
            (
                Error::BodyTooLarge { limit_bytes },
                413,
                Some("body_too_large"),
            ),
            (
                Error::BodyIncomplete(broken()),
                400,
                Some("body_incomplete"),
            ),
            (Error::Model(mismatch), 500, Some("model_mismatch")),
            (Error::Io(broken()), 500, Some("internal_error")),
            (
                Error::Internal("no".to_owned()),
                500,
                Some("internal_error"),
            ),
        ];
        for (error, status, code) in cases {
            assert_eq!((error.status(), error.code()), (status, code), "{error}");
        }
    }

    #[test]
    fn a_models_failure_says_who_is_at_fault_and_whether_to_try_again() {
        let cases = [
            (ErrorCode::InvalidArgument, 500),
            (ErrorCode::InvalidEncoding, 500),
            (ErrorCode::Timeout, 503),
            (ErrorCode::RuntimeError, 502),
            (ErrorCode::UnsupportedOperation, 500),
            (ErrorCode::TooLarge, 413),
            (ErrorCode::NotFound, 500),
            (ErrorCode::Security, 500),
            (ErrorCode::Unknown, 502),
        ];
        for (code, status) in cases {
            assert_eq!(host(code).status(), status, "{code:?}");
        }
    }
}
