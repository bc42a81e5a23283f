//! The wasmtime engine of this process: what guests may be made of, and the pool their instances come from.

use super::background::Pool;
use super::command::{self, CommandState};
use super::kept::Kept;
use super::logs::Logs;
use super::state::{Limited, State};
use super::ticker::Ticker;
use crate::config::Config;
use crate::egress::Egress;
use rustix::process::{Resource, getrlimit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wasmtime::component::Linker;
use wasmtime::{
    Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    WasmBacktraceDetails,
};

/// Stack of a guest's own frames.
const WASM_STACK_BYTES: usize = 256 << 10;
/// Stack of the fiber a guest runs on: its own frames and those of the host calls it makes.
const FIBER_STACK_BYTES: usize = 1 << 20;
/// Of a used fiber stack, what stays resident: without a limit, one wave of recursing guests keeps its memory for good.
const FIBER_STACK_KEPT_BYTES: usize = 32 << 10;
/// Core modules, memories and tables a slot of the pool has: a Rust guest needs 3.
const CORE_PER_GUEST: u32 = 4;
/// Core instances one component may have.
pub(crate) const CORE_INSTANCES_MAX: u32 = 32;
/// Mappings one slot takes, of those the kernel allows a process.
const MAPPINGS_PER_GUEST: u32 = 6;
/// Address space of one memory on demand, where none can be reserved ahead.
const SMALL_RESERVATION_BYTES: u64 = 0;
/// Address space it gets beyond that, so that not every growth moves it. The default is 2 GiB.
const SMALL_GROWTH_BYTES: u64 = 1 << 20;
/// What a host call may copy beside the largest tensors a guest may have.
const HOSTCALL_BESIDE_BYTES: usize = 1 << 20;
/// Slots that are given back to the kernel together. More than one would save each request 1-2 µs, and keep the memory of
/// guests that ended, up to `guest_memory_bytes_max` each, until one that has nothing to do with them clears it all: with 64
/// that was 50-90 ms at once, of a socket's thread too (bar `runaway`).
const DECOMMIT_BATCH: usize = 1;

/// Where instances come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allocator {
    /// Slots reserved ahead: 3-5 µs of CPU for an instance.
    Pool {
        /// Guests alive at once.
        guests: u32,
        /// Whether the kernel can tell which pages a guest touched.
        pagemap_scan: bool,
    },
    /// Mapped for each request: 16-70 µs of CPU for an instance.
    OnDemand {
        /// Why there is no pool.
        why: String,
    },
}

/// The engine and everything that runs guests with it.
pub struct Sandbox {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
    /// For core modules.
    pub(super) commands: wasmtime::Linker<CommandState>,
    pub(crate) pool: Pool,
    pub(super) ticker: Ticker,
    pub(crate) logs: Arc<Logs>,
    pub(crate) egress: Egress,
    /// Of the functions whose owners let a sandbox serve more than one call.
    pub(super) kept: Arc<Kept>,
    allocator: Allocator,
    /// What one host call may copy out of a guest.
    hostcall_bytes_max: usize,
    handles_max: usize,
    ids: AtomicU64,
}

impl Sandbox {
    /// Reserves the instance pool, links the interfaces, starts the ticker and the background threads.
    ///
    /// Where the address space for the pool cannot be had, instances are made on demand: see [`Sandbox::allocator`].
    ///
    /// # Errors
    /// If not even that works.
    pub fn new(config: &Config) -> wasmtime::Result<Self> {
        let (engine, allocator) = engine(config)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        shoal_host::nn::add_to_linker(&mut linker)?;
        shoal_host::many::add_to_linker(&mut linker)?;
        shoal_host::embeddings::add_to_linker(&mut linker)?;
        shoal_host::logging::add_to_linker(&mut linker)?;
        shoal_host::context::add_to_linker(&mut linker)?;
        let ticking = engine.clone();
        let commands = command::linker(&engine)?;
        let ticker = Ticker::start(move || ticking.increment_epoch())?;
        let pool = Pool::start(config.background_threads)?;
        Ok(Self {
            engine,
            linker,
            commands,
            pool,
            ticker,
            logs: Logs::new(config),
            kept: Arc::new(Kept::new(config)),
            egress: Egress::new(config).map_err(wasmtime::Error::from_anyhow)?,
            allocator,
            hostcall_bytes_max: usize::try_from(config.guest_tensor_bytes_max)
                .unwrap_or(usize::MAX)
                .saturating_add(HOSTCALL_BESIDE_BYTES),
            handles_max: config.guest_handles_max,
            ids: AtomicU64::new(1),
        })
    }

    /// The engine, which compiled code is for.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Where instances come from.
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// Guests that were moved to the background pool so far.
    pub fn guests_moved(&self) -> u64 {
        self.pool.moved()
    }

    /// Ends the background threads and the guests they have. Guests own what owns the pool, so this cannot wait for a drop.
    pub(crate) fn close(&self) {
        self.pool.close();
        self.kept.clear();
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn store<T: Limited>(&self, state: T) -> Store<T> {
        let mut store = Store::new(&self.engine, state);
        store.set_hostcall_fuel(self.hostcall_bytes_max);
        store.set_max_component_handles(self.handles_max);
        store.limiter_async(|state| state.limits());
        store.set_epoch_deadline(1);
        store
    }
}

/// What the compiler's process and this one must agree on for compiled code to be loadable.
///
/// `reserve` is whether a memory may take 4 GiB of address space, which saves its bounds checks.
pub(crate) fn tunables(reserve: bool) -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config
        .epoch_interruption(true)
        .concurrency_support(false)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        .async_stack_zeroing(true)
        .wasm_backtrace_max_frames(None)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // What tenants may use: SIMD, bulk memory, reference types, multi-value. What they may not:
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_tail_call(false)
        .wasm_relaxed_simd(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false);
    if !reserve {
        config
            .memory_reservation(SMALL_RESERVATION_BYTES)
            .memory_reservation_for_growth(SMALL_GROWTH_BYTES)
            .memory_guard_size(0)
            .memory_may_move(true);
    }
    config
}

fn engine(config: &Config) -> wasmtime::Result<(Engine, Allocator)> {
    let guests = guests_that_fit(config.guests_max);
    let pagemap_scan = can_scan_pagemap();
    let pooled = |scan: bool| {
        let mut engine = tunables(true);
        engine.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(
            config, guests, scan,
        )));
        Engine::new(&engine)
    };
    let why = match pooled(pagemap_scan) {
        Ok(engine) => {
            return Ok((
                engine,
                Allocator::Pool {
                    guests,
                    pagemap_scan,
                },
            ));
        }
        Err(why) => format!("{why:#}"),
    };
    let mut on_demand = tunables(false);
    on_demand.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    Ok((Engine::new(&on_demand)?, Allocator::OnDemand { why }))
}

fn pool(config: &Config, guests: u32, pagemap_scan: bool) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // Without pagemap_scan only a guest's lowest pages can be kept, and a Rust guest writes above its 1 MiB of stack.
    let (scan, keep) = if pagemap_scan {
        (Enabled::Yes, 1 << 20)
    } else {
        (Enabled::No, 5 << 18)
    };
    pool.total_component_instances(guests)
        .total_core_instances(CORE_PER_GUEST * guests)
        .total_memories(CORE_PER_GUEST * guests)
        .total_tables(CORE_PER_GUEST * guests)
        .total_stacks(guests)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(CORE_INSTANCES_MAX)
        .max_tables_per_component(CORE_INSTANCES_MAX)
        .max_memory_size(config.guest_memory_bytes_max)
        .table_elements(config.guest_table_elements_max)
        .max_unused_warm_slots(100)
        .linear_memory_keep_resident(keep)
        .table_keep_resident(4 << 10)
        .async_stack_keep_resident(FIBER_STACK_KEPT_BYTES)
        .pagemap_scan(scan)
        .decommit_batch_size(DECOMMIT_BATCH);
    pool
}

/// Lowers `wanted` to what the kernel's limit of mappings allows, with a warning.
fn guests_that_fit(wanted: u32) -> u32 {
    let max = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|count| count.trim().parse::<u32>().ok())
        .unwrap_or(65_530);
    let fit = (max / (MAPPINGS_PER_GUEST + 1)).max(1);
    if fit < wanted {
        tracing::warn!(wanted, fit, "guests_max lowered: raise vm.max_map_count");
    }
    wanted.min(fit)
}

/// The kernel can tell which pages a guest touched (6.7 and newer), and none can hide in swap: a page swapped out is not seen
/// as dirty, and would reach the next guest.
pub(crate) fn can_scan_pagemap() -> bool {
    let no_swap = std::fs::read_to_string("/proc/swaps")
        .is_ok_and(|swaps| swaps.lines().skip(1).all(|line| line.trim().is_empty()));
    no_swap && PoolingAllocationConfig::is_pagemap_scan_available()
}

/// Open files this process may have.
pub(crate) fn files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
