//! One invocation: a fresh store, the guest polled inside the connection's own task, and what becomes of it: it answers, it
//! is moved to the background, it is stopped, or its client goes away.

use super::background::Ticket;
use super::engine::Sandbox;
use super::guest::{Guest, Thread};
use super::messages::{Failure, Start};
use super::meter::Meter;
use super::registry::Function;
use super::state::{Limits, State};
use crate::config::Config;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use shoal_host::nn::{Infer, NnCtx};
use std::any::Any;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use wasmtime::{PoolConcurrencyLimitError, Trap};
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error as HttpError, WasiHttpView as _};

/// Runs invocations within the limits of one process.
pub struct Runner {
    sandbox: Sandbox,
    limits: RunLimits,
    free_guests: Arc<Semaphore>,
    guest_ended: Arc<Notify>,
}

#[derive(Clone, Copy)]
struct RunLimits {
    guest_cpu_max: Duration,
    guest_slice: Duration,
    guest_memory_bytes_max: usize,
    guest_table_elements_max: usize,
    guest_handles_max: usize,
    guest_tensor_bytes_max: u64,
    guests_max: usize,
    tenant_guests_max: usize,
}

/// Why an invocation did not even begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// The tenant has as many guests alive as it may.
    Tenant {
        /// The limit (`tenant_guests_max`).
        limit: usize,
    },
    /// The node has.
    Node {
        /// The limit (`guests_max`).
        limit: usize,
    },
}

impl Runner {
    /// Takes what it needs of the configuration.
    pub fn new(sandbox: Sandbox, config: &Config) -> Self {
        let guests_max = match sandbox.allocator() {
            super::Allocator::Pool { guests, .. } => *guests as usize,
            super::Allocator::OnDemand { .. } => config.guests_max as usize,
        };
        Self {
            sandbox,
            limits: RunLimits {
                guest_cpu_max: config.guest_cpu_max,
                guest_slice: config.guest_slice,
                guest_memory_bytes_max: config.guest_memory_bytes_max,
                guest_table_elements_max: config.guest_table_elements_max,
                guest_handles_max: config.guest_handles_max,
                guest_tensor_bytes_max: config.guest_tensor_bytes_max,
                guests_max,
                tenant_guests_max: config.tenant_guests_max,
            },
            free_guests: Arc::new(Semaphore::new(guests_max)),
            guest_ended: Arc::default(),
        }
    }

    /// The engine under it.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Guests alive now.
    pub fn guests_live(&self) -> usize {
        self.limits.guests_max - self.free_guests.available_permits()
    }

    /// Waits until no guest is alive. Cancel safe.
    pub async fn idle(&self) {
        loop {
            let ended = self.guest_ended.notified();
            if self.guests_live() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Names the next invocation.
    pub fn next_id(&self) -> super::messages::InvocationId {
        super::messages::InvocationId(self.sandbox.next_id())
    }

    /// Prepares an invocation; nothing runs before its answer is awaited.
    ///
    /// `body` is the request's body; `host` answers the guest's model calls and knows who it is; `account` is kept until
    /// nothing of the guest is left, and its CPU time is final.
    ///
    /// # Errors
    /// If the tenant or the node has as many guests alive as it may.
    pub fn invoke<B>(
        self: &Arc<Self>,
        function: Arc<Function>,
        start: Start,
        body: B,
        host: Arc<dyn Infer>,
        account: Arc<dyn Any + Send + Sync>,
    ) -> Result<Invocation, Busy>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<HttpError>,
    {
        let tenant_max = self.limits.tenant_guests_max;
        let place = function
            .tenant
            .try_enter(tenant_max)
            .ok_or(Busy::Tenant { limit: tenant_max })?;
        let instance = self.free_guests.clone().try_acquire_owned();
        let instance = GuestPermit {
            permit: Some(instance.map_err(|_| Busy::Node {
                limit: self.limits.guests_max,
            })?),
            ended: self.guest_ended.clone(),
        };
        let deadline = Instant::now() + start.remaining;
        let meter = Arc::new(Meter::new(deadline, self.limits.guest_cpu_max));
        let (answer, head) = oneshot::channel();
        let bodiless = start.method == Method::HEAD;
        let tenant = function.tenant.clone();
        let life = Life {
            runner: self.clone(),
            function,
            meter: meter.clone(),
            host,
        };
        let future = Box::pin(async move {
            let _permits = (place, instance);
            // A guest that runs is stopped by its meter; one that waits, in here.
            timeout_at(deadline, life.live(start, body, answer)).await?
        });
        let guest = Guest {
            future,
            meter: meter.clone(),
            tenant,
            _account: account,
        };
        Ok(Invocation {
            place: self.first_place(guest),
            runner: self.clone(),
            head: Some(head),
            meter,
            bodiless,
        })
    }

    fn first_place(&self, guest: Guest) -> Place {
        if guest.tenant.is_in_background() {
            return Place::There(self.sandbox.pool.spawn(guest));
        }
        Place::Here(guest)
    }
}

/// A place among the node's guests; those who wait for the last one are told.
struct GuestPermit {
    permit: Option<OwnedSemaphorePermit>,
    ended: Arc<Notify>,
}

impl Drop for GuestPermit {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.ended.notify_waiters();
    }
}

type Head = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// What a guest's future owns.
struct Life {
    runner: Arc<Runner>,
    function: Arc<Function>,
    meter: Arc<Meter>,
    host: Arc<dyn Infer>,
}

impl Life {
    async fn live<B>(
        self,
        start: Start,
        body: B,
        answer: oneshot::Sender<Head>,
    ) -> wasmtime::Result<()>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<HttpError>,
    {
        let limits = self.runner.limits;
        let memory = Limits::new(
            limits.guest_memory_bytes_max,
            limits.guest_table_elements_max,
            self.meter.clone(),
        );
        let nn = NnCtx::new(self.host, limits.guest_tensor_bytes_max);
        let state = State::new(nn, memory, limits.guest_handles_max);
        let mut store = self.runner.sandbox.store(state);
        let meter = self.meter;
        store.epoch_deadline_callback(move |_| Ok(meter.tick()));
        let proxy = self.function.pre.instantiate_async(&mut store).await?;
        let mut request = http::Request::new(body);
        *request.method_mut() = start.method;
        *request.uri_mut() = start.uri;
        *request.headers_mut() = start.headers;
        let mut http = store.data_mut().http();
        let request = http.new_incoming_request(Scheme::Http, request)?;
        let out = http.new_response_outparam(answer)?;
        proxy
            .wasi_http_incoming_handler()
            .call_handle(&mut store, request, out)
            .await
    }
}

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

enum Place {
    /// Polled by the connection's task.
    Here(Guest),
    /// In the background.
    There(Ticket),
    Over(Result<(), Failure>),
}

/// A guest's answer: its head, and a body that is whole or still being written.
pub struct Answer {
    /// The response.
    pub response: Response<GuestBody>,
    /// Whether the guest has ended: then all of its times are known.
    pub complete: bool,
}

impl Invocation {
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
        let response = head.map_err(|_| Failure::Errored)?;
        if response.status().is_informational() {
            return Err(Failure::Errored);
        }
        let status = response.status();
        let bodiless =
            self.bodiless || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let length = match content_length(&response)? {
            _ if bodiless => Length::NoBody,
            Some(length) => Length::Exactly(length),
            None => Length::Unknown,
        };
        if matches!(self.place, Place::Over(_)) {
            return whole(response, length);
        }
        let response = response.map(|body| {
            GuestBody::Streamed(Streamed {
                body,
                left: length.bytes(),
                invocation: Some(Box::new(self)),
            })
        });
        Ok(Answer {
            response,
            complete: false,
        })
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        if let Poll::Ready(ended) = self.poll_guest(cx) {
            ended?;
            let head = self.head.as_mut().and_then(|head| head.try_recv().ok());
            return Poll::Ready(head.ok_or(Failure::NoResponse));
        }
        // A guest that is about to end gets to: its whole answer is worth more than an early head.
        match &self.place {
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
    fn poll_guest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let ended = match &mut self.place {
            Place::Over(result) => return Poll::Ready(*result),
            Place::There(ticket) => {
                let ended = ready!(Pin::new(&mut ticket.ended).poll(cx));
                // The pool was closed: the node is stopping.
                ended.unwrap_or_else(|_| Err(wasmtime::format_err!("stopped")))
            }
            Place::Here(guest) => match guest.turn(cx, Thread::Socket) {
                (Poll::Ready(ended), _) => ended,
                (Poll::Pending, _) if self.meter.should_move(self.runner.limits.guest_slice) => {
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
    fn poll_body_ended(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if let Place::There(ticket) = &self.place {
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
    fn finish_elsewhere(self) {
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

/// What the head of an answer says of its body.
#[derive(Clone, Copy)]
enum Length {
    /// The answer has a head only.
    NoBody,
    Exactly(u64),
    Unknown,
}

impl Length {
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

/// All of a body is written already: one piece with a known length, where that costs no order of frames.
fn whole(response: Response<HyperOutgoingBody>, length: Length) -> Result<Answer, Failure> {
    let (parts, body) = response.into_parts();
    let mut collected = Box::pin(body.collect());
    let collected = collected
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    let body = match collected {
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

fn failure(error: &wasmtime::Error, meter: &Meter) -> Failure {
    let host_is_out = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<PoolConcurrencyLimitError>() || cause.is::<std::io::Error>()
    };
    if error.chain().any(host_is_out) {
        tracing::warn!(error = format!("{error:#}"), "no instance could be made");
        return Failure::Exhausted;
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
