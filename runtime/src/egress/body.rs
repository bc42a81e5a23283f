//! A body on its way out or back: so many bytes, and nothing silent for longer than that.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};
use wasmtime_wasi_http::Error as HttpError;

/// A body within bounds. What is held for it goes when it does.
pub(super) struct Bounded<B, H> {
    body: B,
    bytes_left: u64,
    /// What is answered to one byte more.
    too_large: fn(u64) -> HttpError,
    bytes_max: u64,
    /// For how long nothing may come that somebody waits for.
    silence_max: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the timer runs.
    waits: bool,
    _held: H,
}

impl<B, H> Bounded<B, H> {
    /// What a guest sends. How long it takes is limited with the guest.
    pub(super) fn request(body: B, bytes_max: u64, held: H) -> Self {
        let too_large = |limit| HttpError::HttpRequestBodySize(Some(limit));
        Self::new(body, bytes_max, too_large, Duration::MAX, held)
    }

    /// What comes back.
    pub(super) fn answer(body: B, bytes_max: u64, silence_max: Duration, held: H) -> Self {
        let too_large = |limit| HttpError::HttpResponseBodySize(Some(limit));
        Self::new(body, bytes_max, too_large, silence_max, held)
    }

    fn new(
        body: B,
        bytes_max: u64,
        too_large: fn(u64) -> HttpError,
        silence_max: Duration,
        held: H,
    ) -> Self {
        Self {
            body,
            bytes_left: bytes_max,
            too_large,
            bytes_max,
            silence_max,
            timer: None,
            waits: false,
            _held: held,
        }
    }

    /// Whether nothing has come for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.silence_max == Duration::MAX {
            return Poll::Pending;
        }
        let over = Instant::now() + self.silence_max;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(over)));
        if !self.waits {
            self.waits = true;
            timer.as_mut().reset(over);
        }
        timer.as_mut().poll(cx)
    }
}

impl<B, H> Body for Bounded<B, H>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<HttpError>,
    H: Unpin,
{
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            return this
                .poll_silence(cx)
                .map(|()| Some(Err(HttpError::ConnectionReadTimeout)));
        };
        this.waits = false;
        let Some(Ok(frame)) = frame else {
            return Poll::Ready(frame.map(|failed| failed.map_err(Into::into)));
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        let Some(left) = this.bytes_left.checked_sub(bytes) else {
            return Poll::Ready(Some(Err((this.too_large)(this.bytes_max))));
        };
        this.bytes_left = left;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full, StreamBody};

    fn full(bytes: usize, bytes_max: u64) -> Bounded<Full<Bytes>, ()> {
        Bounded::answer(
            Full::new(vec![0; bytes].into()),
            bytes_max,
            Duration::MAX,
            (),
        )
    }

    #[tokio::test]
    async fn a_body_may_have_as_many_bytes_as_the_limit() {
        for (bytes, whole) in [(0, true), (10, true), (11, false), (1_000, false)] {
            let collected = full(bytes, 10).collect().await;
            match collected {
                Ok(collected) => assert!(whole && collected.to_bytes().len() == bytes),
                Err(error) => {
                    let limit = HttpError::HttpResponseBodySize(Some(10));
                    assert!(!whole && format!("{error:?}") == format!("{limit:?}"));
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_measured_from_the_last_part() {
        let slow = |millis: [u64; 3]| {
            let parts = futures_util::stream::unfold(0, move |n| async move {
                tokio::time::sleep(Duration::from_millis(*millis.get(n)?)).await;
                let frame = Frame::data(Bytes::from_static(b"x"));
                Some((Ok::<_, HttpError>(frame), n + 1))
            });
            let body = StreamBody::new(Box::pin(parts));
            Bounded::answer(body, 100, Duration::from_millis(100), ())
        };
        let whole = slow([99, 99, 99]).collect().await.unwrap();
        assert_eq!(whole.to_bytes().len(), 3);
        let began = Instant::now();
        let failed = slow([50, 101, 0]).collect().await.unwrap_err();
        assert!(matches!(failed, HttpError::ConnectionReadTimeout));
        assert_eq!(began.elapsed().as_millis(), 150);
    }
}
