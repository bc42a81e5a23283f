//! The thread that makes guests look up: it ticks every millisecond while any guest runs. Where none has run for a while it
//! waits to be told, since a tick costs some 20 µs of CPU: 2-3 % of a processor, on a node that does nothing.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::{Thread, park};
use std::time::Duration;

/// How often guests are asked to look up.
const TICK: Duration = Duration::from_millis(1);
/// Ticks without a guest that ran, after which there are no more. To be told costs whoever does so a system call.
const IDLE_TICKS: u32 = 100;

/// The thread's owner: it ends when this is dropped.
pub(super) struct Ticker(Arc<Running>);

/// How many guests run, and whom to tell.
#[derive(Default)]
pub(crate) struct Running {
    guests: AtomicUsize,
    thread: OnceLock<Thread>,
    /// Whether the thread waits to be told, or is about to.
    waits: AtomicBool,
    over: AtomicBool,
}

/// Held while a guest runs.
pub(crate) struct Turn<'a>(&'a Running);

impl Ticker {
    /// Calls `tick` every millisecond in which a guest runs.
    pub(super) fn start(tick: impl Fn() + Send + 'static) -> io::Result<Self> {
        let running = Arc::<Running>::default();
        let theirs = running.clone();
        let thread = std::thread::Builder::new().name("epochs".into());
        let thread = thread.spawn(move || theirs.tick_while_any_runs(tick))?;
        // Set once, here.
        let _ = running.thread.set(thread.thread().clone());
        Ok(Self(running))
    }

    /// What guests say when they run.
    pub(super) fn running(&self) -> Arc<Running> {
        self.0.clone()
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
        self.0.wake();
    }
}

impl Running {
    /// A guest runs from now on, until what comes back is dropped.
    pub(crate) fn enter(&self) -> Turn<'_> {
        // In one order with what the thread does before it waits: one of the two sees what the other did.
        self.guests.fetch_add(1, SeqCst);
        if self.waits.load(SeqCst) {
            self.wake();
        }
        Turn(self)
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a thread of its own, made to sleep: guests must be interrupted even when every runtime is busy"
    )]
    fn tick_while_any_runs(&self, tick: impl Fn()) {
        let mut idle = 0;
        while !self.over.load(SeqCst) {
            idle = if self.guests.load(SeqCst) > 0 {
                0
            } else {
                idle + 1
            };
            if idle > IDLE_TICKS {
                self.wait();
                idle = 0;
            }
            tick();
            std::thread::sleep(TICK);
        }
    }

    /// May come back early.
    fn wait(&self) {
        self.waits.store(true, SeqCst);
        if self.guests.load(SeqCst) == 0 && !self.over.load(SeqCst) {
            park();
        }
        self.waits.store(false, SeqCst);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A ticker, and its ticks.
    fn ticker() -> (Ticker, Receiver<()>) {
        let (sender, ticks) = sync_channel(1_000);
        let ticker = Ticker::start(move || {
            let _ = sender.try_send(());
        });
        (ticker.unwrap(), ticks)
    }

    /// Takes all ticks until there are no more.
    fn rest(ticker: &Ticker, ticks: &Receiver<()>) {
        while !ticker.0.waits.load(SeqCst) {
            let _ = ticks.recv_timeout(TICK);
        }
        while ticks.try_recv().is_ok() {}
    }

    #[test]
    fn it_ticks_while_a_guest_runs_and_rests_when_none_does() {
        let (ticker, ticks) = ticker();
        let running = ticker.running();
        for _ in 0..3 {
            rest(&ticker, &ticks);
            let turn = running.enter();
            for _ in 0..2 * IDLE_TICKS {
                ticks.recv_timeout(PATIENCE).unwrap();
            }
            drop(turn);
        }
    }

    #[test]
    fn many_that_come_and_go_leave_nobody_without_a_tick() {
        let (ticker, ticks) = ticker();
        rest(&ticker, &ticks);
        let running = ticker.running();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        drop(running.enter());
                    }
                });
            }
        });
        let _turn = running.enter();
        for _ in 0..2 * IDLE_TICKS {
            ticks.recv_timeout(PATIENCE).unwrap();
        }
    }

    #[test]
    fn the_thread_ends_with_its_owner_while_it_rests_too() {
        for resting in [false, true] {
            let (ticker, ticks) = ticker();
            if resting {
                rest(&ticker, &ticks);
            }
            drop(ticker);
            while ticks.recv_timeout(PATIENCE).is_ok() {}
            let ended = ticks.recv_timeout(PATIENCE);
            assert_eq!(ended, Err(RecvTimeoutError::Disconnected));
        }
    }
}
