//! How far the client of one HTTP/2 stream is with taking its answer. hyper does not poll a body while its client gives no
//! window, so nothing in a body can see a deadline pass: what runs the stream watches it instead.

use super::socket::WriteDeadline;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes of one frame of an answer. The last frame is out of our hands before its client has a window for it: this is what a
/// stream that is over can still hold.
const FRAME_BYTES_MAX: usize = 16 << 10;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    Cancelled,
}

/// Runs one stream, as long as its client leaves no frame of the answer for longer than `stall_max`, or past the answer's
/// deadline.
pub(super) async fn run(stream: impl Future<Output = ()>, stall_max: Duration) -> Outcome {
    let pace = Arc::new(Pace::new(stall_max));
    tokio::select! {
        biased;
        () = PACE.scope(pace.clone(), stream) => {}
        () = pace.overdue() => {}
    }
    pace.outcome()
}

tokio::task_local! {
    /// The stream's own: what runs it is made by hyper, and the answer's body in there has no other way to it.
    static PACE: Arc<Pace>;
}

/// Shared by what runs a stream and the body in it.
struct Pace {
    stall_max: Duration,
    state: Mutex<PaceState>,
}

#[derive(Default)]
struct PaceState {
    answered: bool,
    /// Since when the client has a frame to take.
    given: Option<Instant>,
    deadline: Option<Instant>,
}

impl Pace {
    fn new(stall_max: Duration) -> Self {
        Self {
            stall_max,
            state: Mutex::default(),
        }
    }

    /// The answer has a head, and a body that may be written until `deadline`.
    fn answered(&self, deadline: Option<Instant>) {
        let mut state = self.state();
        state.answered = true;
        state.deadline = deadline;
    }

    fn give(&self) {
        self.state().given = Some(Instant::now());
    }

    fn taken(&self) {
        self.state().given = None;
    }

    fn outcome(&self) -> Outcome {
        match self.state().answered {
            true => Outcome::Answered,
            false => Outcome::Cancelled,
        }
    }

    /// When the client must have taken what it was given.
    fn due(&self) -> Option<Instant> {
        let state = self.state();
        let stalled = state.given? + self.stall_max;
        Some(state.deadline.map_or(stalled, |at| at.min(stalled)))
    }

    /// Ready once the client is late. To be polled after each turn of the stream, which is when that changes.
    async fn overdue(&self) {
        let mut timer: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|cx| self.poll_overdue(cx, &mut timer)).await;
    }

    /// A frame comes every few microseconds: the timer stays where it is, and is moved when it has run out.
    fn poll_overdue(&self, cx: &mut Context<'_>, timer: &mut Option<Pin<Box<Sleep>>>) -> Poll<()> {
        let Some(due) = self.due() else {
            return Poll::Pending;
        };
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }

    fn state(&self) -> MutexGuard<'_, PaceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of an answer in frames of a bounded size, which tells how fast its client takes them.
pub(super) struct Paced<B> {
    body: B,
    /// Of a frame that was too large, what is still to come.
    rest: Bytes,
    bodiless: bool,
    pace: Arc<Pace>,
}

impl<B> Paced<B> {
    /// Waits for an answer; only in the task of its stream.
    ///
    /// What has no body gets none: hyper sees to that in HTTP/1.1 only.
    pub(super) async fn answer(
        method: Method,
        response: impl Future<Output = Response<B>>,
        deadline: WriteDeadline,
    ) -> Response<Self> {
        let mut response = response.await;
        let pace = PACE.with(Arc::clone);
        pace.answered(deadline.get());
        let status = response.status();
        if status == StatusCode::NO_CONTENT {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        let bodiless = method == Method::HEAD
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        response.map(|body| Self {
            body,
            rest: Bytes::new(),
            bodiless,
            pace,
        })
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.pace.taken();
        let frame = if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            }
        } else {
            Frame::data(std::mem::take(&mut self.rest))
        };
        self.pace.give();
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
        };
        if data.len() > FRAME_BYTES_MAX {
            self.rest = data.split_off(FRAME_BYTES_MAX);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.bodiless || self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let exact = self.body.size_hint().exact();
        exact.map_or_else(SizeHint::new, |bytes| SizeHint::with_exact(bytes + rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full};

    const STALL_MAX: Duration = Duration::from_secs(10);

    /// A stream whose client leaves each frame of an answer of `frames` for `pause`; whether it got all of them.
    async fn read_with_pauses(frames: usize, pause: Duration, deadline: Option<Duration>) -> bool {
        let write = WriteDeadline::default();
        write.set(deadline.map(|after| Instant::now() + after));
        let mut taken = 0;
        let client = async {
            let body = Full::new(Bytes::from(vec![b'x'; frames * FRAME_BYTES_MAX]));
            let response = std::future::ready(Response::new(body));
            let mut body = Paced::answer(Method::GET, response, write)
                .await
                .into_body();
            while let Some(frame) = body.frame().await {
                assert_eq!(frame.unwrap().data_ref().unwrap().len(), FRAME_BYTES_MAX);
                tokio::time::sleep(pause).await;
                taken += 1;
            }
        };
        assert_eq!(run(client, STALL_MAX).await, Outcome::Answered);
        taken == frames
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_leave_each_frame_for_as_long_as_a_write_may_stall() {
        let ms = Duration::from_millis;
        for (pause, all) in [(ms(9_999), true), (ms(10_001), false), (ms(90_000), false)] {
            assert_eq!(read_with_pauses(5, pause, None).await, all, "{pause:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_frame_waits_past_the_deadline() {
        let (pause, ms) = (Duration::from_secs(5), Duration::from_millis);
        for (deadline, all) in [(ms(25_001), true), (ms(24_999), false), (ms(1), false)] {
            let got_all = read_with_pauses(5, pause, Some(deadline)).await;
            assert_eq!(got_all, all, "{deadline:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_there_yet_is_not_the_clients_to_take() {
        let guest = tokio::time::sleep(100 * STALL_MAX);
        assert_eq!(run(guest, STALL_MAX).await, Outcome::Cancelled);
    }

    #[test]
    fn a_body_in_frames_keeps_its_length() {
        let mut body = Paced {
            body: Full::new(Bytes::from(vec![b'x'; FRAME_BYTES_MAX + 1])),
            rest: Bytes::new(),
            bodiless: false,
            pace: Arc::new(Pace::new(STALL_MAX)),
        };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (left, ended) in [(FRAME_BYTES_MAX + 1, false), (1, false), (0, true)] {
            assert_eq!(body.size_hint().exact(), Some(left as u64));
            assert_eq!(body.is_end_stream(), ended);
            assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
        }
    }
}
