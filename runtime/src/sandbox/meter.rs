//! The CPU account of one guest: how long it ran, and when it must yield, move or stop.
//!
//! A reading of the thread's CPU clock is a system call (0.6 µs), so on a socket thread a poll is timed with the monotonic
//! clock until its first epoch tick, and with the CPU clock from there; what the first clock saw is never more than the
//! thread ran since its last reading. In the background, where turns are long, the CPU clock is read at once. Ticks that pass while a guest is parked are not its time: the account only
//! runs inside a poll.

use super::guest::Thread;
use super::messages::Failure;
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;
use wasmtime::UpdateDeadline;

/// CPU time a poll may use before a tick makes it yield.
const YIELD_AFTER_NS: u64 = 500_000;
/// A poll that took longer by the monotonic clock may have been preempted: the CPU clock is asked.
const DOUBTFUL_NS: u64 = 1_000_000;

/// The clocks of the thread that polls.
pub(crate) trait Clocks {
    fn monotonic_ns(&self) -> u64;
    /// CPU time of this thread now, and at the reading before.
    fn thread_cpu_ns(&self) -> (u64, u64);
}

thread_local! {
    static LAST_CPU_NS: Cell<u64> = const { Cell::new(0) };
}

/// Those of the operating system.
#[derive(Debug)]
pub(crate) struct System;

impl Clocks for System {
    fn monotonic_ns(&self) -> u64 {
        clock_ns(ClockId::Monotonic)
    }

    fn thread_cpu_ns(&self) -> (u64, u64) {
        let now = clock_ns(ClockId::ThreadCPUTime);
        (now, LAST_CPU_NS.replace(now))
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
    /// Thread CPU time at the first reading in the poll in progress; 0 before it.
    first_tick: AtomicU64,
    /// CPU time charged for the part of the poll before that.
    before_tick: AtomicU64,
    /// CPU time of all polls that ended.
    total: AtomicU64,
    /// CPU time used without waiting for about as long.
    in_a_row: AtomicU64,
    /// Monotonic time at which the last poll ended.
    parked_at: AtomicU64,
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
            parked_at: AtomicU64::new(u64::MAX),
            yielded: AtomicBool::new(false),
            must_move: AtomicBool::new(false),
            stopped_by: AtomicU8::new(0),
        }
    }

    /// A poll begins.
    pub(crate) fn begin(&self, on: Thread) {
        let now = self.clocks.monotonic_ns();
        // Time spent waiting pays back what was used in a row, at half its length: a guest that only blinks between two
        // long runs is one long run.
        let waited = now.saturating_sub(self.parked_at.load(Relaxed));
        let in_a_row = self.in_a_row.load(Relaxed).saturating_sub(waited / 2);
        self.in_a_row.store(in_a_row, Relaxed);
        self.poll_start.store(now, Relaxed);
        self.before_tick.store(0, Relaxed);
        let first = match on {
            Thread::Socket => 0,
            Thread::Background => self.clocks.thread_cpu_ns().0,
        };
        self.first_tick.store(first, Relaxed);
        self.yielded.store(false, Relaxed);
    }

    /// A poll ended: its CPU time is added up and returned.
    pub(crate) fn end(&self) -> u64 {
        let used = match self.first_tick.load(Relaxed) {
            0 => self.since_start().0,
            first => self.since_first_tick(first),
        };
        self.total.fetch_add(used, Relaxed);
        self.in_a_row.fetch_add(used, Relaxed);
        self.parked_at.store(self.clocks.monotonic_ns(), Relaxed);
        used
    }

    /// CPU time since the poll began, before its first tick; and the CPU clock, if it was read.
    fn since_start(&self) -> (u64, Option<u64>) {
        let wall = self
            .clocks
            .monotonic_ns()
            .saturating_sub(self.poll_start.load(Relaxed));
        if wall < DOUBTFUL_NS {
            return (wall, None);
        }
        let (now, before) = self.clocks.thread_cpu_ns();
        (wall.min(now.saturating_sub(before)), Some(now))
    }

    /// The epoch callback: interrupt, yield or go on.
    pub(crate) fn tick(&self) -> UpdateDeadline {
        let used = match self.first_tick.load(Relaxed) {
            0 => {
                let (charged, cpu) = self.since_start();
                let cpu = cpu.unwrap_or_else(|| self.clocks.thread_cpu_ns().0);
                self.before_tick.store(charged, Relaxed);
                self.first_tick.store(cpu, Relaxed);
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

    /// Time until the guest is stopped for having taken too long.
    pub(crate) fn deadline_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
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
        let (now, _) = self.clocks.thread_cpu_ns();
        self.before_tick.load(Relaxed) + now.saturating_sub(first)
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
        last_us: Cell<u64>,
    }

    impl Clocks for &Manual {
        fn monotonic_ns(&self) -> u64 {
            self.monotonic_us.get() * 1_000
        }

        fn thread_cpu_ns(&self) -> (u64, u64) {
            let now = self.cpu_us.get();
            (now * 1_000, self.last_us.replace(now) * 1_000)
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
            meter.begin(Thread::Socket);
            clocks.burn(10);
            meter.end();
            clocks.preempt(10_000_000);
        }
        // Ticks went on meanwhile: a guest that then runs sees one at once, and is given it back.
        meter.begin(Thread::Socket);
        clocks.burn(10);
        assert!(matches!(meter.tick(), UpdateDeadline::Continue(1)));
        clocks.burn(5);
        meter.end();
        assert_eq!(meter.cpu(), Duration::from_micros(45));
    }

    #[test]
    fn a_poll_is_charged_what_it_ran_and_not_what_passed() {
        let clocks = Manual::default();
        let meter = meter(&clocks, Duration::from_secs(1));
        for ticks in [0, 1, 2] {
            meter.begin(Thread::Socket);
            clocks.preempt(50_000);
            clocks.burn(10_000);
            for _ in 0..ticks {
                meter.tick();
            }
            clocks.preempt(50_000);
            clocks.burn(200);
            assert_eq!(meter.end(), 10_200_000, "{ticks} ticks");
        }
    }

    #[test]
    fn one_long_host_call_in_the_background_is_charged_in_full() {
        let clocks = Manual::default();
        let meter = meter(&clocks, Duration::from_secs(1));
        clocks.burn(7_000);
        meter.begin(Thread::Background);
        clocks.burn(80_000);
        assert!(matches!(meter.tick(), UpdateDeadline::YieldCustom(1, _)));
        assert_eq!(meter.end(), 80_000_000);
    }

    #[test]
    fn a_guest_that_only_blinks_between_long_runs_moves_all_the_same() {
        let clocks = Manual::default();
        let meter = meter(&clocks, Duration::from_secs(1));
        for _ in 0..2 {
            assert!(!meter.should_move(SLICE));
            meter.begin(Thread::Socket);
            clocks.burn(1_900);
            meter.end();
            clocks.preempt(10);
        }
        assert!(meter.should_move(SLICE));
    }

    #[test]
    fn a_poll_yields_after_half_a_millisecond_and_moves_after_its_slice() {
        let clocks = Manual::default();
        let meter = meter(&clocks, Duration::from_secs(1));
        for _ in 0..3 {
            assert!(!meter.should_move(SLICE));
            meter.begin(Thread::Socket);
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
    fn a_guest_that_waits_for_as_long_begins_a_new_row() {
        let clocks = Manual::default();
        let meter = meter(&clocks, Duration::from_secs(1));
        meter.begin(Thread::Socket);
        clocks.burn(1_000);
        meter.tick();
        clocks.burn(2_000);
        meter.tick();
        meter.end();
        assert!(meter.should_move(SLICE));
        clocks.preempt(6_000);
        meter.begin(Thread::Socket);
        clocks.burn(10);
        meter.end();
        assert!(!meter.should_move(SLICE));
    }

    #[test]
    fn the_cpu_limit_interrupts_and_says_so() {
        let clocks = Manual::default();
        let meter = meter(&clocks, Duration::from_millis(3));
        meter.begin(Thread::Socket);
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
        meter.begin(Thread::Socket);
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
