//! Sockets: one acceptor that hands each connection to the runtime with the fewest open ones, a runtime for each socket
//! thread, limits on how many connections there may be, and the drain.
//!
//! One acceptor, because threads that accept by themselves (SO_REUSEPORT) leave connections unevenly spread and reset some
//! at drain.

use super::connection::{ConnectionLimits, serve};
use super::service::Service;
use crate::config::Config;
use crate::shutdown::Shutdown;
use dashmap::DashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

/// Wait before accepting again after the operating system refused, for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Accepts for so many threads until the node drains, then waits until every connection has ended or the node is to stop.
///
/// # Errors
/// If the socket threads cannot be started.
pub(crate) async fn run(
    listener: TcpListener,
    service: Arc<Service>,
    config: &Config,
    threads: usize,
    mut shutdown: Shutdown,
) -> std::io::Result<()> {
    let threads = SocketThreads::start(&service, config, threads, &shutdown)?;
    let door = Door {
        room: Arc::new(Semaphore::new(config.connections_max)),
        addresses: Addresses::new(config.connections_per_address_max),
        service,
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.draining() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let (Some(permits), Ok(stream)) = (door.enter(peer.ip()), stream.into_std()) {
                    threads.hand_over(stream, permits);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // A client whose connection the kernel has made already may have sent its request: closing the listener would reset it.
    // tokio waits for news of a listener; only the kernel knows that there is nobody left.
    let listener = listener.into_std()?;
    while let Ok((stream, peer)) = listener.accept() {
        if let (Some(permits), Ok(())) = (door.enter(peer.ip()), stream.set_nonblocking(true)) {
            threads.hand_over(stream, permits);
        }
    }
    drop(listener);
    threads.join().await
}

/// Who may have a connection.
struct Door {
    room: Arc<Semaphore>,
    addresses: Addresses,
    service: Arc<Service>,
}

impl Door {
    /// Over a limit the socket is closed at once: an answer would cost what the limit is there to save.
    fn enter(&self, address: IpAddr) -> Option<Permits> {
        let Ok(permit) = self.room.clone().try_acquire_owned() else {
            self.service.metrics.refused("connections_max");
            return None;
        };
        let Some(address) = self.addresses.try_enter(address) else {
            self.service.metrics.refused("connections_per_address_max");
            return None;
        };
        Some((permit, address))
    }
}

/// Open connections of each client address.
struct Addresses {
    open: Arc<DashMap<IpAddr, usize>>,
    max: usize,
}

/// A connection's place among those of its address.
struct AddressPermit {
    open: Arc<DashMap<IpAddr, usize>>,
    address: IpAddr,
}

impl Addresses {
    fn new(max: usize) -> Self {
        Self {
            open: Arc::default(),
            max,
        }
    }

    fn try_enter(&self, address: IpAddr) -> Option<AddressPermit> {
        let mut open = self.open.entry(address).or_insert(0);
        if *open >= self.max {
            return None;
        }
        *open += 1;
        Some(AddressPermit {
            open: self.open.clone(),
            address,
        })
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        self.open.remove_if_mut(&self.address, |_, open| {
            *open -= 1;
            *open == 0
        });
    }
}

type Permits = (OwnedSemaphorePermit, AddressPermit);

/// A connection on its way to its thread.
struct Handed {
    stream: std::net::TcpStream,
    permits: Permits,
    counted: Counted,
}

/// Counts a connection among those of its thread, and of the node.
struct Counted {
    thread: Arc<AtomicUsize>,
    service: Arc<Service>,
}

impl Counted {
    fn new(thread: &Arc<AtomicUsize>, service: &Arc<Service>) -> Self {
        thread.fetch_add(1, Relaxed);
        service.metrics.connections_open.inc();
        Self {
            thread: thread.clone(),
            service: service.clone(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.thread.fetch_sub(1, Relaxed);
        self.service.metrics.connections_open.dec();
    }
}

struct SocketThreads {
    threads: Vec<SocketThread>,
    service: Arc<Service>,
}

struct SocketThread {
    open: Arc<AtomicUsize>,
    handed: mpsc::Sender<Handed>,
    thread: JoinHandle<()>,
}

impl SocketThreads {
    fn start(
        service: &Arc<Service>,
        config: &Config,
        threads: usize,
        shutdown: &Shutdown,
    ) -> std::io::Result<Self> {
        let limits = ConnectionLimits::new(config);
        let threads = (0..threads)
            .map(|n| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                // Room for every connection there may be: one busy thread must not hold up the acceptor of all.
                let (handed, receiver) = mpsc::channel(config.connections_max);
                let (service, shutdown) = (service.clone(), shutdown.clone());
                let thread = std::thread::Builder::new()
                    .name(format!("socket-{n}"))
                    .spawn(move || {
                        runtime.block_on(connections(receiver, service, limits, shutdown));
                    })?;
                Ok(SocketThread {
                    open: Arc::default(),
                    handed,
                    thread,
                })
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self {
            threads,
            service: service.clone(),
        })
    }

    /// Gives a connection to the thread with the fewest.
    fn hand_over(&self, stream: std::net::TcpStream, permits: Permits) {
        let fewest = self.threads.iter().min_by_key(|t| t.open.load(Relaxed));
        let Some(thread) = fewest else { return };
        let counted = Counted::new(&thread.open, &self.service);
        let handed = Handed {
            stream,
            permits,
            counted,
        };
        if thread.handed.try_send(handed).is_err() {
            tracing::error!("a socket thread is gone");
        }
    }

    /// Waits for the threads to end.
    async fn join(self) -> std::io::Result<()> {
        let threads: Vec<_> = self.threads.into_iter().map(|t| t.thread).collect();
        let joined = tokio::task::spawn_blocking(|| {
            threads
                .into_iter()
                .map(JoinHandle::join)
                .all(|end| end.is_ok())
        });
        match joined.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(std::io::Error::other("a socket thread panicked")),
        }
    }
}

/// The life of one socket thread: serves what it is handed until there is nothing more to come and all has ended.
async fn connections(
    mut handed: mpsc::Receiver<Handed>,
    service: Arc<Service>,
    limits: ConnectionLimits,
    shutdown: Shutdown,
) {
    let mut open = JoinSet::new();
    let all_ended = async {
        loop {
            tokio::select! {
                next = handed.recv() => match next {
                    Some(next) => {
                        open.spawn(connection(next, service.clone(), limits, shutdown.clone()));
                    }
                    None => break,
                },
                Some(ended) = open.join_next() => note(&ended, &service),
            }
        }
        while let Some(ended) = open.join_next().await {
            note(&ended, &service);
        }
        // Guests may work on after their answer, with timers of this runtime.
        service.runner.idle().await;
    };
    let mut stop = shutdown.clone();
    tokio::select! {
        () = all_ended => {}
        () = stop.stopping() => {}
    }
}

/// A panic ends one connection (in HTTP/2, one stream), and is counted.
fn note(ended: &Result<(), tokio::task::JoinError>, service: &Service) {
    if ended.as_ref().is_err_and(|error| error.is_panic()) {
        service.metrics.panicked();
    }
}

async fn connection(
    handed: Handed,
    service: Arc<Service>,
    limits: ConnectionLimits,
    shutdown: Shutdown,
) {
    let Handed {
        stream,
        permits,
        counted,
    } = handed;
    // Of one that is closed already, there is no address.
    if let (Ok(client), Ok(stream)) = (stream.peer_addr(), TcpStream::from_std(stream)) {
        let respond = |request, deadline| {
            let service = service.clone();
            async move { service.respond(request, client.ip(), &deadline).await }
        };
        let ended = serve(stream, limits, shutdown, respond).await;
        if ended.flooded {
            service.metrics.refused("http2_streams_max");
        }
        for _ in 0..ended.panics {
            service.metrics.panicked();
        }
    }
    drop((permits, counted));
}
