//! The background pool: threads that run guests which used too much CPU in a row, always the next turn of the tenant with
//! the least CPU so far. It is also who finishes a guest that still works after its answer was sent.

use super::guest::{Guest, InBackground, Tenant, Thread};
use shoal_inference::{FairQueue, TenantId};
use std::collections::HashMap;
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
    /// Every guest of the pool, parked ones too: a wake-up holds the only other reference to those.
    all: HashMap<u64, Weak<Task>>,
    last_id: u64,
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
    id: u64,
    slot: Mutex<Option<Slot>>,
    state: AtomicU8,
    cancelled: AtomicBool,
    /// Turns that are over, of a guest that is not.
    turns: AtomicU64,
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
    /// The turns that were over when it was first asked about the one in progress.
    waits_from: Option<u64>,
}

impl Ticket {
    /// Ready when the turn that was in progress at the first call is over, or if none was. Between two turns there may be less
    /// time than a waker needs, so it does not have to find the guest at rest.
    pub(crate) fn poll_between_turns(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Stored before the state is read, so that a turn that ends meanwhile finds it.
        *lock(&self.task.watcher) = Some(cx.waker().clone());
        let turns = self.task.turns.load(Ordering::Acquire);
        let runs = matches!(self.task.state.load(Ordering::Acquire), RUNNING | WOKEN);
        if runs && *self.waits_from.get_or_insert(turns) == turns {
            return Poll::Pending;
        }
        self.waits_from = None;
        Poll::Ready(())
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
                all: HashMap::new(),
                last_id: 0,
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
        let id = self.shared.next_id();
        let task = Arc::new(Task {
            id,
            tenant: guest.tenant.clone(),
            slot: Mutex::new(Some(Slot {
                guest,
                ended: sender,
            })),
            state: AtomicU8::new(QUEUED),
            cancelled: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            watcher: Mutex::new(None),
            pool: Arc::downgrade(&self.shared),
            runtime: tokio::runtime::Handle::current(),
        });
        self.shared.admit(task.clone());
        Ticket {
            task,
            ended,
            detached: false,
            waits_from: None,
        }
    }

    /// Stops after the turns in progress; guests that are still here are dropped, and whoever waits for them is told.
    pub(crate) fn close(&self) {
        let (tasks, all) = {
            let mut queue = lock(&self.shared.queue);
            queue.closed = true;
            let tasks = std::mem::take(&mut queue.tasks);
            (tasks, std::mem::take(&mut queue.all))
        };
        self.shared.ready.notify_all();
        // Outside the lock: a guest's drop may wake others.
        drop(tasks);
        for task in all.into_values().filter_map(|task| task.upgrade()) {
            task.end();
        }
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
    fn next_id(&self) -> u64 {
        let mut queue = lock(&self.queue);
        queue.last_id += 1;
        queue.last_id
    }

    fn admit(&self, task: Arc<Task>) {
        lock(&self.queue).all.insert(task.id, Arc::downgrade(&task));
        self.push(task);
    }

    fn push(&self, task: Arc<Task>) {
        let mut queue = lock(&self.queue);
        if queue.closed {
            drop(queue);
            task.end();
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
            drop(slot);
            lock(&pool.queue).all.remove(&self.id);
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
            drop(slot);
            lock(&pool.queue).all.remove(&self.id);
            self.state.store(OVER, Ordering::Release);
            self.tell_watcher();
            return;
        }
        drop(slot);
        self.turns.fetch_add(1, Ordering::AcqRel);
        let parked =
            self.state
                .compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire);
        if parked.is_err() {
            self.state.store(QUEUED, Ordering::Release);
            pool.push(self.clone());
        }
        self.tell_watcher();
    }

    /// Drops the guest where it stands; whoever waits for it is told by the end of the channel.
    fn end(&self) {
        drop(lock(&self.slot).take());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::meter::Meter;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;
    use tokio::time::Instant;

    /// A guest that runs for `turns` turns of equal length, counting them in `ran`.
    fn guest(tenant: &Arc<Tenant>, turns: usize, ran: &Arc<AtomicUsize>) -> Guest {
        let ran = ran.clone();
        let mut left = turns;
        let future = Box::pin(std::future::poll_fn(move |cx| {
            for step in 0..20_000 {
                std::hint::black_box(step);
            }
            ran.fetch_add(1, Ordering::Relaxed);
            left -= 1;
            if left == 0 {
                return Poll::Ready(Ok(()));
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        Guest {
            future,
            meter: Arc::new(Meter::new(
                Instant::now() + Duration::from_secs(60),
                Duration::from_secs(60),
            )),
            tenant: tenant.clone(),
            ticks: Arc::default(),
            _account: Arc::new(()),
        }
    }

    #[tokio::test]
    async fn a_tenant_with_one_guest_has_as_many_turns_as_one_with_twenty() {
        let pool = Pool::start(1).unwrap();
        let (flood, quiet) = (Tenant::new(TenantId(1)), Tenant::new(TenantId(2)));
        let (flooded, ran) = (Arc::default(), Arc::default());
        let many: Vec<Ticket> = (0..20)
            .map(|_| pool.spawn(guest(&flood, 500, &flooded)))
            .collect();
        let before = flooded.load(Ordering::Relaxed);
        let mut one = pool.spawn(guest(&quiet, 200, &ran));
        (&mut one.ended).await.unwrap().unwrap();
        let beside = flooded.load(Ordering::Relaxed) - before;
        assert_eq!(ran.load(Ordering::Relaxed), 200);
        // In order of arrival it would be 4,000. Turns are charged by the clock, so not exactly 200.
        assert!(
            beside < 1_000,
            "{beside} turns of the other tenant beside 200"
        );
        for ticket in many {
            ticket.detach();
        }
    }

    /// On a pool with nothing else to do the next turn begins at once; whoever waits for the end of one must not miss it.
    #[tokio::test]
    async fn the_end_of_a_turn_is_seen_after_the_next_has_begun() {
        let pool = Pool::start(1).unwrap();
        let tenant = Tenant::new(TenantId(1));
        let (began, begins) = std::sync::mpsc::channel();
        let (go_on, goes_on) = std::sync::mpsc::channel();
        let mut guest = guest(&tenant, 1, &Arc::default());
        guest.future = Box::pin(std::future::poll_fn(move |cx| {
            began.send(()).unwrap();
            if goes_on.recv().is_err() {
                return Poll::Ready(Ok(()));
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        let mut ticket = pool.spawn(guest);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..10 {
            begins.recv().unwrap();
            assert!(ticket.poll_between_turns(&mut cx).is_pending());
            go_on.send(()).unwrap();
            begins.recv().unwrap();
            assert!(ticket.poll_between_turns(&mut cx).is_ready());
            go_on.send(()).unwrap();
        }
        drop(go_on);
        (&mut ticket.ended).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn closing_drops_parked_guests_and_tells_who_waits() {
        let pool = Pool::start(1).unwrap();
        let tenant = Tenant::new(TenantId(1));
        let account: Arc<dyn std::any::Any + Send + Sync> = Arc::new(());
        let (polled, is_parked) = oneshot::channel();
        let mut polled = Some(polled);
        let mut parked = guest(&tenant, 1, &Arc::default());
        parked._account = account.clone();
        parked.future = Box::pin(std::future::poll_fn(move |_| {
            if let Some(polled) = polled.take() {
                let _ = polled.send(());
            }
            Poll::Pending
        }));
        let mut ticket = pool.spawn(parked);
        is_parked.await.unwrap();
        pool.close();
        assert!((&mut ticket.ended).await.is_err());
        assert_eq!(Arc::strong_count(&account), 1);
        assert!(!tenant.is_in_background());
    }

    #[tokio::test]
    async fn a_dropped_ticket_drops_its_guest() {
        let pool = Pool::start(1).unwrap();
        let tenant = Tenant::new(TenantId(1));
        let ran = Arc::default();
        drop(pool.spawn(guest(&tenant, usize::MAX, &ran)));
        let began = Instant::now();
        while tenant.is_in_background() {
            assert!(began.elapsed() < Duration::from_secs(10));
            tokio::task::yield_now().await;
        }
    }
}
