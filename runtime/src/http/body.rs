//! Bodies at the edge: what a client may send, and what an answer is made of.

use super::record::Record;
use super::service::without_our_keys;
use crate::sandbox::messages::Failure;
use crate::sandbox::{BodyError, GuestBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};
use wasmtime_wasi_http::Error as HttpError;

/// What a client may send, and how slowly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    pub(crate) bytes_max: u64,
    pub(crate) rate_min: u64,
    pub(crate) rate_grace: Duration,
}

/// Why a body was cut off. Remembered in [`Record`], so that the answer says so whatever the guest made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyVerdict {
    TooLarge,
    TooSlow,
}

/// A request's body within its limits. A client may keep the guest waiting for the grace and for what it sent at the
/// minimum rate; time that the guest itself takes is not counted.
pub(crate) struct RequestBody {
    inner: Incoming,
    limits: BodyLimits,
    received: u64,
    waited: Duration,
    waiting: Option<Wait>,
    record: Arc<Record>,
}

struct Wait {
    since: Instant,
    until: Pin<Box<Sleep>>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, limits: BodyLimits, record: Arc<Record>) -> Self {
        Self {
            inner,
            limits,
            received: 0,
            waited: Duration::ZERO,
            waiting: None,
            record,
        }
    }

    fn refuse(&self, verdict: BodyVerdict) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.record.set_verdict(verdict);
        Poll::Ready(Some(Err(match verdict {
            BodyVerdict::TooLarge => HttpError::HttpRequestBodySize(Some(self.limits.bytes_max)),
            BodyVerdict::TooSlow => HttpError::ConnectionReadTimeout,
        })))
    }

    fn patience(&self) -> Duration {
        let earned = self.received.saturating_mul(1_000) / self.limits.rate_min.max(1);
        (self.limits.rate_grace + Duration::from_millis(earned)).saturating_sub(self.waited)
    }
}

/// Whoever is stopped while it waits for its client waited in vain.
impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.waiting.is_some() {
            self.record.client_kept_waiting();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            let patience = self.patience();
            let wait = self.waiting.get_or_insert_with(|| {
                let since = Instant::now();
                Wait {
                    since,
                    until: Box::pin(sleep_until(since + patience)),
                }
            });
            if wait.until.as_mut().poll(cx).is_ready() {
                return self.refuse(BodyVerdict::TooSlow);
            }
            return Poll::Pending;
        };
        if let Some(wait) = self.waiting.take() {
            self.waited += wait.since.elapsed();
        }
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.record.client_failed();
                return Poll::Ready(Some(Err(error.into())));
            }
            None => return Poll::Ready(None),
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let trailers = frame.into_trailers().map(without_our_keys);
                return Poll::Ready(trailers.ok().map(|fields| Ok(Frame::trailers(fields))));
            }
        };
        self.received += data.len() as u64;
        if self.received > self.limits.bytes_max {
            return self.refuse(BodyVerdict::TooLarge);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of any answer.
pub(crate) enum AnswerBody {
    /// The node's own words.
    Own(Full<Bytes>),
    /// The admin API's.
    Api(axum::body::Body),
    /// A guest's, and the record that is written when it ends.
    Guest(GuestBody, Answering),
}

/// Notes when the answer of an invocation is over.
pub(crate) struct Answering(pub(crate) Arc<Record>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered();
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            AnswerBody::Own(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            AnswerBody::Api(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|_| BodyError(Failure::Errored)),
            AnswerBody::Guest(body, Answering(record)) => {
                let frame = Pin::new(&mut *body).poll_frame(cx);
                match &frame {
                    Poll::Ready(Some(Err(BodyError(failure)))) => record.failed(*failure),
                    Poll::Ready(None) => record.complete(),
                    // A body that says it has ended is not asked again.
                    Poll::Ready(Some(Ok(_))) if body.is_end_stream() => record.complete(),
                    Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Own(body) => body.is_end_stream(),
            AnswerBody::Api(body) => body.is_end_stream(),
            AnswerBody::Guest(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Own(body) => body.size_hint(),
            AnswerBody::Api(body) => body.size_hint(),
            AnswerBody::Guest(body, _) => body.size_hint(),
        }
    }
}
