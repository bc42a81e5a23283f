//! What a guest answered, as a response: whole where the guest has ended, else a body that gives the guest its turns.

use super::invoke::Invocation;
use super::messages::Failure;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRAILER};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// A guest's answer: its head, and a body that is whole or still being written.
pub struct Answer {
    /// The response.
    pub response: Response<GuestBody>,
    /// Whether the guest has ended: then all of its times are known.
    pub complete: bool,
}

impl Answer {
    /// The guest goes on while its body is read.
    pub(super) fn streamed(
        response: Response<HyperOutgoingBody>,
        length: Length,
        invocation: Invocation,
    ) -> Self {
        let response = response.map(|body| {
            GuestBody::Streamed(Streamed {
                body,
                left: length.bytes(),
                invocation: Some(Box::new(invocation)),
            })
        });
        Self {
            response,
            complete: false,
        }
    }

    /// All of a body is written already: one piece with a known length, where that costs no order of frames.
    pub(super) fn whole(
        response: Response<HyperOutgoingBody>,
        length: Length,
    ) -> Result<Self, Failure> {
        let (parts, body) = response.into_parts();
        let mut collected = Box::pin(body.collect());
        let collected = collected
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let body = match collected {
            Poll::Ready(Ok(_)) if matches!(length, Length::NoBody) => {
                GuestBody::Whole(Full::default())
            }
            Poll::Ready(Ok(body)) if body.trailers().is_none() => {
                let bytes = body.to_bytes();
                // hyper trusts the guest's content-length: a wrong one would make the next answer part of this body.
                if let Length::Exactly(length) = length
                    && length != bytes.len() as u64
                {
                    return Err(Failure::Errored);
                }
                GuestBody::Whole(Full::new(bytes))
            }
            Poll::Ready(Ok(body)) => GuestBody::Streamed(Streamed {
                body: body.map_err(|never| match never {}).boxed_unsync(),
                left: length.bytes(),
                invocation: None,
            }),
            Poll::Ready(Err(_)) | Poll::Pending => return Err(Failure::Errored),
        };
        Ok(Answer {
            response: Response::from_parts(parts, body),
            complete: true,
        })
    }
}

/// What the head of an answer says of its body.
#[derive(Clone, Copy)]
pub(super) enum Length {
    /// The answer has a head only.
    NoBody,
    Exactly(u64),
    Unknown,
}

impl Length {
    /// What the head of `response` says; `bodiless` where the request asked for a head only.
    ///
    /// A length of an answer that announces trailers is not passed on: in HTTP/1.1 none can follow a body that has one.
    pub(super) fn of(
        response: &mut Response<HyperOutgoingBody>,
        bodiless: bool,
    ) -> Result<Self, Failure> {
        let announced = content_length(response)?;
        let status = response.status();
        if bodiless || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return Ok(Length::NoBody);
        }
        if response.headers().contains_key(TRAILER) {
            response.headers_mut().remove(CONTENT_LENGTH);
            return Ok(Length::Unknown);
        }
        Ok(announced.map_or(Length::Unknown, Length::Exactly))
    }

    fn bytes(self) -> Option<u64> {
        match self {
            Length::NoBody => Some(0),
            Length::Exactly(bytes) => Some(bytes),
            Length::Unknown => None,
        }
    }
}

fn content_length(response: &Response<HyperOutgoingBody>) -> Result<Option<u64>, Failure> {
    let Some(length) = response.headers().get(CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length = length.to_str().ok().and_then(|length| length.parse().ok());
    length.map(Some).ok_or(Failure::Errored)
}

/// The body of a guest's answer. Polling it gives the guest its turns, so a slow reader slows its guest.
pub enum GuestBody {
    /// All of it.
    Whole(Full<Bytes>),
    /// Still being written.
    Streamed(Streamed),
}

/// A body that is still being written, if there is an invocation left. Dropped before its end, it takes its guest along;
/// dropped after, its guest may work on.
pub struct Streamed {
    body: HyperOutgoingBody,
    /// Bytes still to come, where the head said how many there are.
    left: Option<u64>,
    invocation: Option<Box<Invocation>>,
}

/// Why a body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct BodyError(#[from] pub Failure);

impl Body for GuestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            GuestBody::Whole(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            GuestBody::Streamed(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            GuestBody::Whole(body) => body.is_end_stream(),
            GuestBody::Streamed(body) => body.left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            GuestBody::Whole(body) => body.size_hint(),
            GuestBody::Streamed(body) => body.left.map_or_else(SizeHint::new, SizeHint::with_exact),
        }
    }
}

impl Streamed {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(invocation) = &mut self.invocation
            && let Poll::Ready(Err(failure)) = invocation.poll_guest(cx)
        {
            return Poll::Ready(Some(Err(failure.into())));
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.left = self.left.map(|left| left.saturating_sub(bytes));
                if frame.is_trailers() {
                    // Nothing follows them, and whoever reads this does not ask again.
                    self.left = Some(0);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(_)) => Poll::Ready(Some(Err(Failure::Errored.into()))),
            None => {
                if let Some(invocation) = &mut self.invocation {
                    ready!(invocation.poll_body_ended(cx))?;
                }
                self.left = Some(0);
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if self.left == Some(0)
            && let Some(invocation) = self.invocation.take()
        {
            invocation.finish_elsewhere();
        }
    }
}
