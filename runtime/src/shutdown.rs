//! How a node is told to stop: first to drain, then, if somebody insists or the grace is over, to drop what is left.

use tokio::sync::watch;

/// What the node is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serve.
    Serve,
    /// Refuse new work, finish what began.
    Drain,
    /// Drop everything.
    Stop,
}

/// Tells a node to stop. Dropping it is a request to drain.
#[derive(Debug)]
pub struct Trigger(watch::Sender<Phase>);

/// Sees when the node is to stop; clones see the same.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Phase>);

/// A trigger and what sees it.
pub fn shutdown() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(Phase::Serve);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Drain. A second call skips the wait.
    pub fn again(&self) {
        self.0.send_modify(|phase| {
            *phase = match phase {
                Phase::Serve => Phase::Drain,
                Phase::Drain | Phase::Stop => Phase::Stop,
            };
        });
    }

    /// Drop what is left.
    pub fn stop(&self) {
        self.0.send_replace(Phase::Stop);
    }
}

impl Drop for Trigger {
    fn drop(&mut self) {
        self.0
            .send_modify(|phase| *phase = (*phase).max(Phase::Drain));
    }
}

impl Shutdown {
    /// What the node is to do now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until the node is to drain, or more. Cancel safe.
    pub async fn draining(&mut self) {
        self.reached(Phase::Drain).await;
    }

    /// Waits until the node is to drop everything. Cancel safe.
    pub async fn stopping(&mut self) {
        self.reached(Phase::Stop).await;
    }

    async fn reached(&mut self, phase: Phase) {
        let gone = self.0.wait_for(|now| *now >= phase).await.is_err();
        if gone && phase == Phase::Stop {
            // The trigger is gone: nobody can ask for more than a drain.
            std::future::pending::<()>().await;
        }
    }
}

/// A shutdown that SIGTERM and SIGINT trigger, each time they come. The task that listens ends with `tasks`.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn on_signals(tasks: &mut tokio::task::JoinSet<()>) -> std::io::Result<Shutdown> {
    use tokio::signal::unix::{SignalKind, signal};
    let (trigger, shutdown) = shutdown();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tasks.spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            trigger.again();
        }
    });
    Ok(shutdown)
}
