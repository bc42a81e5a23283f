//! Requests to other servers, over `wasi:http`. Which hosts a function may reach is granted when it is deployed
//! (`shoal deploy --egress api.example.com`); any other, and any address of a private network, is refused.

use std::fmt;
use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::wasi::http::outgoing_handler::handle;
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, Headers, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, RequestOptions, Scheme,
};
use crate::body::read_whole;
use crate::{Body, BodyWriter, Error};

/// A request to another server: built in one expression, sent at its end. Redirects are not followed.
///
/// ```no_run
/// use serde::Deserialize;
/// use shoal_sdk::{Error, Fetch};
///
/// #[derive(Deserialize)]
/// struct Weather {
///     celsius: f32,
/// }
///
/// # fn weather() -> Result<f32, Error> {
/// let answer = Fetch::get("https://api.example.com/weather?city=Lima")
///     .header("accept", "application/json")
///     .send()?;
/// let weather: Weather = answer.json(64 * 1024)?;
/// # Ok(weather.celsius)
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Fetch {
    method: String,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
    timeout: Option<Duration>,
}

/// What came back: its head is here, its body may still be on the way.
pub struct Fetched {
    host: String,
    response: IncomingResponse,
}

/// Why a server did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchError {
    /// Not an `http` or `https` URL, or a header or a method that no request can have.
    Invalid {
        /// What was wrong.
        message: String,
    },
    /// A host that this function was not granted, or an address that no function may reach.
    Denied {
        /// Which.
        host: String,
    },
    /// It took too long.
    Timeout {
        /// Who.
        host: String,
    },
    /// The answer's body is longer than this function reads.
    TooLarge {
        /// Whose.
        host: String,
        /// The most it reads.
        limit_bytes: usize,
    },
    /// It was not reached, broke off, or does not speak HTTP.
    Failed {
        /// Who.
        host: String,
        /// What happened.
        reason: String,
    },
}

impl Fetch {
    /// A request with any method.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: None,
            timeout: None,
        }
    }

    /// A `GET`.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A `POST`.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// Sets a header, in place of any of that name. `host` and those of the connection itself are the platform's to set.
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the whole body.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = Some(bytes.into());
        self
    }

    /// Sets the body to `value` as JSON, and `content-type` with it.
    ///
    /// # Errors
    /// [`Error::Internal`] where `value` has no JSON form.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, Error> {
        let json = serde_json::to_vec(value)
            .map_err(|error| Error::Internal(format!("request has no JSON form: {error}")))?;
        Ok(self.header("content-type", "application/json").body(json))
    }

    /// How long until the head of the answer is here, connecting included; at most what the node allows.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it and waits for the head of the answer; waiting takes no CPU time.
    ///
    /// # Errors
    /// See [`FetchError`]. An answer with a status like 404 or 500 is an answer, not an error.
    pub fn send(mut self) -> Result<Fetched, FetchError> {
        let body = self.body.take();
        let bytes = body.as_deref().unwrap_or_default();
        let sends_body = body.is_some() || ["POST", "PUT", "PATCH"].contains(&&*self.method);
        if sends_body {
            self = self.header("content-length", bytes.len().to_string());
        }
        let sent = self.exchange(|writer| writer.write_all(bytes).map_err(Error::Io))?;
        sent.map_err(|(host, error)| FetchError::Failed {
            host,
            reason: error.to_string(),
        })
    }

    /// Sends it with a body that `produce` writes while it leaves, and waits for the head of the answer.
    ///
    /// # Errors
    /// See [`FetchError`]; what `produce` fails with, and then the server sees the body break off.
    pub fn send_streamed(
        self,
        produce: impl FnOnce(&mut BodyWriter) -> Result<(), Error>,
    ) -> Result<Fetched, Error> {
        self.exchange(produce)?.map_err(|(_, error)| error)
    }

    /// The inner result is what writing the body came to.
    fn exchange(
        self,
        produce: impl FnOnce(&mut BodyWriter) -> Result<(), Error>,
    ) -> Result<Result<Fetched, (String, Error)>, FetchError> {
        let target = Target::parse(&self.url).ok_or_else(|| FetchError::Invalid {
            message: format!("{:?} is no http or https URL", self.url),
        })?;
        let host = target.authority.to_owned();
        let request = self.head(&target)?;
        let body = request.body().expect("a new request has a body to give");
        let answer = handle(request, Some(self.options())).map_err(|code| failure(&host, code))?;
        if let Err(error) = write(body, produce) {
            // A server may answer before it has read all, and close: its answer says more than the write that failed.
            answer.subscribe().block();
            return match (&error, answered(&answer)) {
                (Error::Io(_), Some(Ok(response))) => Ok(Ok(Fetched { host, response })),
                (Error::Io(_), Some(Err(code))) => Err(failure(&host, code)),
                _ => Ok(Err((host, error))),
            };
        }
        answer.subscribe().block();
        match answered(&answer) {
            Some(Ok(response)) => Ok(Ok(Fetched { host, response })),
            Some(Err(code)) => Err(failure(&host, code)),
            None => Err(failure(&host, ErrorCode::InternalError(None))),
        }
    }

    fn head(&self, target: &Target<'_>) -> Result<OutgoingRequest, FetchError> {
        let invalid = |message: String| FetchError::Invalid { message };
        let fields = Fields::from_list(&self.headers)
            .map_err(|error| invalid(format!("a header cannot be sent: {error}")))?;
        let request = OutgoingRequest::new(fields);
        let scheme = Some(&target.scheme);
        let set = request
            .set_method(&method(&self.method))
            .and_then(|()| request.set_scheme(scheme))
            .and_then(|()| request.set_authority(Some(target.authority)))
            .and_then(|()| request.set_path_with_query(Some(&target.path)));
        set.map_err(|()| invalid(format!("{} {:?} cannot be sent", self.method, self.url)))?;
        Ok(request)
    }

    fn options(&self) -> RequestOptions {
        let options = RequestOptions::new();
        if let Some(timeout) = self.timeout {
            let timeout = u64::try_from(timeout.as_nanos()).ok();
            // The host knows it.
            let _ = options.set_first_byte_timeout(timeout);
        }
        options
    }
}

impl Fetched {
    /// The status.
    pub fn status(&self) -> u16 {
        self.response.status()
    }

    /// The first header of that name, in any case; `None` also where its value is not UTF-8.
    pub fn header(&self, name: &str) -> Option<String> {
        let value = self.response.headers().get(name).into_iter().next()?;
        String::from_utf8(value).ok()
    }

    /// Every header line, names in lower case.
    pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
        Headers::entries(&self.response.headers())
    }

    /// The body as a stream. It can be had once: a second call answers an empty body.
    pub fn body(&self) -> Body {
        Body::new(self.response.consume().ok())
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`FetchError::TooLarge`] as soon as more than `limit_bytes` came, [`FetchError::Failed`] where it broke off.
    pub fn bytes(&self, limit_bytes: usize) -> Result<Vec<u8>, FetchError> {
        let mut body = self.body();
        let host = || self.host.clone();
        read_whole(limit_bytes, || body.chunk()).map_err(|error| match error {
            Error::BodyTooLarge { limit_bytes } => FetchError::TooLarge {
                host: host(),
                limit_bytes,
            },
            error => FetchError::Failed {
                host: host(),
                reason: error.to_string(),
            },
        })
    }

    /// The whole body, read as JSON.
    ///
    /// # Errors
    /// As [`Fetched::bytes`]; [`FetchError::Failed`] saying what is wrong where the JSON does not fit `T`.
    pub fn json<T: DeserializeOwned>(&self, limit_bytes: usize) -> Result<T, FetchError> {
        let bytes = self.bytes(limit_bytes)?;
        serde_json::from_slice(&bytes).map_err(|error| FetchError::Failed {
            host: self.host.clone(),
            reason: format!("answered {} with other JSON: {error}", self.status()),
        })
    }
}

/// A body to its end. On an error it is dropped unfinished: nobody must take a part for the whole.
fn write(
    body: OutgoingBody,
    produce: impl FnOnce(&mut BodyWriter) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut writer = BodyWriter::new(body.write().expect("a new body has a stream to give"));
    produce(&mut writer)?;
    drop(writer);
    OutgoingBody::finish(body, None).map_err(|error| Error::Internal(error.to_string()))
}

/// What the server answered, if it has.
fn answered(answer: &FutureIncomingResponse) -> Option<Result<IncomingResponse, ErrorCode>> {
    answer.get()?.ok()
}

/// The parts of a URL that a request is made of.
#[derive(Debug)]
struct Target<'a> {
    scheme: Scheme,
    authority: &'a str,
    path: String,
}

impl<'a> Target<'a> {
    fn parse(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return None,
        };
        // What follows a # is for browsers.
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() {
            return None;
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Some(Self {
            scheme,
            authority,
            path: format!("{slash}{path}"),
        })
    }
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        name => Method::Other(name.to_owned()),
    }
}

fn failure(host: &str, code: ErrorCode) -> FetchError {
    let host = host.to_owned();
    match code {
        ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => {
            FetchError::Denied { host }
        }
        ErrorCode::DnsTimeout
        | ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => FetchError::Timeout { host },
        ErrorCode::HttpRequestUriInvalid
        | ErrorCode::HttpRequestUriTooLong
        | ErrorCode::HttpRequestMethodInvalid => FetchError::Invalid {
            message: format!("the URL of a request to {host} is invalid"),
        },
        code => FetchError::Failed {
            host,
            reason: code.to_string(),
        },
    }
}

impl FetchError {
    /// The `code` of the answer that it becomes.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "fetch_invalid",
            Self::Denied { .. } => "fetch_denied",
            Self::Timeout { .. } => "fetch_timeout",
            Self::TooLarge { .. } => "fetch_too_large",
            Self::Failed { .. } => "fetch_failed",
        }
    }

    /// The status of the answer that it becomes: a function that asks for what it may not have is at fault itself.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Invalid { .. } | Self::Denied { .. } => 500,
            Self::Timeout { .. } => 504,
            Self::TooLarge { .. } | Self::Failed { .. } => 502,
        }
    }
}

impl std::error::Error for FetchError {}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { message } => f.write_str(message),
            Self::Denied { host } => write!(
                f,
                "{host} is not among the hosts that this function was granted, or its address is private"
            ),
            Self::Timeout { host } => write!(f, "{host} took too long"),
            Self::TooLarge { host, limit_bytes } => {
                write!(f, "{host} answered with more than {limit_bytes} bytes")
            }
            Self::Failed { host, reason } => write!(f, "{host}: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let cases = [
            ("https://example.com", "example.com", "/"),
            (
                "HTTP://example.com:8080/a/b?c#d",
                "example.com:8080",
                "/a/b?c",
            ),
            ("https://example.com?q=/x", "example.com", "/?q=/x"),
            ("http://[::1]:80/#top", "[::1]:80", "/"),
        ];
        for (url, authority, path) in cases {
            let target = Target::parse(url).expect("a URL");
            assert_eq!(
                (target.authority, &*target.path),
                (authority, path),
                "{url}"
            );
        }
        for url in [
            "",
            "example.com",
            "/path",
            "https://",
            "https:///x",
            "ftp://a/",
        ] {
            assert!(Target::parse(url).is_none(), "{url}");
        }
    }

    #[test]
    fn a_failure_says_who_is_at_fault() {
        let of = |code| failure("example.com", code);
        let cases = [
            (of(ErrorCode::HttpRequestDenied), 500, "fetch_denied"),
            (of(ErrorCode::DestinationIpProhibited), 500, "fetch_denied"),
            (of(ErrorCode::ConnectionTimeout), 504, "fetch_timeout"),
            (of(ErrorCode::ConnectionRefused), 502, "fetch_failed"),
            (of(ErrorCode::HttpRequestUriInvalid), 500, "fetch_invalid"),
        ];
        for (error, status, code) in cases {
            assert_eq!((error.status(), error.code()), (status, code), "{error}");
            assert!(error.to_string().contains("example.com"), "{error}");
        }
    }

    #[test]
    fn a_header_set_twice_keeps_the_second_value() {
        let fetch = Fetch::get("https://example.com").header("Accept", "a");
        let fetch = fetch.header("accept", "b");
        assert_eq!(fetch.headers, [("accept".to_owned(), b"b".to_vec())]);
    }
}
