//! Functions by their host, and what an answer may do to the origin that a browser sees it on.

use crate::support::{Node, Reply, config};
use shoal::Config;

/// One GET for `host`.
fn get(node: &Node, host: &str, path: &str) -> Reply {
    let mut client = node.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes());
    client.reply()
}

/// The path of a probe that sets `name` to `value`.
fn setting(name: &str, value: &str) -> String {
    format!("/set-header?name={name}&value={value}")
}

fn values<'a>(reply: &'a Reply, name: &str) -> Vec<&'a str> {
    reply
        .headers
        .iter()
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
        .collect()
}

#[test]
fn a_function_answers_on_its_host_whatever_the_path() {
    let node = Node::start(config());
    for host in [
        "echo.acme.localhost",
        "ECHO.Acme.localhost:8080",
        "echo.acme.localhost.",
    ] {
        for path in [
            "/",
            "/healthz",
            "/metrics",
            "/readyz?x",
            "/f/acme/hello/",
            "//x",
        ] {
            let reply = get(&node, host, path);
            assert_eq!(reply.status, 200, "{host} {path}");
            assert_eq!(reply.header("x-echo-path"), Some(path), "{host}");
        }
    }
}

#[test]
fn a_page_of_another_site_cannot_manage_a_node_that_asks_for_no_key() {
    let node = Node::start(config());
    let address = node.address.to_string();
    let ask = |host: &str, origin: &str| {
        let mut client = node.connect();
        let body = r#"{"name":"birch"}"#;
        let head = format!(
            "POST /v1/organization/projects HTTP/1.1\r\nhost: {host}\r\norigin: {origin}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        client.send(head.as_bytes());
        client.reply()
    };
    let own = format!("http://{address}");
    for (host, origin) in [
        (&*address, "http://evil.example"),
        (&*address, "null"),
        ("evil.example", "http://evil.example"),
    ] {
        let reply = ask(host, origin);
        assert_eq!(reply.status, 403, "{host} {origin}");
        assert_eq!(reply.error_code(), "foreign_origin");
    }
    // By its name alone it could be read.
    for path in ["/metrics", "/api/v1/node", "/api/v1/none"] {
        assert_eq!(get(&node, "evil.example", path).status, 403, "{path}");
        assert_ne!(get(&node, &address, path).status, 403, "{path}");
    }
    assert_eq!(ask(&address, &own).status, 200);
}

#[test]
fn other_hosts_have_functions_under_their_path_and_the_nodes_own() {
    let node = Node::start(config());
    for host in [
        "127.0.0.1:80",
        "localhost",
        "acme.localhost",
        "a.echo.acme.localhost",
    ] {
        assert_eq!(get(&node, host, "/healthz").text(), "ok\n", "{host}");
        assert_eq!(get(&node, host, "/f/acme/hello/").status, 200, "{host}");
        assert_eq!(get(&node, host, "/").error_code(), "unknown_path", "{host}");
    }
}

#[test]
fn a_host_without_a_function_is_answered_in_our_shape() {
    let node = Node::start(config());
    for host in ["absent.acme.localhost", "echo.absent.localhost"] {
        let reply = get(&node, host, "/healthz");
        assert_eq!(
            (reply.status, reply.error_code().as_str()),
            (404, "function_not_found"),
            "{host}"
        );
    }
}

#[test]
fn the_domain_is_the_configured_one() {
    let node = Node::start(Config {
        domain: "fn.Example".to_owned(),
        ..config()
    });
    assert_eq!(get(&node, "hello.acme.fn.example", "/").status, 200);
    assert_eq!(get(&node, "hello.acme.localhost", "/").status, 404);
}

#[test]
fn a_target_with_a_host_outranks_the_header() {
    let node = Node::start(config());
    let reply = get(&node, "localhost", "http://echo.acme.localhost/healthz?x");
    assert_eq!(reply.header("x-echo-path"), Some("/healthz?x"));
}

#[test]
fn what_has_no_path_reaches_no_function() {
    let node = Node::start(config());
    for line in ["CONNECT echo.acme.localhost:80", "OPTIONS *"] {
        let mut client = node.connect();
        let head = format!("{line} HTTP/1.1\r\nhost: echo.acme.localhost:80\r\n\r\n");
        client.send(head.as_bytes());
        let reply = client.reply();
        assert_eq!(
            (reply.status, reply.error_code().as_str()),
            (404, "unknown_path"),
            "{line}"
        );
    }
}

#[test]
fn answers_by_path_are_sandboxed_and_answers_by_host_are_the_guests_own() {
    let node = Node::with_probe(config());
    let path = setting("content-security-policy", "default-src%20'self'");
    let shared = node.get(&format!("/f/acme/probe{path}"));
    assert_eq!(
        values(&shared, "content-security-policy"),
        ["default-src 'self'", "sandbox allow-scripts allow-forms"]
    );
    assert_eq!(values(&shared, "x-content-type-options"), ["nosniff"]);
    let own = get(&node, "probe.acme.localhost", &path);
    assert_eq!(
        values(&own, "content-security-policy"),
        ["default-src 'self'"]
    );
    assert_eq!(own.header("x-content-type-options"), None);
}

#[test]
fn failures_by_path_are_sandboxed_too() {
    let node = Node::with_probe(config());
    for path in ["/f/acme/probe/trap", "/f/acme/absent/"] {
        let reply = node.get(path);
        assert_eq!(
            values(&reply, "content-security-policy"),
            ["sandbox allow-scripts allow-forms"],
            "{path}"
        );
    }
    assert_eq!(
        node.get("/healthz").header("content-security-policy"),
        None,
        "the node's own pages are not a function's"
    );
}

#[test]
fn cookies_stay_with_the_function_that_set_them() {
    let node = Node::with_probe(config());
    let path = setting("set-cookie", "a=1;Path=/;Domain=localhost;HttpOnly");
    let shared = node.get(&format!("/f/acme/probe{path}"));
    assert_eq!(
        values(&shared, "set-cookie"),
        ["a=1; HttpOnly; Path=/f/acme/probe/"]
    );
    let own = get(&node, "probe.acme.localhost", &path);
    assert_eq!(values(&own, "set-cookie"), ["a=1; Path=/; HttpOnly"]);
}

#[test]
fn an_answer_by_path_does_not_speak_for_the_whole_origin() {
    let node = Node::with_probe(config());
    for (name, value) in [
        ("service-worker-allowed", "/"),
        ("clear-site-data", "%22*%22"),
        ("alt-svc", "clear"),
        ("strict-transport-security", "max-age=9"),
        ("nel", "{}"),
    ] {
        let path = setting(name, value);
        let shared = node.get(&format!("/f/acme/probe{path}"));
        assert_eq!(
            (shared.status, shared.header(name)),
            (200, None),
            "{name} by path"
        );
        let own = get(&node, "probe.acme.localhost", &path);
        assert!(own.header(name).is_some(), "{name} by host");
    }
}
