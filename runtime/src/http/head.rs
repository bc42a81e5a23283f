//! What a request's head says, whichever version of HTTP says it: for which host it is, and with which cookies.

use super::error::Error;
use http::header::{COOKIE, HOST, HeaderMap};
use http::uri::Authority;
use http::{HeaderValue, Request, Version};

/// The one host (and port) that a request is for: from its target, as HTTP/2 always has it, or its `Host` header.
///
/// # Errors
/// If it names none, several, or one that is none; HTTP/1.0 may name none.
pub(crate) fn authority<B>(request: &Request<B>) -> Result<Authority, Error> {
    let mut headers = request.headers().get_all(HOST).iter();
    let header = headers.next().map(parse).transpose()?;
    if headers.next().is_some() {
        return Err(Error::Host);
    }
    let target = request.uri().authority();
    let named = match (target, header, request.version()) {
        // RFC 9113, section 8.3.1.
        (Some(target), Some(header), Version::HTTP_2) if *target != header => None,
        // RFC 9112, section 3.2.
        (_, None, Version::HTTP_11) => None,
        // RFC 9112, section 3.2.2: a target with a host outranks the header.
        (Some(target), _, _) => Some(target.clone()),
        (None, Some(header), _) => Some(header),
        (None, None, Version::HTTP_10 | Version::HTTP_09) => {
            Some(Authority::from_static("localhost"))
        }
        (None, None, _) => None,
    };
    named.filter(is_host).ok_or(Error::Host)
}

/// Makes one cookie header of several: HTTP/2 may split it (RFC 9113, section 8.2.3), and a guest that asks for a header
/// mostly looks at the first.
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let Some(first) = cookies.next() else { return };
    let mut joined = first.to_vec();
    for cookie in cookies {
        joined.extend(b"; ");
        joined.extend(cookie);
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

fn parse(header: &HeaderValue) -> Result<Authority, Error> {
    Authority::try_from(header.as_bytes()).map_err(|_| Error::Host)
}

/// A name and perhaps a port: no user before it.
fn is_host(authority: &Authority) -> bool {
    !authority.host().is_empty() && !authority.as_str().contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: Version, target: &str, hosts: &[&'static str]) -> Option<String> {
        let mut request = Request::new(());
        *request.version_mut() = version;
        *request.uri_mut() = target.parse().unwrap();
        for host in hosts {
            let host = HeaderValue::from_static(host);
            request.headers_mut().append(HOST, host);
        }
        authority(&request).ok().map(|host| host.to_string())
    }

    #[test]
    fn a_request_is_for_one_host() {
        use Version as V;
        for (version, target, hosts, expected) in [
            (V::HTTP_11, "/x", &["a:80"][..], Some("a:80")),
            (V::HTTP_11, "/x", &["[::1]:80"], Some("[::1]:80")),
            (V::HTTP_11, "/x", &[], None),
            (V::HTTP_11, "/x", &["a", "a"], None),
            (V::HTTP_11, "/x", &[""], None),
            (V::HTTP_11, "/x", &[":80"], None),
            (V::HTTP_11, "/x", &["a b"], None),
            (V::HTTP_11, "/x", &["a/b"], None),
            (V::HTTP_11, "/x", &["user@a"], None),
            (V::HTTP_11, "http://a/x", &["b"], Some("a")),
            (V::HTTP_11, "http://user@a/x", &["a"], None),
            (V::HTTP_11, "http://a/x", &[], None),
            (V::HTTP_10, "/x", &[], Some("localhost")),
            (V::HTTP_10, "/x", &["a"], Some("a")),
            (V::HTTP_2, "http://a/x", &[], Some("a")),
            (V::HTTP_2, "http://a/x", &["A"], Some("a")),
            (V::HTTP_2, "http://a/x", &["b"], None),
            (V::HTTP_2, "http://a/x", &["a:80"], None),
            (V::HTTP_2, "http://user@a/x", &[], None),
            (V::HTTP_2, "/x", &["a"], Some("a")),
            (V::HTTP_2, "/x", &[], None),
        ] {
            assert_eq!(
                of(version, target, hosts).as_deref(),
                expected,
                "{version:?} {target} {hosts:?}"
            );
        }
    }

    #[test]
    fn cookies_become_one_line() {
        for (lines, expected) in [
            (&["a=1", "b=2; c=3"][..], Some("a=1; b=2; c=3")),
            (&["a=1"], Some("a=1")),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(COOKIE, HeaderValue::from_static(line));
            }
            join_cookies(&mut headers);
            let joined: Vec<_> = headers.get_all(COOKIE).iter().collect();
            assert_eq!(joined, Vec::from_iter(expected));
        }
    }
}
