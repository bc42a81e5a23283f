//! Where a request goes, from its host and its path alone. Pure: no table is asked here, and no name is decoded.

use std::borrow::Cow;

/// Where functions are mounted.
const FUNCTIONS: &str = "/f/";
/// Where the node is managed.
const ADMIN: [&str; 2] = ["/api/v1/", "/v1/organization/"];

/// One row of the route table, of those that are routed here; the admin API has its own (`api::table`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeRoute {
    /// Configuration keys of the listeners that have it.
    pub(crate) listener: &'static str,
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// Which key it asks for.
    pub(crate) key: &'static str,
}

/// All there are, in the order in which they are tried.
pub(crate) const NODE_ROUTES: [NodeRoute; 5] = [
    row(
        "listen",
        "any",
        "/f/{project}/{function}/{path}",
        "its project's, unless the function is public",
    ),
    row(
        "listen",
        "any",
        "{function}.{project}.<domain>/{path}",
        "its project's, unless the function is public",
    ),
    row("both", "GET", "/healthz", "none"),
    row("both", "GET", "/readyz", "none"),
    row("admin_listen", "GET", "/metrics", "admin"),
];

const fn row(
    listener: &'static str,
    method: &'static str,
    path: &'static str,
    key: &'static str,
) -> NodeRoute {
    NodeRoute {
        listener,
        method,
        path,
        key,
    }
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Functions are called there.
    Functions,
    /// The node is managed there.
    Admin,
    /// Both: only where nobody is asked for a key, on loopback.
    Both,
}

/// What a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// A function, and the path as it sees it (empty or starting with `/`).
    Function {
        /// `project/name`.
        key: Cow<'a, str>,
        /// What follows.
        rest: &'a str,
        /// How it was named.
        origin: Origin,
    },
    /// Liveness.
    Health,
    /// Readiness.
    Ready,
    /// Prometheus.
    Metrics,
    /// The admin API.
    Admin,
    /// Nothing.
    Unknown,
}

/// The web origin that a function's pages have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The node's, together with every other function that is called by its path.
    Shared,
    /// Its own: it was called by its host.
    Own,
}

/// Finds the route of a host (without its port) and a path (without its query).
///
/// On `{function}.{project}.<domain>` every path is the function's; on any other host functions are under `/f/`.
pub(crate) fn route<'a>(role: Role, host: &str, path: &'a str, domain: &str) -> Route<'a> {
    match role {
        Role::Functions => function(host, path, domain).unwrap_or_else(|| own(path)),
        Role::Admin => admin(path).unwrap_or_else(|| own(path)),
        Role::Both => function(host, path, domain)
            .or_else(|| admin(path))
            .unwrap_or_else(|| own(path)),
    }
}

fn function<'a>(host: &str, path: &'a str, domain: &str) -> Option<Route<'a>> {
    // What has no path (`CONNECT`, `OPTIONS *`) is no function's.
    if path.starts_with('/')
        && let Some(key) = function_of(host, domain)
    {
        return Some(Route::Function {
            key: Cow::Owned(key),
            rest: path,
            origin: Origin::Own,
        });
    }
    split(path.strip_prefix(FUNCTIONS)?)
}

fn admin(path: &str) -> Option<Route<'_>> {
    if path == "/metrics" {
        return Some(Route::Metrics);
    }
    ADMIN
        .iter()
        .any(|mount| path.starts_with(mount))
        .then_some(Route::Admin)
}

fn own(path: &str) -> Route<'_> {
    match path {
        "/healthz" => Route::Health,
        "/readyz" => Route::Ready,
        _ => Route::Unknown,
    }
}

/// `project/name` of a host that has exactly two names before the domain. Hosts have no case, and may end with the root's
/// dot.
fn function_of(host: &str, domain: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let names_len = host.len().checked_sub(domain.len() + 1)?;
    let (names, end) = host.split_at_checked(names_len)?;
    if !end.strip_prefix('.')?.eq_ignore_ascii_case(domain) {
        return None;
    }
    let (function, project) = names.split_once('.')?;
    if function.is_empty() || project.is_empty() || project.contains('.') {
        return None;
    }
    Some(format!("{project}/{function}").to_ascii_lowercase())
}

/// `project/name` and the rest.
fn split(function: &str) -> Option<Route<'_>> {
    let project_end = function.find('/')?;
    let name_start = project_end + 1;
    let name_len = function[name_start..]
        .find('/')
        .unwrap_or(function.len() - name_start);
    if project_end == 0 || name_len == 0 {
        return None;
    }
    let (key, rest) = function.split_at(name_start + name_len);
    Some(Route::Function {
        key: Cow::Borrowed(key),
        rest,
        origin: Origin::Shared,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_thing() {
        let function = |key, rest| Route::Function {
            key: Cow::Borrowed(key),
            rest,
            origin: Origin::Shared,
        };
        for (path, expected) in [
            ("/f/acme/hello", function("acme/hello", "")),
            ("/f/acme/hello/", function("acme/hello", "/")),
            ("/f/acme/hello/a/b", function("acme/hello", "/a/b")),
            ("/f/acme/hello//x", function("acme/hello", "//x")),
            ("/f/acme", Route::Unknown),
            ("/f/acme/", Route::Unknown),
            ("/f//hello", Route::Unknown),
            ("/f/", Route::Unknown),
            ("/f", Route::Unknown),
            ("/F/acme/hello", Route::Unknown),
            ("/healthz", Route::Health),
            ("/healthz/", Route::Unknown),
            ("/readyz", Route::Ready),
            ("/metrics", Route::Metrics),
            ("/api/v1/node", Route::Admin),
            ("/api/v1/", Route::Admin),
            ("/api/v1", Route::Unknown),
            ("/api/v2/node", Route::Unknown),
            ("/v1/organization/projects", Route::Admin),
            ("/v1/chat/completions", Route::Unknown),
            ("/", Route::Unknown),
            ("", Route::Unknown),
            ("*", Route::Unknown),
        ] {
            for host in ["127.0.0.1", "localhost", "[::1]", "a.localhost"] {
                let routed = route(Role::Both, host, path, "localhost");
                assert_eq!(routed, expected, "{path} on {host}");
            }
        }
    }

    #[test]
    fn a_host_below_the_domain_names_a_function() {
        for (host, domain, key) in [
            ("hello.acme.localhost", "localhost", Some("acme/hello")),
            ("HELLO.Acme.LocalHost", "localhost", Some("acme/hello")),
            ("hello.acme.localhost.", "localhost", Some("acme/hello")),
            ("hello.acme.fn.example", "fn.example", Some("acme/hello")),
            ("hello.acme.fn.example", "Fn.Example", Some("acme/hello")),
            ("hello.acme.example", "fn.example", None),
            ("hello.acme.fnaexample", "fn.example", None),
            ("hello.acmelocalhost", "localhost", None),
            ("a.hello.acme.localhost", "localhost", None),
            ("acme.localhost", "localhost", None),
            (".acme.localhost", "localhost", None),
            ("hello..localhost", "localhost", None),
            ("..localhost", "localhost", None),
            (".localhost", "localhost", None),
            ("localhost", "localhost", None),
            ("hello.acme", "localhost", None),
            ("", "localhost", None),
            ("127.0.0.1", "localhost", None),
        ] {
            assert_eq!(function_of(host, domain).as_deref(), key, "{host}");
        }
    }

    #[test]
    fn every_path_of_a_functions_host_is_its_own() {
        for path in ["/", "/healthz", "/metrics", "/f/birch/hello/", "//x"] {
            let expected = Route::Function {
                key: Cow::Borrowed("acme/hello"),
                rest: path,
                origin: Origin::Own,
            };
            let routed = route(Role::Both, "hello.acme.localhost", path, "localhost");
            assert_eq!(routed, expected);
        }
        for path in ["", "*"] {
            let routed = route(Role::Both, "hello.acme.localhost", path, "localhost");
            assert_eq!(routed, Route::Unknown, "{path} is no path");
        }
    }

    #[test]
    fn a_listener_has_what_it_is_for_and_nothing_else() {
        let call = "/f/acme/hello/";
        for (role, path, there) in [
            (Role::Functions, call, true),
            (Role::Functions, "/metrics", false),
            (Role::Functions, "/api/v1/node", false),
            (Role::Functions, "/v1/organization/projects", false),
            (Role::Functions, "/readyz", true),
            (Role::Admin, call, false),
            (Role::Admin, "/metrics", true),
            (Role::Admin, "/api/v1/node", true),
            (Role::Admin, "/readyz", true),
        ] {
            let routed = route(role, "127.0.0.1", path, "localhost");
            assert_eq!(routed != Route::Unknown, there, "{role:?} {path}");
        }
        let by_host = route(Role::Admin, "hello.acme.localhost", "/", "localhost");
        assert_eq!(by_host, Route::Unknown);
    }
}
