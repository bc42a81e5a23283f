//! What one store holds: the guest's handles, its contexts and its limits. Made for one request and dropped with it, or bound
//! to the next (`kept`).

use super::logs::LogWriter;
use super::meter::Meter;
use super::outgoing::Outgoing;
use shoal_host::context::{Context, WithContext};
use shoal_host::logging::{Level, Log};
use shoal_host::nn::{Infer, NnCtx, NnView, WithNn, outlives_a_call};
use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use wasmtime::ResourceLimiterAsync;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Bytes of all header fields of one request or answer that a guest makes, in memory.
const FIELDS_BYTES_MAX: usize = 32 << 10;
/// Bytes of one call for random bytes.
pub(super) const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// A guest that grows past this goes on in the background: its page faults must hold nobody's socket.
const BIG_MEMORY_BYTES: usize = 8 << 20;

/// Handles that a guest may hold while it waits for another call.
const HANDLES_KEPT_MAX: usize = 64;

/// The data of a store.
pub(crate) struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Outgoing,
    nn: NnCtx,
    log: LogWriter,
    pub(crate) limits: Limits,
}

impl State {
    pub(crate) fn new(
        nn: NnCtx,
        hooks: Outgoing,
        log: LogWriter,
        limits: Limits,
        handles_max: usize,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(handles_max);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        Self {
            table,
            // No files: the streams of one would outlive a call, see `end_call`.
            wasi: WasiCtx::builder()
                .stdout(log.stdout())
                .stderr(log.stderr())
                .max_random_size(RANDOM_BYTES_MAX)
                .allow_tcp(false)
                .allow_udp(false)
                .build(),
            http,
            hooks,
            nn,
            log,
            limits,
        }
    }
}

impl State {
    /// A call is over: lets go of what belongs to it. `false` if the guest holds something that does, like a body that is still
    /// open: then no other call may find it. Nor may one find a sandbox that has grown big, which would not be moved to the
    /// background again and takes long to clear, or one whose guest leaks handles.
    ///
    /// What may stay is listed. Of the streams that is sound as long as those of bodies cannot be there without their bodies,
    /// which are not on the list, and a guest has no files: see [`State::new`].
    pub(super) fn end_call(&mut self) -> bool {
        let mut handles = 0;
        let clean = self.table.iter_mut().all(|entry| {
            handles += 1;
            let is_stream = entry.is::<DynInputStream>() || entry.is::<DynOutputStream>();
            is_stream || outlives_a_call(entry)
        });
        let clean = clean && handles <= HANDLES_KEPT_MAX && !self.limits.moved;
        self.nn.end_call();
        self.log.end_call();
        clean
    }

    /// Another call begins. Its guest goes on in the memory, and with the handles, of the one before.
    pub(super) fn begin_call(&mut self, host: Arc<dyn Infer>, log: &LogWriter, meter: Arc<Meter>) {
        self.nn.begin_call(host);
        self.log.begin_call(log);
        self.limits.meter = meter;
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}

impl WithNn for State {
    fn nn(&mut self) -> NnView<'_> {
        NnView {
            table: &mut self.table,
            ctx: &mut self.nn,
        }
    }
}

impl WithContext for State {
    fn context(&self) -> Context {
        let function = &self.hooks.function;
        Context {
            project: function.project.to_string(),
            function: function.name.to_string(),
            request_id: self.log.request_id(),
            deadline_left: self.limits.meter.deadline_left(),
        }
    }
}

impl Log for State {
    fn log(&mut self, level: Level, context: &str, message: &str) {
        self.log.log(level, context, message);
    }
}

/// The memory limit of one guest, over all its memories and tables.
pub(crate) struct Limits {
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements_max: usize,
    meter: Arc<Meter>,
    moved: bool,
    /// What the last growth added, until it is known to have worked.
    growing: usize,
}

impl Limits {
    pub(crate) fn new(
        memory_bytes_max: usize,
        table_elements_max: usize,
        meter: Arc<Meter>,
    ) -> Self {
        Self {
            memory_bytes: 0,
            memory_bytes_max,
            table_elements_max,
            meter,
            moved: false,
            growing: 0,
        }
    }

    /// The CPU account of the guest that it limits.
    pub(super) fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }
}

/// The data of a store whose guest has such limits.
pub(super) trait Limited: Send + 'static {
    fn limits(&mut self) -> &mut Limits;
}

impl Limited for State {
    fn limits(&mut self) -> &mut Limits {
        &mut self.limits
    }
}

#[async_trait::async_trait]
impl ResourceLimiterAsync for Limits {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.growing = desired.saturating_sub(current);
        let all = self.memory_bytes.saturating_add(self.growing);
        if all > self.memory_bytes_max || maximum.is_some_and(|maximum| desired > maximum) {
            self.growing = 0;
            return Ok(false);
        }
        self.memory_bytes = all;
        if all > BIG_MEMORY_BYTES && !self.moved {
            self.moved = true;
            self.meter.ask_to_move();
            yield_once().await;
        }
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _why: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory_bytes -= std::mem::take(&mut self.growing);
        Ok(())
    }

    async fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= self.table_elements_max)
    }
}

/// Comes back at the next poll, wherever that happens.
fn yield_once() -> impl Future<Output = ()> + Send {
    let mut yielded = false;
    std::future::poll_fn(move |cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}
