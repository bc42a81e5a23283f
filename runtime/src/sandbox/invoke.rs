//! One invocation: the guest polled inside the connection's own task, and what becomes of it: it answers, it is moved to the
//! background, it is stopped, or its client goes away.

use super::answer::{Answer, Length};
use super::background::Ticket;
use super::guest::{Guest, Thread};
use super::messages::Failure;
use super::meter::Meter;
use super::runner::Runner;
use http::Response;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;
use wasmtime::{PoolConcurrencyLimitError, Trap};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// What a guest hands over as its answer.
pub(super) type Head = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// A guest on its way to an answer. Dropping it stops the guest.
pub struct Invocation {
    place: Place,
    runner: Arc<Runner>,
    /// `None` once it is known that nothing will come.
    head: Option<oneshot::Receiver<Head>>,
    meter: Arc<Meter>,
    /// Whether the answer has a head only.
    bodiless: bool,
}

pub(super) enum Place {
    /// Polled by the connection's task.
    Here(Guest),
    /// In the background.
    There(Ticket),
    Over(Result<(), Failure>),
}

impl Invocation {
    pub(super) fn new(
        place: Place,
        runner: Arc<Runner>,
        head: oneshot::Receiver<Head>,
        meter: Arc<Meter>,
        bodiless: bool,
    ) -> Self {
        Self {
            place,
            runner,
            head: Some(head),
            meter,
            bodiless,
        }
    }

    /// CPU time of the guest so far; goes on counting after the answer's head.
    pub fn cpu(&self) -> Cpu {
        Cpu(self.meter.clone())
    }

    /// Waits for the head of the answer.
    ///
    /// # Errors
    /// If the guest ends, or is stopped, without one.
    pub async fn answer(mut self) -> Result<Answer, Failure> {
        let head = poll_fn(|cx| self.poll_head(cx)).await?;
        let mut response = head.map_err(|_| Failure::Errored)?;
        if response.status().is_informational() {
            return Err(Failure::Errored);
        }
        let length = Length::of(&mut response, self.bodiless)?;
        if matches!(self.place, Place::Over(_)) {
            return Answer::whole(response, length);
        }
        Ok(Answer::streamed(response, length, self))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        if let Poll::Ready(ended) = self.poll_guest(cx) {
            ended?;
            let head = self.head.as_mut().and_then(|head| head.try_recv().ok());
            return Poll::Ready(head.ok_or(Failure::NoResponse));
        }
        // A guest that is about to end gets to: its whole answer is worth more than an early head.
        match &mut self.place {
            Place::Here(_) if self.meter.has_yielded() => return Poll::Pending,
            Place::There(ticket) => ready!(ticket.poll_between_turns(cx)),
            Place::Here(_) | Place::Over(_) => {}
        }
        let Some(head) = &mut self.head else {
            return Poll::Pending;
        };
        if let Ok(head) = ready!(Pin::new(head).poll(cx)) {
            return Poll::Ready(Ok(head));
        }
        // The guest gave its right to answer away, or is about to end: how it ends says which failure this is.
        self.head = None;
        Poll::Pending
    }

    /// Gives the guest a turn if it is here; moves it if it ran too long.
    pub(super) fn poll_guest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let ended = match &mut self.place {
            Place::Over(result) => return Poll::Ready(*result),
            Place::There(ticket) => {
                let ended = ready!(Pin::new(&mut ticket.ended).poll(cx));
                // The pool was closed: the node is stopping.
                ended.unwrap_or_else(|_| Err(wasmtime::format_err!("stopped")))
            }
            Place::Here(guest) => match guest.turn(cx, Thread::Socket) {
                (Poll::Ready(ended), _) => ended,
                (Poll::Pending, _) if self.meter.should_move(self.runner.guest_slice()) => {
                    self.move_guest(cx);
                    return Poll::Pending;
                }
                (Poll::Pending, _) => return Poll::Pending,
            },
        };
        let result = ended.map_err(|error| failure(&error, &self.meter));
        self.place = Place::Over(result);
        Poll::Ready(result)
    }

    /// A body ends when its guest says so, but also when its guest is stopped: tells the two apart.
    pub(super) fn poll_body_ended(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if let Place::There(ticket) = &mut self.place {
            ready!(ticket.poll_between_turns(cx));
        }
        match self.poll_guest(cx) {
            Poll::Ready(Err(failure)) => Poll::Ready(Err(failure)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn move_guest(&mut self, cx: &mut Context<'_>) {
        let here = std::mem::replace(&mut self.place, Place::Over(Ok(())));
        if let Place::Here(guest) = here {
            self.place = Place::There(self.runner.sandbox.pool.spawn(guest));
        }
        // The ticket has to be polled once to be heard.
        cx.waker().wake_by_ref();
    }

    /// The answer is out, the guest is not done: it may finish in the background, until its deadline.
    pub(super) fn finish_elsewhere(self) {
        match self.place {
            Place::Here(guest) => self.runner.sandbox.pool.spawn(guest).detach(),
            Place::There(ticket) => ticket.detach(),
            Place::Over(_) => {}
        }
    }
}

/// The CPU account of an invocation.
#[derive(Clone)]
pub struct Cpu(Arc<Meter>);

impl Cpu {
    /// CPU time so far.
    pub fn used(&self) -> Duration {
        self.0.cpu()
    }
}

/// A guest that never began: its component could not be had.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct Unready(pub(super) Failure);

fn failure(error: &wasmtime::Error, meter: &Meter) -> Failure {
    if let Some(Unready(failure)) = error.downcast_ref() {
        return *failure;
    }
    let host_is_out = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<PoolConcurrencyLimitError>() || cause.is::<std::io::Error>()
    };
    if error.chain().any(host_is_out) {
        tracing::warn!(error = format!("{error:#}"), "no instance could be made");
        return Failure::Exhausted;
    }
    if error.is::<I32Exit>() {
        return Failure::Exited;
    }
    if error.is::<Elapsed>() {
        return Failure::Deadline;
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => meter.stopped_by().unwrap_or(Failure::Deadline),
        _ => {
            tracing::debug!(error = format!("{error:#}"), "a guest trapped");
            Failure::Trap
        }
    }
}
