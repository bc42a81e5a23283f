//! This machine's processor: ONNX graphs through rten, on an OS thread of the device's own, because a run can neither be
//! interrupted nor awaited. The thread ends when the device is dropped, after the run it is in.

use super::{Device, DeviceGone, DeviceInfo, Payload};
use crate::onnx::{Graphs, Outputs, Threads};
use crate::plan::{Command, DEPTH, Event, RowsDone, RunError, Ticket};
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::mpsc as thread_mpsc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A model that comes or goes, the runs, and a cancellation of each.
const COMMANDS_MAX: usize = 1 + 2 * DEPTH;

/// See the module's description.
#[derive(Debug)]
pub struct CpuDevice {
    threads: NonZeroUsize,
    commands: thread_mpsc::SyncSender<Received>,
    events: mpsc::Receiver<(Event, Payload)>,
}

/// A command and when it came.
#[derive(Debug)]
struct Received {
    command: Command,
    payload: Payload,
    at: Instant,
}

impl CpuDevice {
    /// A device that runs each batch on this many threads. One is best for models whose runs take microseconds.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn new(threads: NonZeroUsize) -> std::io::Result<Self> {
        let (commands, received) = thread_mpsc::sync_channel(COMMANDS_MAX);
        let (answers, events) = mpsc::channel(COMMANDS_MAX);
        std::thread::Builder::new()
            .name("device-cpu".to_owned())
            .spawn(move || {
                let threads = Threads::new(threads);
                let graphs = Graphs::new(threads.clone());
                threads.enter(move || serve(graphs, &received, &answers));
            })?;
        Ok(Self {
            threads,
            commands,
            events,
        })
    }

    /// All processors but one, which is left to sockets, guests and the engine.
    pub fn threads_default() -> NonZeroUsize {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        NonZeroUsize::new(cores - 1).unwrap_or(NonZeroUsize::MIN)
    }
}

impl Device for CpuDevice {
    fn describe(&self) -> DeviceInfo {
        DeviceInfo {
            name: format!("cpu ({} threads)", self.threads),
            memory_bytes: None,
            simulated: false,
            depth: DEPTH,
        }
    }

    fn send(&mut self, command: Command, payload: Payload) -> Result<(), DeviceGone> {
        let received = Received {
            command,
            payload,
            at: Instant::now(),
        };
        // Full can only mean that the thread has hung while its owner broke the limit of runs in flight.
        self.commands.try_send(received).map_err(|_| DeviceGone)
    }

    async fn recv(&mut self) -> Option<(Event, Payload)> {
        self.events.recv().await
    }
}

/// The thread: one command after the other until the device is dropped.
fn serve(
    mut graphs: Graphs,
    received: &thread_mpsc::Receiver<Received>,
    answers: &mpsc::Sender<(Event, Payload)>,
) {
    let mut waiting: VecDeque<Received> = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Ok(next) = received.recv() else {
                return;
            };
            waiting.push_back(next);
        }
        // What has come meanwhile may cancel what is next.
        waiting.extend(received.try_iter());
        let Some(next) = waiting.pop_front() else {
            continue;
        };
        let Some(answer) = execute(&mut graphs, next, &mut waiting) else {
            continue;
        };
        if answers.blocking_send(answer).is_err() {
            return;
        }
    }
}

fn execute(
    graphs: &mut Graphs,
    next: Received,
    waiting: &mut VecDeque<Received>,
) -> Option<(Event, Payload)> {
    match next.command {
        Command::Load { model } => {
            let result = graphs.load(model, &next.payload);
            Some((Event::Loaded { model, result }, Payload::empty()))
        }
        Command::Unload { model } => {
            graphs.unload(model);
            Some((Event::Unloaded { model }, Payload::empty()))
        }
        Command::Submit {
            ticket,
            plan,
            remaining,
        } => {
            if is_cancelled(ticket, waiting) || next.at.elapsed() > remaining {
                return Some(outcome(ticket, Err(RunError::Cancelled)));
            }
            let began = Instant::now();
            let result = graphs.run(&plan, &next.payload);
            Some(outcome(ticket, result.map(|done| (done, began.elapsed()))))
        }
        // Of a run that has ended: its outcome is already on the way.
        Command::Cancel { .. } => None,
    }
}

/// Whether a cancellation of this run is among what waits; it is then taken out.
fn is_cancelled(run: Ticket, waiting: &mut VecDeque<Received>) -> bool {
    let before = waiting.len();
    waiting.retain(|other| !matches!(other.command, Command::Cancel { ticket } if ticket == run));
    waiting.len() < before
}

fn outcome(ticket: Ticket, result: Result<(Outputs, Duration), RunError>) -> (Event, Payload) {
    match result {
        Ok((outputs, busy)) => {
            let result = Ok(RowsDone {
                requests: outputs.requests,
                device_ns: u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX),
            });
            (
                Event::Outcome { ticket, result },
                Payload::Owned(outputs.payload),
            )
        }
        Err(error) => {
            let result = Err(error);
            (Event::Outcome { ticket, result }, Payload::empty())
        }
    }
}
