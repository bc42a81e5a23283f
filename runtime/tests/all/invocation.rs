//! What a client sees of a function that behaves.

use crate::support::{Node, config};
use shoal::Config;
use std::collections::HashSet;
use std::io::Write as _;
use std::time::Duration;

#[test]
fn a_function_answers_under_its_path() {
    let node = Node::start(config());
    for path in [
        "/f/acme/hello",
        "/f/acme/hello/",
        "/f/acme/hello/any/path?and=query",
    ] {
        let reply = node.get(path);
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.text(), "Hello from Shoal\n");
        assert_eq!(reply.header("content-length"), Some("17"));
    }
}

#[test]
fn a_guest_sees_the_method_and_its_own_part_of_the_path() {
    let node = Node::start(config());
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
        let mut client = node.connect();
        let head = format!("{method} /f/acme/echo/a%20b//c?x=1&y HTTP/1.1\r\nhost: t\r\n\r\n");
        client.send(head.as_bytes());
        let reply = client.reply();
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("x-echo-method"), Some(method));
        assert_eq!(reply.header("x-echo-path"), Some("/a%20b//c?x=1&y"));
    }
}

#[test]
fn bodies_stream_both_ways() {
    let node = Node::start(config());
    let mut client = node.connect();
    client.send(b"POST /f/acme/echo/ HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(b"5\r\nfirst\r\n");
    // The head and the first part come back while the request is still open.
    assert_eq!(client.head().status, 200);
    assert_eq!(client.chunk().unwrap(), b"first");
    client.send(b"6\r\nsecond\r\n");
    assert_eq!(client.chunk().unwrap(), b"second");
    client.send(b"0\r\n\r\n");
    assert_eq!(client.chunk().unwrap(), b"");
}

#[test]
fn a_large_body_passes_through_unchanged() {
    let node = Node::start(config());
    let body: Vec<u8> = (0..8 << 20_u32).map(|n| (n % 251) as u8).collect();
    let mut client = node.connect();
    let mut sender = client.stream.try_clone().unwrap();
    let head = format!(
        "POST /f/acme/echo/ HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // It is echoed as it comes: whoever sends all before reading waits for a node that waits for a reader.
    let reply = std::thread::scope(|scope| {
        scope.spawn(|| {
            sender.write_all(head.as_bytes()).unwrap();
            sender.write_all(&body).unwrap();
        });
        client.reply()
    });
    assert_eq!(reply.status, 200);
    assert!(reply.complete);
    assert!(reply.body == body, "{} bytes came back", reply.body.len());
}

#[test]
fn a_guest_knows_whose_it_is_and_how_long_it_has() {
    let node = Node::with_probe(Config {
        invocation_timeout: Duration::from_secs(20),
        ..config()
    });
    let reply = node.get("/f/acme/probe/context");
    let context = reply.json();
    assert_eq!(
        (&context["project"], &context["function"]),
        (&"acme".into(), &"probe".into())
    );
    assert_eq!(context["request_id"].as_str(), reply.header("x-request-id"));
    let left = context["deadline_left_ms"].as_u64().unwrap();
    assert!((1..20_000).contains(&left), "{left}");
}

#[test]
fn a_connection_serves_many_requests() {
    let node = Node::start(config());
    let mut client = node.connect();
    let ids: HashSet<String> = (0..50)
        .map(|_| {
            let reply = client.get("/f/acme/hello/");
            assert_eq!(reply.status, 200);
            reply.header("x-request-id").unwrap().to_owned()
        })
        .collect();
    assert_eq!(ids.len(), 50);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let node = Node::start(config());
    let mut client = node.connect();
    for path in ["one", "two", "three"] {
        client.send(format!("GET /f/acme/echo/{path} HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes());
    }
    for path in ["/one", "/two", "/three"] {
        assert_eq!(client.reply().header("x-echo-path"), Some(path));
    }
}

#[test]
fn head_has_the_headers_and_no_body() {
    let node = Node::start(config());
    let mut client = node.connect();
    client.send(b"HEAD /f/acme/hello/ HTTP/1.1\r\nhost: t\r\n\r\n");
    let reply = client.head();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-length"), Some("17"));
    // The next answer starts right behind the head.
    assert_eq!(client.get("/f/acme/hello/").text(), "Hello from Shoal\n");
}

#[test]
fn a_client_that_expects_100_is_told_to_continue() {
    let node = Node::start(config());
    let mut client = node.connect();
    // `digits` asks for the body before it answers; `echo` would not have to.
    client.send(
        b"POST /f/acme/digits/ HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.head().status, 100);
    client.send(b"body");
    assert_eq!(client.reply().status, 400);
}

#[test]
fn http_1_0_gets_an_answer_and_a_close() {
    let node = Node::start(config());
    let mut client = node.connect();
    client.send(b"GET /f/acme/hello/ HTTP/1.0\r\n\r\n");
    assert_eq!(client.reply().text(), "Hello from Shoal\n");
    assert!(client.is_closed());
}

#[test]
fn status_and_headers_are_the_guests_own() {
    let node = Node::with_probe(config());
    for code in [201, 204, 304, 404, 418, 500, 599] {
        assert_eq!(
            node.get(&format!("/f/acme/probe/status/{code}")).status,
            code
        );
    }
    for code in [100, 101, 103] {
        let reply = node.get(&format!("/f/acme/probe/status/{code}"));
        assert_eq!(reply.status, 502, "{code} is no answer");
    }
    let reply = node.get("/f/acme/probe/set-header?name=x-mine&value=yes");
    assert_eq!(reply.header("x-mine"), Some("yes"));
}

#[test]
fn what_is_not_there_is_answered_in_our_shape() {
    let node = Node::start(config());
    for (path, code) in [
        ("/f/acme/absent/", "function_not_found"),
        ("/f/absent/hello/", "function_not_found"),
        ("/f/ACME/hello/", "function_not_found"),
        ("/f/acme%2Fhello/", "unknown_path"),
        ("/f/acme", "unknown_path"),
        ("/", "unknown_path"),
    ] {
        let reply = node.get(path);
        assert_eq!(reply.status, 404, "{path}");
        assert_eq!(reply.error_code(), code, "{path}");
        assert!(reply.header("x-request-id").is_some());
    }
}

#[test]
fn a_request_must_have_one_host() {
    let node = Node::start(config());
    for hosts in ["", "host: a\r\nhost: b\r\n", "host:\r\n", "host: a b\r\n"] {
        let mut client = node.connect();
        client.send(format!("GET /f/acme/hello/ HTTP/1.1\r\n{hosts}\r\n").as_bytes());
        let reply = client.reply();
        assert_eq!(
            (reply.status, reply.error_code().as_str()),
            (400, "host_missing")
        );
    }
}

#[test]
fn a_key_of_ours_never_reaches_a_guest() {
    let node = Node::with_probe(config());
    for (name, value, passes) in [
        ("authorization", "Bearer sk-shoal-0123", false),
        ("authorization", "Bearer theirs", true),
        ("x-api-key", "sk-shoal-0123", false),
        ("cookie", "a=1; key=SK-SHOAL-0123", false),
    ] {
        let mut client = node.connect();
        let head = format!(
            "GET /f/acme/probe/headers HTTP/1.1\r\nhost: t\r\n{name}: {value}\r\nx-own: 1\r\n\r\n"
        );
        client.send(head.as_bytes());
        let seen = client.reply().text();
        assert_eq!(seen.contains(name), passes, "{name}: {value}: {seen}");
        assert!(seen.contains("x-own"));
    }
}

#[test]
fn a_guest_sees_nothing_of_the_host() {
    let node = Node::with_probe(config());
    let seen = node.get("/f/acme/probe/env").json();
    assert_eq!(seen["vars"], serde_json::json!([]));
    assert_eq!(seen["args"], serde_json::json!([]));
    let sent = node.get("/f/acme/probe/egress").text();
    assert!(sent.contains("HttpRequestDenied"), "{sent}");
}

#[test]
fn server_timing_splits_the_time_of_a_finished_guest() {
    let node = Node::start(config());
    let timing = |path| {
        let reply = node.get(path);
        reply.header("server-timing").unwrap().to_owned()
    };
    let plain = timing("/f/acme/hello/");
    assert!(plain.starts_with("queue;dur=0.000, guest;dur="), "{plain}");
    // A tenth of a second by the clock on the wall: how much CPU that is, the machine's other work decides.
    // It runs in the background, where another turn may come between its answer and its end: that head left early, with
    // the time in the queue alone.
    let burned = (0..20)
        .map(|_| timing("/f/acme/probe/burn/100"))
        .find(|timing| timing.contains("guest;dur="))
        .expect("a guest mostly ends in the turn in which it answers");
    let guest = burned.rsplit_once("guest;dur=").unwrap().1;
    let guest: f64 = guest.parse().unwrap();
    assert!((5.0..200.0).contains(&guest), "{burned}");
    let inferred = timing("/f/acme/probe/nn/run?rows=3");
    assert!(
        inferred.contains("batch;desc=\"3 of 2-7\", device;dur="),
        "{inferred}"
    );
}

#[test]
fn parked_time_is_not_cpu_time() {
    let node = Node::with_probe(config());
    let reply = node.get("/f/acme/probe/sleep/300");
    let timing = reply.header("server-timing").unwrap();
    let guest: f64 = timing.rsplit_once("guest;dur=").unwrap().1.parse().unwrap();
    assert!(guest < 50.0, "{timing}");
}

#[test]
fn a_guest_may_work_on_after_its_answer() {
    let node = Node::with_probe(config());
    for path in ["/f/acme/probe/after/800", "/f/acme/probe/after-burn/800"] {
        let reply = node.get(path);
        assert_eq!(reply.status, 200);
        assert!(reply.complete);
        assert_eq!(node.metric("shoal_guests_live"), 1.0, "{path}");
        let began = tokio::time::Instant::now();
        while node.metric("shoal_guests_live") > 0.0 {
            assert!(began.elapsed() < std::time::Duration::from_secs(10));
        }
    }
    // What it used then is on the bill too: without it, both answers took far less than this.
    assert!(node.metric("shoal_guest_cpu_seconds_total") > 0.02);
}
