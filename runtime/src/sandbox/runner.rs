//! Starts invocations within the limits of one process: a place for each guest, a fresh store, and the whole life of a guest
//! as one future.

use super::Allocator;
use super::engine::Sandbox;
use super::guest::Guest;
use super::invoke::{Head, Invocation, Place};
use super::messages::{InvocationId, Start};
use super::meter::Meter;
use super::registry::Function;
use super::state::{Limits, State};
use crate::config::Config;
use bytes::Bytes;
use http::Method;
use http_body::Body;
use shoal_host::nn::{Infer, NnCtx};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{Error as HttpError, WasiHttpView as _};

/// Runs invocations within the limits of one process.
pub struct Runner {
    pub(super) sandbox: Sandbox,
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
            Allocator::Pool { guests, .. } => *guests as usize,
            Allocator::OnDemand { .. } => config.guests_max as usize,
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
    pub fn next_id(&self) -> InvocationId {
        InvocationId(self.sandbox.next_id())
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
        let place = self.first_place(guest);
        Ok(Invocation::new(place, self.clone(), head, meter, bodiless))
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
