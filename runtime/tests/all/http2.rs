//! HTTP/2 with prior knowledge, through a client that keeps its rules. What breaks them is in `frames`.

use crate::client::{Client, bytes, get, open_body, post, whole};
use crate::support::{Node, PATIENCE, component, config, function, parts};
use bytes::Bytes;
use http::{HeaderValue, Method, Version};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use shoal::Config;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Waits until so many guests are alive.
async fn until_live(node: &Node, guests: usize) {
    let began = Instant::now();
    while node.metric("shoal_guests_live") != guests as f64 {
        assert!(began.elapsed() < PATIENCE, "not {guests} guests");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_function_answers_over_http_2() {
    let node = Node::start(config());
    let mut client = Client::new(&node).await;
    for path in ["/f/acme/hello", "/f/acme/hello/any/path?and=query"] {
        let reply = client.get(path).await;
        assert_eq!((reply.status(), reply.head.version), (200, Version::HTTP_2));
        assert_eq!(reply.body, "Hello from Shoal\n");
        assert_eq!(reply.header("content-length"), Some("17"));
        assert!(reply.header("x-request-id").is_some());
        assert!(reply.header("server-timing").is_some());
    }
    let reply = client.get("/f/acme/absent/").await;
    assert_eq!(
        reply.status_and_code(),
        (404, "function_not_found".to_owned())
    );
    let mut head = get("/f/acme/hello/");
    *head.method_mut() = Method::HEAD;
    let reply = client.call(head).await;
    assert_eq!((reply.status(), reply.body.len()), (200, 0));
    assert_eq!(reply.header("content-length"), Some("17"));
}

#[tokio::test]
async fn status_and_headers_are_the_guests_own() {
    let node = Node::with_probe(config());
    let mut client = Client::new(&node).await;
    for code in [201, 204, 304, 404, 418, 500, 599] {
        let reply = client.get(&format!("/f/acme/probe/status/{code}")).await;
        assert_eq!((reply.status(), reply.body.len()), (code, 0));
    }
    let path = "/f/acme/probe/set-header?name=x-mine&value=yes";
    assert_eq!(client.get(path).await.header("x-mine"), Some("yes"));
}

#[tokio::test]
async fn both_protocols_are_served_on_one_address() {
    let node = Node::start(config());
    let mut client = Client::new(&node).await;
    assert_eq!(client.get("/healthz").await.status(), 200);
    assert_eq!(node.get("/healthz").status, 200);
}

#[tokio::test]
async fn the_authority_is_the_host() {
    let node = Node::start(config());
    let mut client = Client::new(&node).await;
    let on_host = |target: &str| {
        let mut request = get("/");
        *request.uri_mut() = target.parse().unwrap();
        request
    };
    let reply = client
        .call(on_host("http://echo.acme.localhost:80/healthz?x"))
        .await;
    assert_eq!(reply.header("x-echo-path"), Some("/healthz?x"));
    assert_eq!(reply.header("content-security-policy"), None);
    for (host, status) in [("TEST", 200), ("other", 400)] {
        let mut request = get("/f/acme/hello/");
        let host = HeaderValue::from_static(host);
        request.headers_mut().insert("host", host);
        assert_eq!(client.call(request).await.status(), status);
    }
}

#[tokio::test]
async fn a_tunnel_is_refused() {
    let node = Node::start(config());
    let mut client = Client::new(&node).await;
    let mut request = get("/");
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "echo.acme.localhost:80".parse().unwrap();
    let reply = client.call(request).await;
    assert_eq!(reply.status_and_code(), (404, "unknown_path".to_owned()));
}

#[tokio::test]
async fn a_guest_sees_one_line_of_cookies_and_no_key_of_ours() {
    let node = Node::with_probe(config());
    let mut client = Client::new(&node).await;
    let mut request = get("/f/acme/probe/headers");
    for (name, value) in [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-api-key", "sk-shoal-0123"),
        ("te", "trailers"),
    ] {
        let value = HeaderValue::from_static(value);
        request.headers_mut().append(name, value);
    }
    let seen = client.call(request).await.json();
    assert_eq!(
        seen,
        serde_json::json!({"cookie": ["a=1; b=2"], "te": ["trailers"]})
    );
}

#[tokio::test]
async fn bodies_stream_both_ways_and_streams_do_not_wait_for_each_other() {
    let node = Node::start(config());
    let mut client = Client::new(&node).await;
    let (sender, body) = open_body();
    let first = Frame::data(Bytes::from_static(b"first"));
    sender.send(first).await.unwrap();
    // The head and the first part come back while the request is still open.
    let mut echo = client.send(post("/f/acme/echo/", body)).await;
    let part = echo.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(part.into_data().unwrap(), "first");
    assert_eq!(client.get("/f/acme/hello/").await.status(), 200);
    let second = Frame::data(Bytes::from_static(b"second"));
    sender.send(second).await.unwrap();
    drop(sender);
    assert_eq!(whole(echo).await.body, "second");
}

#[tokio::test]
async fn a_large_body_passes_through_unchanged() {
    let node = Node::start(config());
    let mut client = Client::new(&node).await;
    let body: Vec<u8> = (0..8 << 20_u32).map(|n| (n % 251) as u8).collect();
    let request = post("/f/acme/echo/", bytes(body.clone()));
    let reply = client.call(request).await;
    assert!(reply.body == body, "{} bytes came back", reply.body.len());
}

#[tokio::test]
async fn a_body_may_have_as_many_bytes_as_the_limit() {
    let node = Node::start(Config {
        body_bytes_max: 100_000,
        ..config()
    });
    let mut client = Client::new(&node).await;
    for (length, status) in [(100_000, 200), (100_001, 413), (1_000_000, 413)] {
        let body = bytes(vec![b'x'; length]);
        let reply = client.call(post("/f/acme/echo/", body)).await;
        assert_eq!(reply.status(), status, "{length}");
    }
    // Of unknown length; `digits` reads all of a body before it answers.
    for (length, status) in [(100_000, 400), (100_001, 413), (1_000_000, 413)] {
        let (sender, body) = open_body();
        let request = post("/f/acme/digits/", body);
        let upload = async {
            let data = Bytes::from(vec![b'x'; length]);
            // Refused in the middle, it is not read to its end.
            let _ = sender.send(Frame::data(data)).await;
            drop(sender);
        };
        let (reply, ()) = tokio::join!(client.call(request), upload);
        assert_eq!(reply.status(), status, "{length}");
    }
    assert_eq!(
        node.metric("shoal_refused_total{limit=\"body_bytes_max\"}"),
        4.0
    );
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_refused() {
    let node = Node::start(Config {
        body_rate_min: 1_000_000,
        body_rate_grace: Duration::from_millis(200),
        ..config()
    });
    let mut client = Client::new(&node).await;
    let (sender, body) = open_body();
    let first = Frame::data(Bytes::from_static(b"abc"));
    sender.send(first).await.unwrap();
    let reply = client.call(post("/f/acme/digits/", body)).await;
    assert_eq!(reply.status_and_code(), (408, "body_too_slow".to_owned()));
    assert_eq!(client.get("/f/acme/hello/").await.status(), 200);
}

#[tokio::test]
async fn a_head_may_have_as_many_bytes_as_the_limit() {
    let node = Node::start(config());
    // Each field counts for 32 bytes more than its name and value (RFC 9113, section 6.5.2).
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", "/f/acme/hello/"),
        ("x-filler", ""),
    ];
    let rest: usize = fields.map(|(k, v)| k.len() + v.len() + 32).iter().sum();
    let limit = Config::default().header_bytes_max;
    let mut client = Client::new(&node).await;
    let mut send = async |length| {
        let mut request = get("/f/acme/hello/");
        let filler = HeaderValue::try_from("x".repeat(length - rest)).unwrap();
        request.headers_mut().insert("x-filler", filler);
        client.sender.send_request(request).await
    };
    assert_eq!(send(limit).await.unwrap().status(), 200);
    assert_eq!(send(limit + 1).await.unwrap().status(), 431);
    // So much that nobody will look at it ends the connection.
    assert!(send(10 * limit).await.is_err());
}

#[tokio::test]
async fn streams_of_one_connection_are_held_to_the_tenants_limit() {
    let node = Node::with_probe(Config {
        tenant_guests_max: 3,
        ..config()
    });
    let mut client = Client::new(&node).await;
    let parked: Vec<_> = (0..3)
        .map(|_| client.sender.send_request(get("/f/acme/probe/never")))
        .collect();
    until_live(&node, 3).await;
    let reply = client.get("/f/acme/probe/status/200").await;
    assert_eq!(
        reply.status_and_code(),
        (429, "concurrency_limit".to_owned())
    );
    assert_eq!(client.get("/f/birch/hello/").await.status(), 200);
    drop(parked);
}

#[tokio::test]
async fn a_stream_that_its_client_gives_up_takes_its_guest_along() {
    let node = Node::with_probe(config());
    let mut client = Client::new(&node).await;
    let waiting = client.sender.send_request(get("/f/acme/probe/never"));
    until_live(&node, 1).await;
    drop(waiting);
    until_live(&node, 0).await;
    let begun = client.send(get("/f/acme/probe/stall-body")).await;
    until_live(&node, 1).await;
    drop(begun);
    until_live(&node, 0).await;
    assert_eq!(client.get("/healthz").await.status(), 200);
}

#[tokio::test]
async fn a_connection_that_its_client_gives_up_takes_all_guests_along() {
    let node = Node::with_probe(config());
    let mut client = Client::new(&node).await;
    let waiting: Vec<_> = (0..5)
        .map(|_| client.sender.send_request(get("/f/acme/probe/never")))
        .collect();
    until_live(&node, 5).await;
    client.connection.shutdown().await;
    until_live(&node, 0).await;
    drop(waiting);
}

#[tokio::test]
async fn a_guest_may_work_on_after_its_answer() {
    let node = Node::with_probe(config());
    let mut client = Client::new(&node).await;
    let reply = client.get("/f/acme/probe/after/800").await;
    assert_eq!(reply.body, "ok\n");
    until_live(&node, 1).await;
    until_live(&node, 0).await;
}

#[tokio::test]
async fn a_guest_that_fails_says_so_on_its_stream() {
    let node = Node::with_probe(Config {
        invocation_timeout: Duration::from_millis(300),
        ..config()
    });
    let mut client = Client::new(&node).await;
    for (path, status, code) in [
        ("trap", 500, "function_failed"),
        ("silent", 502, "function_no_answer"),
        ("never", 504, "function_timeout"),
        ("spin", 504, "function_timeout"),
    ] {
        let reply = client.get(&format!("/f/acme/probe/{path}")).await;
        assert_eq!(reply.status_and_code(), (status, code.to_owned()));
    }
    for path in ["spin-after-head", "stall-body"] {
        let response = client.send(get(&format!("/f/acme/probe/{path}"))).await;
        assert_eq!(response.status(), 200);
        let body = timeout(PATIENCE, response.into_body().collect()).await;
        assert!(body.unwrap().is_err(), "{path} breaks off");
    }
    assert_eq!(client.get("/healthz").await.status(), 200);
}

#[tokio::test]
async fn what_is_in_flight_is_answered_and_the_connection_then_closed() {
    let node = Node::with_probe(config());
    let mut client = Client::new(&node).await;
    let mut idle = Client::new(&node).await;
    assert_eq!(idle.get("/healthz").await.status(), 200);
    let waiting = client.sender.send_request(get("/f/acme/probe/sleep/500"));
    until_live(&node, 1).await;
    node.trigger();
    let ended = timeout(PATIENCE, idle.connection.join_next()).await;
    ended.unwrap().unwrap().unwrap().unwrap();
    let reply = whole(timeout(PATIENCE, waiting).await.unwrap().unwrap()).await;
    assert_eq!(reply.body, "ok\n");
    let ended = timeout(PATIENCE, client.connection.join_next()).await;
    ended.unwrap().unwrap().unwrap().unwrap();
    node.wait().unwrap();
}

#[tokio::test]
async fn the_grace_is_the_longest_a_drain_takes() {
    let node = Node::with_probe(Config {
        shutdown_grace: Duration::from_millis(200),
        ..config()
    });
    let mut client = Client::new(&node).await;
    let waiting = client.sender.send_request(get("/f/acme/probe/never"));
    until_live(&node, 1).await;
    node.trigger();
    assert!(timeout(PATIENCE, waiting).await.unwrap().is_err());
    node.wait().unwrap();
}

#[tokio::test]
async fn a_connection_serves_as_many_streams_at_once_as_it_may() {
    let hello = function("acme", "hello", component("hello"));
    let limits = Config {
        guests_max: 100,
        ..config()
    };
    let node = Node::run(parts(limits, vec![hello]));
    let client = Client::new(&node).await;
    let mut calls = JoinSet::new();
    for _ in 0..1_000 {
        // What is over the node's limit waits in the client: no guest too many.
        let mut sender = client.sender.clone();
        calls.spawn(async move { sender.send_request(get("/f/acme/hello/")).await.unwrap() });
    }
    for _ in 0..1_000 {
        let called = timeout(PATIENCE, calls.join_next()).await.unwrap();
        assert_eq!(called.unwrap().unwrap().status(), 200);
    }
}
