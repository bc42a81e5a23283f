//! Outgoing HTTP of guests: what they were granted they reach, and nothing else.

use crate::support::upstream::{SecureUpstream, Upstream};
use crate::support::{Node, Reply, component, config, parts};
use shoal::Config;
use shoal::sandbox::{FunctionSource, Grants};
use std::time::Duration;
use tokio::time::Instant;

/// The sample `proxy` of a project, with these hosts granted.
fn proxy(project: &str, hosts: &[&str]) -> FunctionSource {
    FunctionSource {
        project: project.to_owned(),
        name: "proxy".to_owned(),
        wasm: component("proxy"),
        grants: Grants {
            egress: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            ..Grants::default()
        },
    }
}

/// A node whose operator lets functions reach loopback.
fn node(config: Config, functions: Vec<FunctionSource>) -> Node {
    Node::run(parts(
        Config {
            egress_networks: "127.0.0.0/8,::1/128".parse().unwrap(),
            ..config
        },
        functions,
    ))
}

/// The same with one `proxy`, that may reach `upstream`.
fn reaching(upstream: &Upstream, config: Config) -> Node {
    node(
        config,
        vec![proxy("acme", &[&upstream.address.to_string()])],
    )
}

fn fetch(node: &Node, url: &str) -> Reply {
    node.get(&format!("/f/acme/proxy/?url={url}"))
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        let waited = began.elapsed();
        assert!(
            waited < Duration::from_secs(10),
            "waited in vain for {what}"
        );
    }
}

#[test]
fn a_function_reaches_a_host_that_it_was_granted() {
    let upstream = Upstream::start();
    let node = reaching(&upstream, config());
    for _ in 0..3 {
        let reply = fetch(&node, &upstream.url("/head/?x=1"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = reply.text();
        assert!(seen.starts_with("GET /head/?x=1 HTTP/1.1\r\n"), "{seen}");
        let hosts = seen.lines().filter(|line| line.starts_with("host: "));
        assert_eq!(
            Vec::from_iter(hosts),
            [format!("host: {}", upstream.address)]
        );
    }
    assert_eq!(upstream.connections(), 1, "a connection is used again");
    assert_eq!(fetch(&node, &upstream.url("/none")).status, 404);
    assert_eq!(node.metric("shoal_egress_requests_total"), 4.0);
    until("the last answer's end", || {
        node.metric("shoal_egress_requests_open") == 0.0
    });
}

#[test]
fn tenants_share_no_connections() {
    let upstream = Upstream::start();
    let host = upstream.address.to_string();
    let functions = vec![proxy("acme", &[&host]), proxy("birch", &[&host])];
    let node = node(config(), functions);
    for project in ["acme", "birch", "acme", "birch"] {
        let path = format!("/f/{project}/proxy/?url={}", upstream.url("/head/"));
        assert_eq!(node.get(&path).status, 200);
    }
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_host_that_was_not_granted_is_refused_and_the_owner_reads_why() {
    let (granted, other) = (Upstream::start(), Upstream::start());
    let node = reaching(&granted, config());
    let port = granted.address.port();
    for url in [
        other.url("/head/"),
        format!("http://localhost:{port}/head/"),
        format!("https://127.0.0.1:{}/", other.address.port()),
        format!("http://127.0.0.2:{port}/"),
        format!("http://0x7f000001:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://127.1:{port}/"),
        format!("http://127.0.0.1.:{port}x/"),
        "http://127.0.0.1/".to_owned(),
        "https://example.com/".to_owned(),
        // What looks like the granted host is somebody's name on another.
        format!("http://127.0.0.1:{port}@example.com/"),
        format!("http://example.com%23@127.0.0.1:{port}/"),
        "ftp://127.0.0.1/".to_owned(),
    ] {
        let reply = fetch(&node, &url);
        assert_eq!(reply.status, 400, "{url}: {}", reply.text());
        assert_eq!(reply.json()["error"]["param"], "url", "{url}");
    }
    assert_eq!((granted.connections(), other.connections()), (0, 0));
    let lines = node.log("acme/proxy").after(0);
    let lines: Vec<&str> = lines.iter().map(|line| &*line.text).collect();
    let wanted = format!(
        "127.0.0.1:{} is not among the hosts that this function was granted (--egress)",
        other.address.port()
    );
    assert!(lines.iter().any(|line| line.contains(&wanted)), "{lines:?}");
    let refused = node.metric("shoal_egress_refused_total{limit=\"egress\"}");
    assert!(refused >= 8.0, "{refused}");
}

#[test]
fn a_private_address_is_refused_even_where_its_host_was_granted() {
    let v4 = Upstream::start();
    let v6 = Upstream::on("[::1]:0");
    let port = v4.address.port();
    let v6_port = v6.as_ref().map_or(port, |v6| v6.address.port());
    let urls = [
        format!("http://127.0.0.1:{port}/head/"),
        format!("http://localhost:{port}/head/"),
        format!("http://LOCALHOST:{port}/head/"),
        format!("http://[::1]:{v6_port}/head/"),
        format!("http://localhost:{v6_port}/head/"),
        format!("http://[::ffff:127.0.0.1]:{port}/head/"),
        format!("http://[64:ff9b::127.0.0.1]:{port}/head/"),
        format!("http://[2002:7f00:1::]:{port}/head/"),
        format!("http://0.0.0.0:{port}/head/"),
        format!("http://10.0.0.1:{port}/"),
        format!("http://169.254.169.254:{port}/latest/meta-data/"),
        format!("http://192.168.1.1:{port}/"),
        format!("http://[fd00:ec2::254]:{port}/"),
        format!("http://[fe80::1]:{port}/"),
    ];
    let host = |url: &String| {
        let authority = url.trim_start_matches("http://").split('/').next();
        authority.unwrap().to_owned()
    };
    let hosts: Vec<String> = urls.iter().map(host).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let node = Node::run(parts(config(), vec![proxy("acme", &hosts)]));
    for url in urls {
        let reply = fetch(&node, &url);
        assert_eq!(reply.status, 400, "{url}: {}", reply.text());
    }
    assert_eq!(v4.connections(), 0);
    assert_eq!(v6.map_or(0, |v6| v6.connections()), 0);
}

#[test]
fn servers_are_trusted_by_their_certificates_and_spoken_to_in_http2() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = SecureUpstream::start(&folder.path().join("roots.pem"));
    let url = |host: &str| format!("https://{host}:{}/", upstream.address.port());
    let hosts =
        ["localhost", "127.0.0.1"].map(|host| format!("{host}:{}", upstream.address.port()));
    let hosts = hosts.each_ref().map(String::as_str);
    let trusting = Config {
        egress_roots: Some(folder.path().join("roots.pem")),
        ..config()
    };
    let trusting = node(trusting, vec![proxy("acme", &hosts)]);
    for _ in 0..2 {
        let reply = fetch(&trusting, &url("localhost"));
        assert_eq!((reply.status, &*reply.text()), (200, "HTTP/2.0 localhost"));
    }
    assert_eq!(upstream.connections(), 1);
    // Its certificate is for another name.
    let reply = fetch(&trusting, &url("127.0.0.1"));
    assert_eq!((reply.status, &*reply.error_code()), (502, "fetch_failed"));
    assert!(
        reply.text().contains("TlsCertificateError"),
        "{}",
        reply.text()
    );
    // Nobody trusts who signed it.
    let wary = node(config(), vec![proxy("acme", &hosts)]);
    let reply = fetch(&wary, &url("localhost"));
    assert!(
        reply.text().contains("TlsCertificateError"),
        "{}",
        reply.text()
    );
    let missing = Config {
        egress_roots: Some(folder.path().join("none.pem")),
        ..config()
    };
    let words = Node::refused(parts(missing, Vec::new()));
    assert!(words.contains("egress_roots"), "{words}");
}

#[test]
fn a_redirect_is_the_guests_to_follow() {
    let upstream = Upstream::start();
    let node = reaching(&upstream, config());
    assert_eq!(fetch(&node, &upstream.url("/redirect/")).status, 302);
    assert_eq!(fetch(&node, "http://127.0.0.1:1/").status, 400);
}

#[test]
fn bodies_stream_both_ways() {
    let upstream = Upstream::start();
    let node = reaching(&upstream, config());
    let mut client = node.connect();
    let head = format!(
        "POST /f/acme/proxy/?url={} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n",
        upstream.url("/echo/")
    );
    client.send(head.as_bytes());
    client.send(b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.status, &*reply.text()), (200, "firstsecond"));
    let large = vec![b'x'; 3 << 20];
    let mut client = node.connect();
    let path = format!("/f/acme/proxy/?url={}", upstream.url("/bytes/3145728"));
    let reply = client.get(&path);
    assert_eq!(reply.body.len(), large.len());
    assert!(reply.complete);
}

#[test]
fn bodies_have_as_many_bytes_as_the_limit() {
    let upstream = Upstream::start();
    let node = reaching(
        &upstream,
        Config {
            egress_body_bytes_max: 1_000,
            ..config()
        },
    );
    for (bytes, whole) in [(1_000, true), (1_001, false), (1_000_000, false)] {
        let reply = fetch(&node, &upstream.url(&format!("/bytes/{bytes}")));
        let arrived = reply.status == 200 && reply.complete;
        assert_eq!(arrived, whole, "{bytes}: {}", reply.status);
        let path = format!("/f/acme/proxy/?url={}", upstream.url("/echo/"));
        let reply = node.post(&path, &vec![b'x'; bytes]);
        let arrived = reply.status == 200 && reply.complete;
        assert_eq!(arrived, whole, "{bytes}: {}", reply.status);
    }
}

#[test]
fn a_function_has_as_many_requests_under_way_as_it_may() {
    let upstream = Upstream::start();
    let node = reaching(
        &upstream,
        Config {
            function_egress_max: 2,
            ..config()
        },
    );
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let mut client = node.connect();
            let path = format!("/f/acme/proxy/?url={}", upstream.url("/silent/"));
            client.send(format!("GET {path} HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes());
            client
        })
        .collect();
    until("two requests", || upstream.open() == 2);
    let reply = fetch(&node, &upstream.url("/head/"));
    assert_eq!((reply.status, &*reply.error_code()), (502, "fetch_failed"));
    // Whoever asked goes, and what was asked for goes with them.
    drop(waiting);
    until("no request", || upstream.open() == 0);
    until("a place", || {
        fetch(&node, &upstream.url("/head/")).status == 200
    });
    let limit = "shoal_egress_refused_total{limit=\"function_egress_max\"}";
    assert!(node.metric(limit) >= 1.0);
}

#[test]
fn a_server_that_fails_is_told_from_one_that_is_slow() {
    let upstream = Upstream::start();
    let host = upstream.address.to_string();
    let hosts = [&*host, "127.0.0.1:1", "no-such-name.invalid"];
    let config = Config {
        egress_connect_timeout: Duration::from_millis(100),
        egress_answer_timeout: Duration::from_millis(200),
        egress_silence_max: Duration::from_millis(200),
        ..config()
    };
    let node = node(config, vec![proxy("acme", &hosts)]);
    for (url, status, code) in [
        (upstream.url("/silent/"), 504, "fetch_timeout"),
        ("http://127.0.0.1:1/".to_owned(), 502, "fetch_failed"),
        (
            "http://no-such-name.invalid/".to_owned(),
            502,
            "fetch_failed",
        ),
    ] {
        let reply = fetch(&node, &url);
        // A machine without a resolver takes its time to say that there is no such name.
        let slow = reply.status == 504 && url.contains("invalid");
        assert!(slow || reply.status == status, "{url}: {}", reply.text());
        assert!(slow || reply.error_code() == code, "{url}");
    }
    for path in ["/break/", "/stall/"] {
        let reply = fetch(&node, &upstream.url(path));
        // Cut off, or refused where the head had not left.
        let is_whole = reply.status == 200 && reply.complete;
        assert!(!is_whole, "{path} ended as if it were whole");
    }
}

#[test]
fn a_tenant_and_a_node_have_as_many_connections_as_they_may() {
    // Whether another tenant still has a place when this one has none.
    for (of_tenant, of_node, others) in [(1, 100, 200), (100, 1, 502)] {
        let (first, second) = (Upstream::start(), Upstream::start());
        let hosts = [&first, &second].map(|upstream| upstream.address.to_string());
        let hosts = hosts.each_ref().map(String::as_str);
        let config = Config {
            tenant_egress_connections_max: of_tenant,
            egress_connections_max: of_node,
            egress_idle_max: Duration::from_secs(1),
            ..config()
        };
        let node = node(config, vec![proxy("acme", &hosts), proxy("birch", &hosts)]);
        assert_eq!(fetch(&node, &first.url("/head/")).status, 200);
        // The first is kept for a while, and is the one there may be.
        let reply = fetch(&node, &second.url("/head/"));
        assert_eq!((reply.status, &*reply.error_code()), (502, "fetch_failed"));
        let words = reply.text();
        assert!(words.contains("ConnectionLimitReached"), "{words}");
        let path = format!("/f/birch/proxy/?url={}", second.url("/head/"));
        assert_eq!(node.get(&path).status, others);
        until("a place", || {
            fetch(&node, &second.url("/head/")).status == 200
        });
    }
}

#[test]
fn a_handshake_that_stalls_ends_in_time() {
    let upstream = Upstream::start();
    let config = Config {
        egress_connect_timeout: Duration::from_millis(200),
        ..config()
    };
    let node = reaching(&upstream, config);
    // It waits for a head that never comes.
    let reply = fetch(&node, &format!("https://{}/", upstream.address));
    assert_eq!((reply.status, &*reply.error_code()), (504, "fetch_timeout"));
    assert_eq!(upstream.connections(), 1);
    until("the connection's end", || upstream.open() == 0);
}
