//! The one way from a name to addresses: what this machine's resolver says, without what guests may not reach. Only addresses
//! that come from here are connected to, so a name that means another address a moment later gains nothing.

use super::addresses::Networks;
use hyper_util::client::legacy::connect::dns::Name;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tower::Service;

/// Names looked up at once, by the node and by one tenant: each takes a thread for as long as its name servers like.
const LOOKUPS_MAX: usize = 64;
const TENANT_LOOKUPS_MAX: usize = 8;

/// Looks names up. Clones are the same.
#[derive(Clone)]
pub(super) struct Resolver {
    allowed: Arc<Networks>,
    /// Of the tenant, then of the node.
    room: [Arc<Semaphore>; 2],
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
            room: [TENANT_LOOKUPS_MAX, LOOKUPS_MAX].map(|max| Arc::new(Semaphore::new(max))),
        }
    }

    /// The same for one tenant more.
    pub(super) fn for_tenant(&self) -> Self {
        let mut tenants = self.clone();
        tenants.room[0] = Arc::new(Semaphore::new(TENANT_LOOKUPS_MAX));
        tenants
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
        let [own, all] = self.room;
        let closed = "the semaphore is never closed";
        let turns = (
            own.acquire_owned().await.expect(closed),
            all.acquire_owned().await.expect(closed),
        );
        let found = spawn_blocking(move || {
            // Whoever asked may be gone, but the thread is not: it holds the turns.
            let _turns = turns;
            // The port is whoever connects' business.
            Ok((name.as_str(), 0).to_socket_addrs()?.collect())
        });
        let found = found
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        let mut addresses: Vec<SocketAddr> = found.map_err(Unresolved::Unknown)?;
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
