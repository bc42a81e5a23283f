//! What an answer may do to its web origin, which is all that a browser keeps apart. Functions that are called by their path
//! share the node's, so each is confined to its path; one that is called by its host has an origin of its own, and may not
//! reach beyond it.

use super::router::Origin;
use http::HeaderValue;
use http::header::{
    ALT_SVC, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, SET_COOKIE, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS,
};

/// Gives a page an origin that nothing else has: no cookies, no storage, no requests in the node's name.
const SANDBOX: HeaderValue = HeaderValue::from_static("sandbox allow-scripts allow-forms");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// Headers that a browser takes as said by the whole origin.
const ORIGIN_WIDE: [HeaderName; 5] = [
    ALT_SVC,
    STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("service-worker-allowed"),
];

/// Changes the headers of an answer so that they bind nobody but `key` (`project/name`), the function that gave it.
pub(crate) fn confine(headers: &mut HeaderMap, origin: Origin, key: &str) {
    match origin {
        Origin::Own => bind_cookies(headers, None),
        Origin::Shared => {
            for name in &ORIGIN_WIDE {
                headers.remove(name);
            }
            bind_cookies(headers, Some(&format!("/f/{key}")));
            // Beside the guest's own: a page must satisfy all its policies.
            headers.append(CONTENT_SECURITY_POLICY, SANDBOX);
            headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        }
    }
}

/// Binds every cookie to the host that set it and, if there is one, to the path `mount`.
fn bind_cookies(headers: &mut HeaderMap, mount: Option<&str>) {
    if !headers.contains_key(SET_COOKIE) {
        return;
    }
    let cookies = headers.get_all(SET_COOKIE).iter();
    let bound: Vec<_> = cookies
        .map(|cookie| bind(cookie.as_bytes(), mount))
        .collect();
    headers.remove(SET_COOKIE);
    for cookie in bound {
        // Parts of a header value, joined, are one: nothing is lost here.
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            headers.append(SET_COOKIE, cookie);
        }
    }
}

/// One cookie, read as browsers do (RFC 6265, section 5.2): split at every `;`, the last of an attribute counts.
fn bind(cookie: &[u8], mount: Option<&str>) -> Vec<u8> {
    let mut parts = cookie.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let mut bound = parts.next().unwrap_or_default().to_vec();
    let mut path: &[u8] = b"";
    for attribute in parts.filter(|attribute| !attribute.is_empty()) {
        let mut name_value = attribute.splitn(2, |byte| *byte == b'=');
        let mut next = || name_value.next().unwrap_or_default().trim_ascii();
        let (name, value) = (next(), next());
        if name.eq_ignore_ascii_case(b"domain") {
            continue;
        }
        if mount.is_some() && name.eq_ignore_ascii_case(b"path") {
            path = value;
            continue;
        }
        bound.extend(b"; ");
        bound.extend(attribute);
    }
    if let Some(mount) = mount {
        bound.extend(b"; Path=");
        bound.extend(under(mount, path));
    }
    bound
}

/// A path as the guest means it, in the node's terms: the guest's `/` is `mount`. A cookie without one would belong to the
/// folder of the request, which may be that of all functions of the project.
fn under(mount: &str, path: &[u8]) -> Vec<u8> {
    let path = match path.strip_prefix(mount.as_bytes()) {
        Some(rest) if rest.is_empty() || rest.starts_with(b"/") => rest,
        _ if path.starts_with(b"/") => path,
        _ => b"",
    };
    let path = if path.is_empty() { b"/" } else { path };
    [mount.as_bytes(), path].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(cookie: &str, mount: Option<&str>) -> String {
        String::from_utf8(bind(cookie.as_bytes(), mount)).unwrap()
    }

    #[test]
    fn a_cookie_of_a_path_is_bound_to_it() {
        for (cookie, expected) in [
            ("a=1", "a=1; Path=/f/acme/hello/"),
            ("a=1;", "a=1; Path=/f/acme/hello/"),
            ("a=1; Path=/", "a=1; Path=/f/acme/hello/"),
            ("a=1; Path=", "a=1; Path=/f/acme/hello/"),
            ("a=1; Path", "a=1; Path=/f/acme/hello/"),
            ("a=1; Path=x", "a=1; Path=/f/acme/hello/"),
            ("a=1; path=/notes", "a=1; Path=/f/acme/hello/notes"),
            (
                "a=1; Path=/f/acme/other/",
                "a=1; Path=/f/acme/hello/f/acme/other/",
            ),
            (
                "a=1; Path=/f/acme/hello2",
                "a=1; Path=/f/acme/hello/f/acme/hello2",
            ),
            ("a=1; Path=/f/acme/hello", "a=1; Path=/f/acme/hello/"),
            ("a=1; Path=/f/acme/hello/", "a=1; Path=/f/acme/hello/"),
            ("a=1; Path=/f/acme/hello/x", "a=1; Path=/f/acme/hello/x"),
            // The last one counts in a browser.
            (
                "a=1; Path=/f/acme/hello/x; PATH = /",
                "a=1; Path=/f/acme/hello/",
            ),
            ("a=1; Domain=example.com", "a=1; Path=/f/acme/hello/"),
            ("a=1;domain=.com;Domain", "a=1; Path=/f/acme/hello/"),
            (
                "a=\"x;Secure ;HttpOnly; SameSite=Lax; Max-Age=5",
                "a=\"x; Secure; HttpOnly; SameSite=Lax; Max-Age=5; Path=/f/acme/hello/",
            ),
            ("path=/; b=2", "path=/; b=2; Path=/f/acme/hello/"),
        ] {
            assert_eq!(bound(cookie, Some("/f/acme/hello")), expected, "{cookie}");
        }
    }

    #[test]
    fn a_cookie_of_a_host_stays_with_it_and_keeps_its_path() {
        for (cookie, expected) in [
            ("a=1", "a=1"),
            ("a=1; Path=/x; Domain=localhost", "a=1; Path=/x"),
            ("__Host-a=1; Secure; Path=/", "__Host-a=1; Secure; Path=/"),
        ] {
            assert_eq!(bound(cookie, None), expected);
        }
    }

    #[test]
    fn an_answer_on_the_shared_origin_speaks_for_its_path_only() {
        let own = HeaderValue::from_static("default-src 'self'");
        let mut headers = HeaderMap::from_iter([
            (CONTENT_SECURITY_POLICY, own.clone()),
            (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("off")),
            (SET_COOKIE, HeaderValue::from_static("a=1")),
        ]);
        headers.append(SET_COOKIE, HeaderValue::from_static("b=2; Path=/x"));
        for name in ORIGIN_WIDE {
            headers.append(name, HeaderValue::from_static("*"));
        }
        let given = headers.clone();
        confine(&mut headers, Origin::Shared, "acme/hello");
        let values = |name| Vec::from_iter(headers.get_all(name));
        assert_eq!(values(CONTENT_SECURITY_POLICY), [own, SANDBOX]);
        assert_eq!(values(X_CONTENT_TYPE_OPTIONS), [NOSNIFF]);
        assert_eq!(
            values(SET_COOKIE),
            ["a=1; Path=/f/acme/hello/", "b=2; Path=/f/acme/hello/x"]
        );
        assert!(ORIGIN_WIDE.iter().all(|name| !headers.contains_key(name)));

        let mut headers = given.clone();
        confine(&mut headers, Origin::Own, "acme/hello");
        assert_eq!(headers, given);
    }
}
