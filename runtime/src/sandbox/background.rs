//! The background pool: threads that run guests which used too much CPU in a row, always the next turn of the tenant with
//! the least CPU so far. It is also who finishes a guest that still works after its answer was sent.

use super::guest::{Guest, InBackground, Tenant, Thread};
use shoal_inference::{FairQueue, TenantId};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Niceness of the pool's threads: sockets come first. Not SCHED_IDLE, which starves for 12-16 ms at the 99.9th percentile.
const NICE: i32 = 5;

/// How a guest ended: as its future did, or not at all because the pool was closed.
pub(crate) type Ended = oneshot::Receiver<wasmtime::Result<()>>;

/// The pool's threads and what is ready to run.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    moved: AtomicU64,
}

struct Queue {
    tasks: FairQueue<TenantId, Ready>,
    closed: bool,
}

/// A guest that is queued or runs. Only those count as their tenant's guests in the background: one that waits for its batch
/// takes no turns, and says nothing about how long its siblings will run.
struct Ready {
    task: Arc<Task>,
    counted: InBackground,
}

/// A guest's place in the pool. States follow the usual waker protocol: a wake while it runs is remembered.
struct Task {
    slot: Mutex<Option<Slot>>,
    state: AtomicU8,
    cancelled: AtomicBool,
    /// Who wants to know when the turn in progress is over.
    watcher: Mutex<Option<Waker>>,
    tenant: Arc<Tenant>,
    pool: Weak<Shared>,
    /// The runtime that accepted the request: the guest's timers and sockets stay with it.
    runtime: tokio::runtime::Handle,
}

struct Slot {
    guest: Guest,
    ended: oneshot::Sender<wasmtime::Result<()>>,
}

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const WOKEN: u8 = 3;
const OVER: u8 = 4;

/// Held by whoever waits for a guest in the pool; dropping it stops the guest before its next turn.
pub(crate) struct Ticket {
    task: Arc<Task>,
    pub(crate) ended: Ended,
    detached: bool,
}

impl Ticket {
    /// Ready when the guest is not in the middle of a turn.
    pub(crate) fn poll_between_turns(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Stored before the state is read, so that a turn that ends meanwhile finds it.
        *lock(&self.task.watcher) = Some(cx.waker().clone());
        match self.task.state.load(Ordering::Acquire) {
            RUNNING | WOKEN => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }

    /// Lets the guest finish by itself: its own deadline still holds.
    pub(crate) fn detach(mut self) {
        self.detached = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.detached {
            self.task.cancelled.store(true, Ordering::Release);
            self.task.clone().wake();
        }
    }
}

impl Pool {
    /// Starts `threads` threads.
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                tasks: FairQueue::default(),
                closed: false,
            }),
            ready: Condvar::new(),
            moved: AtomicU64::new(0),
        });
        let threads = (0..threads)
            .map(|n| {
                let shared = shared.clone();
                std::thread::Builder::new()
                    .name(format!("background-{n}"))
                    .spawn(move || shared.work())
            })
            .collect::<Result<Vec<_>, _>>()?;
        let threads = Mutex::new(threads);
        Ok(Self { shared, threads })
    }

    /// Takes a guest over from the calling socket thread.
    pub(crate) fn spawn(&self, guest: Guest) -> Ticket {
        self.shared.moved.fetch_add(1, Ordering::Relaxed);
        let (sender, ended) = oneshot::channel();
        let task = Arc::new(Task {
            tenant: guest.tenant.clone(),
            slot: Mutex::new(Some(Slot {
                guest,
                ended: sender,
            })),
            state: AtomicU8::new(QUEUED),
            cancelled: AtomicBool::new(false),
            watcher: Mutex::new(None),
            pool: Arc::downgrade(&self.shared),
            runtime: tokio::runtime::Handle::current(),
        });
        self.shared.push(task.clone());
        Ticket {
            task,
            ended,
            detached: false,
        }
    }

    /// Stops after the turns in progress; guests that are still here are dropped, and whoever waits for them is told.
    pub(crate) fn close(&self) {
        let tasks = {
            let mut queue = lock(&self.shared.queue);
            queue.closed = true;
            std::mem::take(&mut queue.tasks)
        };
        self.shared.ready.notify_all();
        // Outside the lock: a guest's drop may wake others.
        drop(tasks);
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // Guests' panics are caught where they happen.
            let _ = thread.join();
        }
    }

    /// Guests that came here so far.
    pub(crate) fn moved(&self) -> u64 {
        self.shared.moved.load(Ordering::Relaxed)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn push(&self, task: Arc<Task>) {
        let mut queue = lock(&self.queue);
        if queue.closed {
            drop(queue);
            drop(task);
            return;
        }
        let counted = InBackground::new(&task.tenant);
        let tenant = task.tenant.id;
        queue.tasks.push(tenant, Ready { task, counted });
        drop(queue);
        self.ready.notify_one();
    }

    fn work(&self) {
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::warn!(%error, "background threads run at normal priority");
        }
        while let Some(Ready { task, counted }) = self.pop() {
            task.run(self);
            drop(counted);
        }
    }

    fn pop(&self) -> Option<Ready> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return None;
            }
            if let Some((_, ready)) = queue.tasks.pop() {
                return Some(ready);
            }
            queue = self
                .ready
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Task {
    fn run(self: Arc<Self>, pool: &Shared) {
        self.state.store(RUNNING, Ordering::Release);
        let _runtime = self.runtime.enter();
        let mut slot = lock(&self.slot);
        let Some(Slot { guest, .. }) = slot.as_mut() else {
            return;
        };
        if self.cancelled.load(Ordering::Acquire) {
            drop(slot.take());
            return;
        }
        let waker = Waker::from(self.clone());
        let (poll, used) = guest.turn(&mut Context::from_waker(&waker), Thread::Background);
        lock(&pool.queue).tasks.charge(&self.tenant.id, used);
        if let Poll::Ready(result) = poll {
            if let Some(Slot { ended, guest, .. }) = slot.take() {
                // The store goes before anybody is told, so that a permit given back means a free instance.
                drop(guest);
                // Nobody may be waiting any more.
                let _ = ended.send(result);
            }
            self.state.store(OVER, Ordering::Release);
            self.tell_watcher();
            return;
        }
        drop(slot);
        let parked =
            self.state
                .compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire);
        if parked.is_err() {
            self.state.store(QUEUED, Ordering::Release);
            pool.push(self.clone());
        }
        self.tell_watcher();
    }

    fn tell_watcher(&self) {
        if let Some(watcher) = lock(&self.watcher).take() {
            watcher.wake();
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let next = |state| match state {
            IDLE => Some(QUEUED),
            RUNNING => Some(WOKEN),
            _ => None,
        };
        let before = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        if before == Ok(IDLE)
            && let Some(pool) = self.pool.upgrade()
        {
            pool.push(self);
        }
    }
}

/// Nothing panics while it holds one of these locks but for a bug; the data behind them is plain either way.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
