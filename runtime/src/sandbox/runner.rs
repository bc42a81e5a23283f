//! Starts invocations within the limits of one process: a place for each guest, a fresh store, and the whole life of a guest
//! as one future.

use super::Allocator;
use super::command::Command;
use super::compile::CompileError;
use super::components::Components;
use super::contract::Linked;
use super::engine::Sandbox;
use super::guest::Guest;
use super::invoke::{Head, Invocation, Place, Unready};
use super::kept::Used;
use super::logs::LogWriter;
use super::messages::{Failure, InvocationId, Start};
use super::meter::Meter;
use super::outgoing::Outgoing;
use super::registry::Function;
use super::state::{Limits, State};
use crate::config::Config;
use bytes::Bytes;
use http::Method;
use http_body::Body;
use shoal_host::nn::{Infer, NnCtx};
use shoal_host::witx::WitxNn;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{Error as HttpError, WasiHttpView as _};

/// Runs invocations within the limits of one process.
pub struct Runner {
    pub(super) sandbox: Arc<Sandbox>,
    components: Arc<Components>,
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

/// What is bound to an invocation when it begins, and stands in no message.
pub struct Bound {
    /// Answers the guest's model calls, and knows who it is.
    pub host: Arc<dyn Infer>,
    /// Takes what the guest writes.
    pub log: LogWriter,
    /// Kept until nothing of the call is left, and its CPU time is final.
    pub account: Arc<dyn Any + Send + Sync>,
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
    pub fn new(components: Arc<Components>, config: &Config) -> Self {
        let sandbox = components.sandbox().clone();
        let guests_max = match sandbox.allocator() {
            Allocator::Pool { guests, .. } => *guests as usize,
            Allocator::OnDemand { .. } => config.guests_max as usize,
        };
        Self {
            sandbox,
            components,
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

    /// What its guests are instances of.
    pub fn components(&self) -> &Arc<Components> {
        &self.components
    }

    /// Guests alive now.
    pub fn guests_live(&self) -> usize {
        let places = self.limits.guests_max - self.free_guests.available_permits();
        places.saturating_sub(self.guests_kept())
    }

    /// Sandboxes that have served a call and wait for another.
    pub fn guests_kept(&self) -> usize {
        self.sandbox.kept.len()
    }

    /// Calls so far that were served by one of those.
    pub fn guests_reused(&self) -> u64 {
        self.sandbox.kept.reused()
    }

    /// Lets go of those that wait for too long. Never ends; cancel safe.
    pub async fn expire_kept(&self) {
        self.sandbox.kept.expire().await;
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
    pub fn next_id(&self) -> InvocationId {
        InvocationId(self.sandbox.next_id())
    }

    /// Prepares an invocation; nothing runs before its answer is awaited.
    ///
    /// # Errors
    /// If the tenant or the node has as many guests alive as it may.
    pub fn invoke<B>(
        self: &Arc<Self>,
        function: Arc<Function>,
        start: Start,
        body: B,
        bound: Bound,
    ) -> Result<Invocation, Busy>
    where
        B: Body<Data = Bytes, Error: Into<HttpError>> + Send + 'static,
    {
        let tenant_max = self.limits.tenant_guests_max;
        let place = function
            .tenant
            .try_enter(tenant_max)
            .ok_or(Busy::Tenant { limit: tenant_max })?;
        let kept = function
            .grants
            .reuse
            .and_then(|_| self.sandbox.kept.take(&function));
        let room = match kept {
            Some(used) => Room::Used(Box::new(used)),
            None => Room::New(self.place().ok_or(Busy::Node {
                limit: self.limits.guests_max,
            })?),
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
            host: bound.host,
            log: bound.log,
        };
        let future = Box::pin(async move {
            let _place = place;
            // A guest that runs is stopped by its meter; one that waits, in here.
            timeout_at(deadline, life.live(room, start, body, answer)).await?
        });
        let guest = Guest {
            future,
            meter: meter.clone(),
            tenant,
            ticks: self.sandbox.ticker.running(),
            _account: bound.account,
        };
        let place = self.first_place(guest);
        Ok(Invocation::new(place, self.clone(), head, meter, bodiless))
    }

    /// A place among the node's guests; a sandbox that only waits for another call gives way.
    fn place(&self) -> Option<GuestPermit> {
        loop {
            if let Ok(permit) = self.free_guests.clone().try_acquire_owned() {
                return Some(GuestPermit {
                    permit: Some(permit),
                    ended: self.guest_ended.clone(),
                });
            }
            if !self.sandbox.kept.give_up_one() {
                return None;
            }
        }
    }

    /// CPU time in a row after which a guest leaves its socket thread.
    pub(super) fn guest_slice(&self) -> Duration {
        self.limits.guest_slice
    }

    fn first_place(&self, guest: Guest) -> Place {
        if guest.tenant.is_in_background() {
            return Place::There(self.sandbox.pool.spawn(guest));
        }
        Place::Here(guest)
    }
}

/// A place among the node's guests; those who wait for the last one are told.
pub(super) struct GuestPermit {
    permit: Option<OwnedSemaphorePermit>,
    ended: Arc<Notify>,
}

impl Drop for GuestPermit {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.ended.notify_waiters();
    }
}

/// Where a guest runs.
enum Room {
    New(GuestPermit),
    Used(Box<Used>),
}

/// What a guest's future owns.
struct Life {
    runner: Arc<Runner>,
    function: Arc<Function>,
    meter: Arc<Meter>,
    host: Arc<dyn Infer>,
    log: LogWriter,
}

impl Life {
    async fn live<B>(
        self,
        room: Room,
        start: Start,
        body: B,
        answer: oneshot::Sender<Head>,
    ) -> wasmtime::Result<()>
    where
        B: Body<Data = Bytes, Error: Into<HttpError>> + Send + 'static,
    {
        let permit = match room {
            Room::Used(used) => return self.again(*used, start, body, answer).await,
            Room::New(permit) => permit,
        };
        let function = &self.function;
        let wasm = async { (function.wasm)().await };
        let components = &self.runner.components;
        let ready = components
            .ready(function.tenant.id, function.component, wasm)
            .await
            .map_err(|why| unready(function, why))?;
        let limits = self.runner.limits;
        let memory = Limits::new(
            limits.guest_memory_bytes_max,
            limits.guest_table_elements_max,
            self.meter.clone(),
        );
        match &ready.linked {
            Linked::Handler(pre) => {
                let used = self.fresh(pre, memory, permit).await?;
                used.call(&self.runner, start, body, answer).await
            }
            Linked::Command(pre) => {
                let _permit = permit;
                let command = Command {
                    nn: WitxNn::new(
                        self.host,
                        limits.guest_tensor_bytes_max,
                        limits.guest_handles_max,
                    ),
                    log: self.log,
                    limits: memory,
                    handles_max: limits.guest_handles_max,
                };
                let sandbox = &self.runner.sandbox;
                command.run(sandbox, pre, start, body, answer).await
            }
        }
    }

    /// A sandbox that was never used.
    async fn fresh(
        &self,
        pre: &ProxyPre<State>,
        memory: Limits,
        permit: GuestPermit,
    ) -> wasmtime::Result<Used> {
        let limits = self.runner.limits;
        let nn = NnCtx::new(self.host.clone(), limits.guest_tensor_bytes_max);
        let outgoing = Outgoing {
            egress: self.runner.sandbox.egress.clone(),
            function: self.function.clone(),
            log: self.log.clone(),
        };
        let log = self.log.clone();
        let state = State::new(nn, outgoing, log, memory, limits.guest_handles_max);
        let mut store = self.runner.sandbox.store(state);
        store.epoch_deadline_callback(|store| Ok(store.data().limits.meter().tick()));
        let proxy = pre.instantiate_async(&mut store).await?;
        Ok(Used {
            store,
            proxy,
            calls: 0,
            function: self.function.clone(),
            _permit: permit,
        })
    }

    /// In a sandbox that has served this function before.
    async fn again<B>(
        self,
        mut used: Used,
        start: Start,
        body: B,
        answer: oneshot::Sender<Head>,
    ) -> wasmtime::Result<()>
    where
        B: Body<Data = Bytes, Error: Into<HttpError>> + Send + 'static,
    {
        // For the order in which components go.
        let function = &self.function;
        let components = &self.runner.components;
        components.mapped((function.tenant.id, function.component));
        let state = used.store.data_mut();
        state.begin_call(self.host, &self.log, self.meter);
        used.store.set_epoch_deadline(1);
        used.call(&self.runner, start, body, answer).await
    }
}

impl Used {
    /// One call, after which it may be kept for another. One that fails takes the sandbox along.
    async fn call<B>(
        mut self,
        runner: &Runner,
        start: Start,
        body: B,
        answer: oneshot::Sender<Head>,
    ) -> wasmtime::Result<()>
    where
        B: Body<Data = Bytes, Error: Into<HttpError>> + Send + 'static,
    {
        let mut request = http::Request::new(body);
        *request.method_mut() = start.method;
        *request.uri_mut() = start.uri;
        *request.headers_mut() = start.headers;
        let mut http = self.store.data_mut().http();
        let request = http.new_incoming_request(Scheme::Http, request)?;
        let out = http.new_response_outparam(answer)?;
        let handler = self.proxy.wasi_http_incoming_handler();
        handler.call_handle(&mut self.store, request, out).await?;
        self.calls += 1;
        // One that is not kept says so when it gives its place back.
        if runner.sandbox.kept.offer(self) {
            runner.guest_ended.notify_waiters();
        }
        Ok(())
    }
}

/// Logs why a component could not be had; what its client is told.
fn unready(function: &Function, why: Arc<CompileError>) -> Unready {
    if let CompileError::Busy { .. } = *why {
        return Unready(Failure::CompilesBusy);
    }
    tracing::warn!(
        project = &*function.project,
        function = &*function.name,
        error = format!("{:#}", anyhow::Error::from(why)),
        "a component could not be had"
    );
    Unready(Failure::Unavailable)
}
