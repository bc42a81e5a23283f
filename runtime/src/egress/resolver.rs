//! The one way from a name to addresses: what this machine's resolver says, without what guests may not reach. Only addresses
//! that come from here are connected to, so a name that means another address a moment later gains nothing.

use super::addresses::Networks;
use hyper_util::client::legacy::connect::dns::Name;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tower::Service;

/// Names looked up at once: each takes a thread.
const LOOKUPS_MAX: usize = 32;

/// Looks names up. Clones are the same.
#[derive(Clone)]
pub(super) struct Resolver {
    allowed: Arc<Networks>,
    room: Arc<Semaphore>,
}

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unresolved {
    /// It is not known, or the resolver cannot be asked.
    #[error("name cannot be resolved: {0}")]
    Unknown(io::Error),
    /// All its addresses are ones that guests may not reach.
    #[error("address is not on the public Internet, nor in egress_networks")]
    Prohibited,
}

impl Resolver {
    pub(super) fn new(allowed: Networks) -> Self {
        Self {
            allowed: Arc::new(allowed),
            room: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        }
    }

    /// An address that needs no looking up.
    ///
    /// # Errors
    /// [`Unresolved::Prohibited`].
    pub(super) fn check(&self, address: IpAddr) -> Result<(), Unresolved> {
        if self.allowed.allow(address) {
            return Ok(());
        }
        Err(Unresolved::Prohibited)
    }

    async fn resolve(self, name: Name) -> Result<std::vec::IntoIter<SocketAddr>, Unresolved> {
        let turn = self.room.acquire().await;
        let _turn = turn.expect("the semaphore is never closed");
        // The port is whoever connects' business.
        let found = lookup_host((name.as_str(), 0)).await;
        let mut addresses: Vec<SocketAddr> = found.map_err(Unresolved::Unknown)?.collect();
        addresses.retain(|address| self.allowed.allow(address.ip()));
        if addresses.is_empty() {
            return Err(Unresolved::Prohibited);
        }
        Ok(addresses.into_iter())
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Unresolved;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unresolved>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(self.clone().resolve(name))
    }
}
