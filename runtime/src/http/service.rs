//! One request to one answer: route, admit, invoke, and put the platform's own headers on what comes back.

use super::access::{admit, admit_manager};
use super::body::{AnswerBody, Answering, BodyLimits, BodyVerdict, RequestBody};
use super::error::{BusyWith, Error};
use super::head::{authority, join_cookies};
use super::origin::confine;
use super::record::Record;
use super::router::{Role, Route, route};
use super::socket::WriteDeadline;
use crate::api::Api;
use crate::host::Host;
use crate::metrics::Metrics;
use crate::sandbox::messages::{Failure, Start};
use crate::sandbox::{Answer, Bound, Busy, Chosen, GuestBody, LogWriter, Registry, Runner};
use crate::shutdown::{Phase, Shutdown};
use crate::tenancy::{Directory, KEY_PREFIX};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use shoal_inference::Inference;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What all connections of a listener share.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) runner: Arc<Runner>,
    /// What this listener is for.
    pub(crate) role: Role,
    pub(crate) api: Api,
    pub(crate) directory: Arc<Directory>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) inference: Inference,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: Shutdown,
    /// Functions have hosts below it.
    pub(crate) domain: String,
    pub(crate) body: BodyLimits,
    pub(crate) invocation_timeout: Duration,
    pub(crate) ids: Arc<RequestIds>,
}

/// What a request names.
struct Target {
    chosen: Chosen,
    host: Authority,
    uri: Uri,
}

/// Names requests: a random half for each start of the node, and a count.
pub(crate) struct RequestIds {
    node: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> Self {
        Self {
            node: RandomState::new().hash_one(()),
            next: AtomicU64::new(1),
        }
    }

    fn next(&self) -> HeaderValue {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        HeaderValue::try_from(format!("req_{:016x}{count:08x}", self.node))
            .expect("hexadecimal digits are a header value")
    }
}

impl Service {
    /// Answers one request. Never fails: what goes wrong is an answer too.
    ///
    /// `client` is who is at the other end of the connection; `deadline` is told until when the answer may be written.
    pub(crate) async fn respond(
        &self,
        request: Request<Incoming>,
        client: IpAddr,
        deadline: &WriteDeadline,
    ) -> Response<AnswerBody> {
        deadline.set(None);
        let request_id = self.ids.next();
        let (answered, label) = match authority(&request) {
            Ok(host) => {
                self.route(request, host, client, &request_id, deadline)
                    .await
            }
            Err(error) => (Err(error), "unknown"),
        };
        let mut response = answered.unwrap_or_else(|error| self.refuse(error));
        response.headers_mut().insert(REQUEST_ID, request_id);
        self.metrics.request(label, response.status().as_u16());
        response
    }

    /// What the request names does the answering; the name of its route, for the counter, comes along.
    async fn route(
        &self,
        request: Request<Incoming>,
        host: Authority,
        client: IpAddr,
        request_id: &HeaderValue,
        deadline: &WriteDeadline,
    ) -> (Result<Response<AnswerBody>, Error>, &'static str) {
        match route(self.role, host.host(), request.uri().path(), &self.domain) {
            Route::Function { key, rest, origin } => {
                let key = key.into_owned();
                let uri = guest_uri(rest, request.uri().query());
                let headers = request.headers();
                let answered = match admit(&self.directory, &self.registry, &key, headers, client) {
                    Ok(chosen) => {
                        let target = Target { chosen, host, uri };
                        self.invoke(request, target, request_id, deadline).await
                    }
                    Err(error) => Err(error),
                };
                let mut response = answered.unwrap_or_else(|error| self.refuse(error));
                confine(response.headers_mut(), origin, &key);
                (Ok(response), "function")
            }
            Route::Health => (reading(&request, || Ok(text("ok\n"))), "healthz"),
            Route::Ready => (reading(&request, || self.ready()), "readyz"),
            Route::Metrics => {
                let answered = reading(&request, || {
                    admit_manager(&self.directory, &host, request.headers())?;
                    self.api.admin(request.headers())?;
                    Ok(page(self.metrics.page()))
                });
                (answered, "metrics")
            }
            Route::Admin => {
                let admitted = admit_manager(&self.directory, &host, request.headers());
                let answered = match admitted {
                    Ok(()) => Ok(self.api.call(request.map(axum::body::Body::new)).await),
                    Err(error) => Err(error),
                };
                (
                    answered.map(|response| response.map(AnswerBody::Api)),
                    "api",
                )
            }
            Route::Unknown => (Err(Error::UnknownPath), "unknown"),
        }
    }

    /// The one place where a failure becomes an answer.
    fn refuse(&self, error: Error) -> Response<AnswerBody> {
        if let Some(limit) = error.limit() {
            self.metrics.refused(limit);
        }
        error
            .into_response()
            .map(|body| AnswerBody::Own(Full::new(body)))
    }

    fn ready(&self) -> Result<Response<AnswerBody>, Error> {
        if self.shutdown.phase() != Phase::Serve {
            return Err(Error::Draining);
        }
        if !self.inference.is_live() {
            return Err(Error::NotReady);
        }
        Ok(text("ready\n"))
    }

    async fn invoke(
        &self,
        request: Request<Incoming>,
        target: Target,
        request_id: &HeaderValue,
        write: &WriteDeadline,
    ) -> Result<Response<AnswerBody>, Error> {
        if self.shutdown.phase() != Phase::Serve {
            return Err(Error::Draining);
        }
        let began = Instant::now();
        let deadline = began + self.invocation_timeout;
        write.set(Some(deadline));
        let Chosen { function, seat } = target.chosen;
        let (parts, body) = request.into_parts();
        let start = Start {
            invocation: self.runner.next_id(),
            component: function.component,
            method: parts.method,
            uri: target.uri,
            headers: self.guest_headers(parts.headers, &target.host)?,
            remaining: self.invocation_timeout,
        };
        let record = Record::new(
            request_id.clone(),
            function.clone(),
            seat,
            began,
            self.metrics.clone(),
        );
        let answering = Answering(record.clone());
        let bound = Bound {
            host: Arc::new(Host {
                function: function.clone(),
                inference: self.inference.clone(),
                deadline,
                record: record.clone(),
            }),
            log: LogWriter::new(function.log.clone(), function.component, request_id.clone()),
            account: record.clone(),
        };
        let body = RequestBody::new(body, self.body, record.clone());
        let invocation = self
            .runner
            .invoke(function, start, body, bound)
            .map_err(|busy: Busy| Error::Busy(BusyWith(busy)));
        let answered = match invocation {
            Ok(invocation) => {
                record.set_cpu(invocation.cpu());
                invocation.answer().await
            }
            Err(busy) => {
                record.failed(Failure::Exhausted);
                record.answering(busy.status().as_u16());
                return Err(busy);
            }
        };
        self.answer(answered, &record)
            .inspect_err(|error| record.answering(error.status().as_u16()))
            .map(|response| response.map(|body| AnswerBody::Guest(body, answering)))
    }

    /// What the client gets of what the guest did.
    fn answer(
        &self,
        answered: Result<Answer, Failure>,
        record: &Record,
    ) -> Result<Response<GuestBody>, Error> {
        if let Err(failure) = &answered {
            record.failed(*failure);
        }
        match record.verdict() {
            // Whatever the guest made of it: this is what happened.
            Some(BodyVerdict::TooLarge) => {
                return Err(Error::BodyTooLarge {
                    limit: self.body.bytes_max,
                });
            }
            Some(BodyVerdict::TooSlow) => {
                return Err(Error::BodyTooSlow {
                    limit: self.body.rate_min,
                });
            }
            None => {}
        }
        let Answer {
            mut response,
            complete,
        } = answered.map_err(Error::Guest)?;
        let cpu = complete.then(|| record.cpu_used());
        let timing = record.inferred.server_timing(cpu);
        response.headers_mut().insert(SERVER_TIMING, timing);
        record.answering(response.status().as_u16());
        if response.body().is_end_stream() {
            // Such a body is not asked.
            record.complete();
        }
        Ok(response)
    }

    /// What a guest sees of a request's headers: no key of ours, and always a host.
    fn guest_headers(&self, mut headers: HeaderMap, host: &Authority) -> Result<HeaderMap, Error> {
        let host = HeaderValue::from_str(host.as_str()).map_err(|_| Error::Host)?;
        headers.insert(HOST, host);
        join_cookies(&mut headers);
        let length = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > self.body.bytes_max) {
            return Err(Error::BodyTooLarge {
                limit: self.body.bytes_max,
            });
        }
        Ok(without_our_keys(headers))
    }
}

/// The fields of a request without those that hold a key of ours, however it was sent: as a bearer, in a header of
/// somebody's own, in a cookie, in a trailer.
pub(super) fn without_our_keys(fields: HeaderMap) -> HeaderMap {
    if !fields.values().any(holds_our_key) {
        return fields;
    }
    fields
        .iter()
        .filter(|(_, value)| !holds_our_key(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn holds_our_key(value: &HeaderValue) -> bool {
    let prefix = KEY_PREFIX.as_bytes();
    value
        .as_bytes()
        .windows(prefix.len())
        .any(|part| part.eq_ignore_ascii_case(prefix))
}

/// The request's target with the function's mount point removed.
fn guest_uri(rest: &str, query: Option<&str>) -> Uri {
    let path = if rest.is_empty() { "/" } else { rest };
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    // A part of a valid target that starts with a slash is one too; `//x` alone could be read as an authority.
    Uri::builder()
        .path_and_query(target)
        .build()
        .unwrap_or_else(|_| Uri::from_static("/"))
}

/// Answers GET and HEAD only.
fn reading(
    request: &Request<Incoming>,
    answer: impl FnOnce() -> Result<Response<AnswerBody>, Error>,
) -> Result<Response<AnswerBody>, Error> {
    match *request.method() {
        Method::GET | Method::HEAD => answer(),
        _ => Err(Error::Method {
            allowed: "GET, HEAD",
        }),
    }
}

fn text(words: &'static str) -> Response<AnswerBody> {
    let body = Full::new(Bytes::from_static(words.as_bytes()));
    let mut response = Response::new(AnswerBody::Own(body));
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn page(text: String) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Own(Full::new(Bytes::from(text))));
    let kind = HeaderValue::from_static(METRICS_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_sees_its_own_path_and_the_whole_query() {
        for (rest, query, expected) in [
            ("", None, "/"),
            ("/", None, "/"),
            ("/a/b", Some("x=1&y=%20"), "/a/b?x=1&y=%20"),
            ("", Some("q"), "/?q"),
            ("//evil.example/x", None, "//evil.example/x"),
        ] {
            let uri = guest_uri(rest, query);
            assert_eq!(uri.path_and_query().map(|p| p.as_str()), Some(expected));
            assert_eq!(uri.authority(), None);
        }
    }

    #[test]
    fn a_key_of_ours_is_found_however_it_is_written() {
        for (value, ours) in [
            ("Bearer sk-shoal-abc", true),
            ("bearer SK-Shoal-abc", true),
            ("Basic sk-shoal-", true),
            ("Bearer sk-other", false),
            ("", false),
        ] {
            assert_eq!(
                holds_our_key(&HeaderValue::from_static(value)),
                ours,
                "{value}"
            );
        }
    }
}
