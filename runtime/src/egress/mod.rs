//! Outgoing HTTP of guests. A function reaches the hosts that it was granted when it was deployed, on addresses of the public
//! Internet and of networks that the operator added; every request is looked at by itself, so one that follows a redirect is
//! too.
//!
//! A thread of its own looks names up, makes connections and keeps them, so that a handshake holds nobody's socket.
//! Connections are shared between the requests of a tenant, never between tenants.

mod addresses;
mod body;
mod client;
mod connection;
mod failure;
mod hosts;
mod resolver;
mod stats;

pub use addresses::Networks;
pub use hosts::{HostRule, HostRuleError};
pub(crate) use stats::Stats;

use crate::config::Config;
use body::Bounded;
use client::Clients;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use shoal_inference::TenantId;
use stats::Open;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use wasmtime_wasi_http::{Error as HttpError, RequestOptions, WasiBody};

/// Where guests' requests go out. Clones are the same.
#[derive(Clone)]
pub(crate) struct Egress(Arc<Shared>);

struct Shared {
    clients: Clients,
    limits: Limits,
    stats: Arc<Stats>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    requests_max: usize,
    answer_timeout: Duration,
    silence_max: Duration,
    body_bytes_max: u64,
}

/// What one function may reach, and its requests that are under way.
#[derive(Debug)]
pub(crate) struct Reach {
    rules: BTreeSet<HostRule>,
    requests_max: usize,
    room: Arc<Semaphore>,
}

/// Held by a request's body and its answer's, until both are over.
struct Place {
    _among_functions: OwnedSemaphorePermit,
    _among_all: Open,
}

/// Why a request did not leave.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{0} is no address of a web server")]
    Uri(Uri),
    #[error("{host}:{port} is not among the hosts that this function was granted (--egress)")]
    Host { host: String, port: u16 },
    #[error(
        "{host} is neither on the public Internet nor in a network that the operator allows (egress_networks)"
    )]
    Address { host: String },
    #[error("function has {0} outgoing requests under way, the most it may (function_egress_max)")]
    Busy(usize),
}

impl Egress {
    /// Starts nothing before the first request.
    ///
    /// # Errors
    /// If `egress_roots` cannot be read.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Shared {
            clients: Clients::new(config)?,
            limits: Limits {
                requests_max: config.function_egress_max,
                answer_timeout: config.egress_answer_timeout,
                silence_max: config.egress_silence_max,
                body_bytes_max: config.egress_body_bytes_max,
            },
            stats: Arc::default(),
        })))
    }

    /// What a function with these grants may reach.
    pub(crate) fn reach(&self, rules: BTreeSet<HostRule>) -> Reach {
        let requests_max = self.0.limits.requests_max;
        Reach {
            rules,
            requests_max,
            room: Arc::new(Semaphore::new(requests_max)),
        }
    }

    /// What it has been through.
    pub(crate) fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// Sends a request of a tenant's function. What comes back is the answer's head; dropping it, or the body, ends the
    /// request.
    ///
    /// # Errors
    /// [`Refused`]: it did not leave, and the words are for the function's owner.
    pub(crate) fn send(
        &self,
        tenant: TenantId,
        reach: &Reach,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<impl Future<Output = Result<Response<WasiBody>, HttpError>> + Send + use<>, Refused>
    {
        let shared = self.0.clone();
        let admitted = self.admit(reach, request.uri());
        let place = Place {
            _among_functions: admitted.inspect_err(|refused| shared.stats.note(refused))?,
            _among_all: shared.stats.begun(),
        };
        let bytes_max = shared.limits.body_bytes_max;
        let place = Arc::new(place);
        let held = place.clone();
        let request = request.map(|body| Bounded::request(body, bytes_max, held).boxed_unsync());
        Ok(async move { shared.exchange(tenant, request, options, place).await })
    }

    fn admit(&self, reach: &Reach, uri: &Uri) -> Result<OwnedSemaphorePermit, Refused> {
        let target = Target::of(uri).ok_or_else(|| Refused::Uri(uri.clone()))?;
        let Target { scheme, host, port } = target;
        if !reach
            .rules
            .iter()
            .any(|rule| rule.allows(scheme, host, port))
        {
            let host = host.to_owned();
            return Err(Refused::Host { host, port });
        }
        if let Some(address) = literal(host)
            && self.0.clients.resolver().check(address).is_err()
        {
            let host = host.to_owned();
            return Err(Refused::Address { host });
        }
        let place = reach.room.clone().try_acquire_owned();
        place.map_err(|_| Refused::Busy(reach.requests_max))
    }
}

impl Refused {
    /// What the guest is told.
    pub(crate) fn told(&self) -> HttpError {
        match self {
            Self::Uri(_) => HttpError::HttpRequestUriInvalid,
            Self::Host { .. } => HttpError::HttpRequestDenied,
            Self::Address { .. } => HttpError::DestinationIpProhibited,
            Self::Busy(_) => HttpError::ConnectionLimitReached,
        }
    }
}

impl Shared {
    async fn exchange(
        &self,
        tenant: TenantId,
        request: Request<WasiBody>,
        options: RequestOptions,
        place: Arc<Place>,
    ) -> Result<Response<WasiBody>, HttpError> {
        let limits = self.limits;
        let within = |wanted: Option<Duration>, max: Duration| wanted.map_or(max, |w| w.min(max));
        // The time to connect is in it. What a guest wants of that alone is not: a connection is made for whoever comes.
        let answer = within(options.first_byte_timeout, limits.answer_timeout);
        let silence = within(options.between_bytes_timeout, limits.silence_max);
        let sent = self.clients.send(tenant, request);
        let answered = timeout(answer, sent).await;
        let response = match answered {
            Ok(answered) => answered?,
            Err(_) => return Err(HttpError::ConnectionReadTimeout),
        };
        let bytes_max = limits.body_bytes_max;
        Ok(response.map(|body| Bounded::answer(body, bytes_max, silence, place).boxed_unsync()))
    }
}

/// Where a request goes.
struct Target<'a> {
    scheme: &'a Scheme,
    host: &'a str,
    port: u16,
}

impl<'a> Target<'a> {
    fn of(uri: &'a Uri) -> Option<Self> {
        let (scheme, authority) = (uri.scheme()?, uri.authority()?);
        let usual = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        // A user before the host has nothing to do here, and makes people read the wrong one.
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let port = match authority.port() {
            Some(_) => authority.port_u16()?,
            None => usual,
        };
        Some(Self {
            scheme,
            host: authority.host(),
            port,
        })
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    let host = host.strip_prefix('[').unwrap_or(host);
    host.strip_suffix(']').unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_web_server_without_a_user() {
        for (uri, target) in [
            ("https://example.com/x", Some(("example.com", 443))),
            ("http://example.com", Some(("example.com", 80))),
            ("http://[::1]:8080/", Some(("[::1]", 8080))),
            ("https://user@example.com/", None),
            ("https://example.com@evil.org/", None),
            ("ftp://example.com/", None),
            ("/x", None),
            ("example.com:80", None),
        ] {
            let uri: Uri = uri.parse().unwrap();
            let found = Target::of(&uri).map(|target| (target.host, target.port));
            assert_eq!(found, target, "{uri}");
        }
    }

    #[test]
    fn a_literal_is_an_address() {
        for (host, address) in [
            ("10.0.0.7", Some("10.0.0.7")),
            ("[::ffff:7f00:1]", Some("::ffff:127.0.0.1")),
            ("example.com", None),
            ("127.1", None),
            ("0x7f.1", None),
        ] {
            let address = address.map(|address| address.parse().unwrap());
            assert_eq!(literal(host), address, "{host}");
        }
    }
}
