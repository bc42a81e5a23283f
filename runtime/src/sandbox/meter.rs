//! The CPU account of one guest: how long it ran, and when it must yield, move or stop.
//!
//! A reading of the thread's CPU clock is a system call (0.6 µs), so a poll is timed with the monotonic clock until its first
//! epoch tick, and with the CPU clock from there. Ticks that pass while a guest is parked are not its time: the account only
//! runs inside a poll.

use super::messages::Failure;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;
use wasmtime::UpdateDeadline;

/// CPU time a poll may use before a tick makes it yield.
const YIELD_AFTER_NS: u64 = 500_000;
/// The most that is charged for the time up to a poll's first tick: the thread may have been preempted meanwhile.
const TICK_NS: u64 = 1_000_000;

/// The clocks of the thread that polls.
pub(crate) trait Clocks {
    fn monotonic_ns(&self) -> u64;
    fn thread_cpu_ns(&self) -> u64;
}

/// Those of the operating system.
#[derive(Debug)]
pub(crate) struct System;

impl Clocks for System {
    fn monotonic_ns(&self) -> u64 {
        clock_ns(ClockId::Monotonic)
    }

    fn thread_cpu_ns(&self) -> u64 {
        clock_ns(ClockId::ThreadCPUTime)
    }
}

fn clock_ns(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Shared by whoever polls a guest and by the epoch callback inside its store; never by two polls at once.
#[derive(Debug)]
pub(crate) struct Meter<C = System> {
    clocks: C,
    deadline: Instant,
    cpu_max_ns: u64,
    /// Monotonic time at which the poll in progress began.
    poll_start: AtomicU64,
    /// Thread CPU time at the first tick of the poll in progress; 0 before it.
    first_tick: AtomicU64,
    /// CPU time charged for the part of the poll before its first tick.
    before_tick: AtomicU64,
    /// CPU time of all polls that ended.
    total: AtomicU64,
    /// CPU time since the guest last waited for something.
    in_a_row: AtomicU64,
    yielded: AtomicBool,
    must_move: AtomicBool,
    stopped_by: AtomicU8,
}

const BY_DEADLINE: u8 = 1;
const BY_CPU_LIMIT: u8 = 2;

impl Meter {
    pub(crate) fn new(deadline: Instant, cpu_max: Duration) -> Self {
        Self::with_clocks(System, deadline, cpu_max)
    }
}

impl<C: Clocks> Meter<C> {
    fn with_clocks(clocks: C, deadline: Instant, cpu_max: Duration) -> Self {
        Self {
            clocks,
            deadline,
            cpu_max_ns: u64::try_from(cpu_max.as_nanos()).unwrap_or(u64::MAX),
            poll_start: AtomicU64::new(0),
            first_tick: AtomicU64::new(0),
            before_tick: AtomicU64::new(0),
            total: AtomicU64::new(0),
            in_a_row: AtomicU64::new(0),
            yielded: AtomicBool::new(false),
            must_move: AtomicBool::new(false),
            stopped_by: AtomicU8::new(0),
        }
    }

    /// A poll begins.
    pub(crate) fn begin(&self) {
        self.poll_start.store(self.clocks.monotonic_ns(), Relaxed);
        self.first_tick.store(0, Relaxed);
        self.yielded.store(false, Relaxed);
    }

    /// A poll ended: its CPU time is added up and returned.
    pub(crate) fn end(&self) -> u64 {
        let used = match self.first_tick.load(Relaxed) {
            0 => self
                .clocks
                .monotonic_ns()
                .saturating_sub(self.poll_start.load(Relaxed)),
            first => self.since_first_tick(first),
        };
        self.total.fetch_add(used, Relaxed);
        if self.yielded.load(Relaxed) {
            self.in_a_row.fetch_add(used, Relaxed);
        } else {
            self.in_a_row.store(0, Relaxed);
        }
        used
    }

    /// The epoch callback: interrupt, yield or go on.
    pub(crate) fn tick(&self) -> UpdateDeadline {
        let used = match self.first_tick.load(Relaxed) {
            0 => {
                let wall = self
                    .clocks
                    .monotonic_ns()
                    .saturating_sub(self.poll_start.load(Relaxed));
                let charged = wall.min(TICK_NS);
                self.before_tick.store(charged, Relaxed);
                self.first_tick.store(self.clocks.thread_cpu_ns(), Relaxed);
                charged
            }
            first => self.since_first_tick(first),
        };
        if self.total.load(Relaxed) + used > self.cpu_max_ns {
            self.stopped_by.store(BY_CPU_LIMIT, Relaxed);
            return UpdateDeadline::Interrupt;
        }
        if Instant::now() >= self.deadline {
            self.stopped_by.store(BY_DEADLINE, Relaxed);
            return UpdateDeadline::Interrupt;
        }
        if used < YIELD_AFTER_NS {
            return UpdateDeadline::Continue(1);
        }
        self.yielded.store(true, Relaxed);
        // Tokio's own yield lets the thread look at its sockets first; a plain wake-up would keep them waiting for 61 polls.
        UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))
    }

    /// The guest wants a lot of memory: it goes on in the background, where page faults hold nobody's socket.
    pub(crate) fn ask_to_move(&self) {
        self.must_move.store(true, Relaxed);
        self.yielded.store(true, Relaxed);
    }

    /// Whether the last poll ended because the guest ran for long, not because it waits: it will be polled again at once.
    pub(crate) fn has_yielded(&self) -> bool {
        self.yielded.load(Relaxed)
    }

    /// Whether the guest has to leave the socket thread.
    pub(crate) fn should_move(&self, slice: Duration) -> bool {
        self.must_move.load(Relaxed) || u128::from(self.in_a_row.load(Relaxed)) > slice.as_nanos()
    }

    /// CPU time of all polls that ended.
    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.total.load(Relaxed))
    }

    /// Why the epoch callback stopped the guest, if it did.
    pub(crate) fn stopped_by(&self) -> Option<Failure> {
        match self.stopped_by.load(Relaxed) {
            BY_DEADLINE => Some(Failure::Deadline),
            BY_CPU_LIMIT => Some(Failure::CpuLimit),
            _ => None,
        }
    }

    fn since_first_tick(&self, first: u64) -> u64 {
        self.before_tick.load(Relaxed) + self.clocks.thread_cpu_ns().saturating_sub(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Clocks that tests set.
    #[derive(Default)]
    struct Manual {
        monotonic_us: Cell<u64>,
        cpu_us: Cell<u64>,
    }

    impl Clocks for &Manual {
        fn monotonic_ns(&self) -> u64 {
            self.monotonic_us.get() * 1_000
        }

        fn thread_cpu_ns(&self) -> u64 {
            self.cpu_us.get() * 1_000
        }
    }

    impl Manual {
        /// The guest runs.
        fn burn(&self, us: u64) {
            self.cpu_us.set(self.cpu_us.get() + us);
            self.preempt(us);
        }

        /// Time passes, and others have the processor.
        fn preempt(&self, us: u64) {
            self.monotonic_us.set(self.monotonic_us.get() + us);
        }
    }

    const SLICE: Duration = Duration::from_millis(2);

    fn meter(clocks: &Manual, cpu_max: Duration) -> Meter<&Manual> {
        Meter::with_clocks(clocks, Instant::now() + Duration::from_secs(60), cpu_max)
    }

    #[test]
    fn time_parked_between_polls_is_nobodys_cpu() {
        let clocks = Manual::default();
        let meter = meter(&clocks, Duration::from_secs(1));
        for _ in 0..3 {
            meter.begin();
            clocks.burn(10);
            meter.end();
            clocks.preempt(10_000_000);
        }
        // Ticks went on meanwhile: a guest that then runs sees one at once, and is given it back.
        meter.begin();
        clocks.burn(10);
        assert!(matches!(meter.tick(), UpdateDeadline::Continue(1)));
        clocks.burn(5);
        meter.end();
        assert_eq!(meter.cpu(), Duration::from_micros(45));
    }

    #[test]
    fn from_its_first_tick_on_a_poll_is_charged_what_it_ran_and_not_what_passed() {
        let clocks = Manual::default();
        let meter = meter(&clocks, Duration::from_secs(1));
        meter.begin();
        clocks.preempt(50_000);
        clocks.burn(100);
        meter.tick();
        clocks.preempt(50_000);
        clocks.burn(200);
        // The thread was away for 100 ms: at most one tick of it is charged, for the part that only one clock saw.
        assert_eq!(meter.end(), 1_000_000 + 200_000);
    }

    #[test]
    fn a_poll_yields_after_half_a_millisecond_and_moves_after_its_slice() {
        let clocks = Manual::default();
        let meter = meter(&clocks, Duration::from_secs(1));
        for _ in 0..3 {
            assert!(!meter.should_move(SLICE));
            meter.begin();
            clocks.burn(499);
            assert!(matches!(meter.tick(), UpdateDeadline::Continue(1)));
            clocks.burn(200);
            assert!(matches!(meter.tick(), UpdateDeadline::YieldCustom(1, _)));
            assert!(meter.has_yielded());
            meter.end();
        }
        assert!(meter.should_move(SLICE));
    }

    #[test]
    fn a_guest_that_waits_begins_a_new_row() {
        let clocks = Manual::default();
        let meter = meter(&clocks, Duration::from_secs(1));
        meter.begin();
        clocks.burn(1_000);
        meter.tick();
        clocks.burn(2_000);
        meter.tick();
        meter.end();
        assert!(meter.should_move(SLICE));
        meter.begin();
        clocks.burn(10);
        meter.end();
        assert!(!meter.should_move(SLICE));
    }

    #[test]
    fn the_cpu_limit_interrupts_and_says_so() {
        let clocks = Manual::default();
        let meter = meter(&clocks, Duration::from_millis(3));
        meter.begin();
        clocks.burn(1_000);
        meter.tick();
        clocks.burn(2_000);
        assert!(matches!(meter.tick(), UpdateDeadline::YieldCustom(1, _)));
        clocks.burn(1);
        assert!(matches!(meter.tick(), UpdateDeadline::Interrupt));
        assert_eq!(meter.stopped_by(), Some(Failure::CpuLimit));
    }

    #[test]
    fn a_running_guest_is_interrupted_at_its_wall_deadline() {
        let clocks = Manual::default();
        let meter = Meter::with_clocks(&clocks, Instant::now(), Duration::from_secs(1));
        meter.begin();
        assert!(matches!(meter.tick(), UpdateDeadline::Interrupt));
        assert_eq!(meter.stopped_by(), Some(Failure::Deadline));
    }

    #[test]
    fn a_guest_that_wants_much_memory_moves_at_once() {
        let clocks = Manual::default();
        let meter = meter(&clocks, Duration::from_secs(1));
        assert!(!meter.should_move(SLICE));
        meter.ask_to_move();
        assert!(meter.should_move(SLICE));
    }
}
