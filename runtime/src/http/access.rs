//! Who may call which function, and from where a node that asks for no key is managed. What a caller may not know of is
//! answered as if it were not there.

use super::error::Error;
use crate::api::bearer;
use crate::sandbox::{Chosen, Registry, Serving, Who};
use crate::tenancy::{Access, Caller, Directory};
use http::header::ORIGIN;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The version of the function of this name (`project/name`) that is for whoever sent these headers, if they may call it.
///
/// # Errors
/// Without a key, the same for a function that asks for one and for none at all; with another project's key, the same as
/// with its own for a function that is not there.
pub(crate) fn admit(
    directory: &Directory,
    registry: &Registry,
    name: &str,
    headers: &HeaderMap,
    client: IpAddr,
) -> Result<Chosen, Error> {
    let serving = registry.serving(name);
    // A canary may be more open than the live version, or less: it is not what is asked until it is live.
    let is_public = |serving: &Serving| serving.live().grants.public;
    if directory.access() == Access::Open || serving.as_ref().is_some_and(is_public) {
        let serving = serving.ok_or(Error::UnknownFunction)?;
        return Ok(serving.choose(Who::Address(client)));
    }
    let key = bearer(headers).ok_or(Error::NoKey)?;
    match directory.caller(key).ok_or(Error::WrongKey)? {
        Caller::Admin { .. } => Err(serving.map_or(Error::UnknownFunction, |_| Error::AdminKey)),
        Caller::Project { project, key } => serving
            .filter(|serving| serving.live().tenant.id == project.tenant.id)
            .map(|serving| serving.choose(Who::Key(key.as_str())))
            .ok_or(Error::UnknownFunction),
    }
}

/// Where nobody is asked for a key, whoever reaches the node manages it. That is this machine, but also every page that its
/// browser shows: one of another site may send a form here (its `Origin` tells), or have a name of its own that leads here
/// (its `Host` tells). Neither is answered.
///
/// # Errors
/// A host that is not this machine's, or an origin that is not this host's.
pub(crate) fn admit_manager(
    directory: &Directory,
    host: &Authority,
    headers: &HeaderMap,
) -> Result<(), Error> {
    let from_here = || is_loopback(host.host()) && headers.get_all(ORIGIN).iter().all(is_of(host));
    if directory.access() == Access::Open && !from_here() {
        return Err(Error::Foreign);
    }
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let v4 = address.parse().is_ok_and(|v4: Ipv4Addr| v4.is_loopback());
    let v6 = address.parse().is_ok_and(|v6: Ipv6Addr| v6.is_loopback());
    v4 || v6 || host.eq_ignore_ascii_case("localhost")
}

/// Whether an origin is a host's own. That of a sandboxed page is `null`.
fn is_of(host: &Authority) -> impl Fn(&HeaderValue) -> bool {
    move |origin| {
        let origin = origin.as_bytes().strip_prefix(b"http://");
        origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host.as_str().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_keys_is_managed_from_its_own_machine_only() {
        let directory = |access| Directory::new(access);
        for (host, origin, admitted) in [
            ("127.0.0.1:8080", None, true),
            ("127.9.9.9", None, true),
            ("LocalHost:8080", None, true),
            ("[::1]:8080", None, true),
            ("127.0.0.1:8080", Some("http://127.0.0.1:8080"), true),
            ("localhost", Some("HTTP://localhost"), false),
            ("localhost", Some("http://LOCALHOST"), true),
            ("127.0.0.1:8080", Some("http://127.0.0.1:8081"), false),
            ("127.0.0.1:8080", Some("https://127.0.0.1:8080"), false),
            ("127.0.0.1:8080", Some("http://localhost:8080"), false),
            ("127.0.0.1:8080", Some("http://evil.example"), false),
            ("127.0.0.1:8080", Some("null"), false),
            ("evil.example:8080", Some("http://evil.example:8080"), false),
            ("evil.example", None, false),
            ("127.0.0.1.evil.example", None, false),
            ("localhost.evil.example", None, false),
            ("hello.acme.localhost", None, false),
            ("10.0.0.1", None, false),
        ] {
            let host = Authority::from_static(host);
            let headers = origin.map(|origin| (ORIGIN, HeaderValue::from_static(origin)));
            let headers = HeaderMap::from_iter(headers);
            let is_admitted = |access| admit_manager(&directory(access), &host, &headers).is_ok();
            assert_eq!(is_admitted(Access::Open), admitted, "{host} {origin:?}");
            assert!(is_admitted(Access::Keys), "{host} {origin:?}");
        }
    }
}
