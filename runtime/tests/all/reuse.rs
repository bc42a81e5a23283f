//! Sandboxes that serve more than one call, because the owner of their function wants it: what they keep, what they do not, and
//! when they go.

use crate::support::{Client, Node, component, config, function, parts};
use shoal::Config;
use shoal::sandbox::FunctionSource;
use std::num::NonZeroU32;
use std::time::Duration;
use tokio::time::Instant;

fn reused(name: &str, sample: &str, calls: u32) -> FunctionSource {
    let mut function = function("acme", name, component(sample));
    function.grants.reuse = NonZeroU32::new(calls);
    function
}

/// A node with the function `probe`, whose sandboxes serve so many calls.
fn node(config: Config, calls: u32) -> Node {
    Node::run(parts(config, vec![reused("probe", "probe", calls)]))
}

fn count_of(node: &Node, function: &str) -> u64 {
    let reply = node.get(&format!("/f/acme/{function}/count"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["count"].as_u64().unwrap()
}

fn count(node: &Node) -> u64 {
    count_of(node, "probe")
}

/// A guest that streams, or was moved, may end a moment after its client has the answer.
fn until_kept(node: &Node, kept: f64) {
    let metrics = || {
        (
            node.metric("shoal_guests_live"),
            node.metric("shoal_guests_kept"),
        )
    };
    let began = Instant::now();
    while metrics() != (0.0, kept) {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "waited in vain for {kept} kept sandboxes: {:?}",
            metrics()
        );
    }
}

#[test]
fn a_sandbox_serves_as_many_calls_as_its_owner_says() {
    let node = node(config(), 3);
    for expected in [1, 2, 3, 1, 2, 3, 1] {
        assert_eq!(count(&node), expected);
        until_kept(&node, f64::from(u8::from(expected < 3)));
    }
    assert_eq!(node.metric("shoal_guests_reused_total"), 4.0);
    assert_eq!(node.metric("shoal_guests_live"), 0.0);
}

#[test]
fn without_its_owners_word_every_call_has_a_fresh_sandbox() {
    let node = Node::with_probe(config());
    for _ in 0..3 {
        assert_eq!(count(&node), 1);
    }
    assert_eq!(node.metric("shoal_guests_kept"), 0.0);
    assert_eq!(node.metric("shoal_guests_reused_total"), 0.0);
}

#[test]
fn a_sandbox_that_failed_or_is_not_done_serves_no_other_call() {
    let node = node(
        Config {
            guest_cpu_max: Duration::from_millis(100),
            invocation_timeout: Duration::from_secs(1),
            ..config()
        },
        100,
    );
    for (path, status) in [
        ("trap", 500),
        ("panic", 500),
        ("spin", 504),
        ("never", 504),
        // Returns with the answer's body still open.
        ("forget-body/9", 502),
    ] {
        assert_eq!(count(&node), 1, "before {path}");
        until_kept(&node, 1.0);
        let reply = node.get(&format!("/f/acme/probe/{path}"));
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        until_kept(&node, 0.0);
    }
    assert_eq!(count(&node), 1);
}

#[test]
fn a_sandbox_that_holds_something_of_its_call_serves_no_other() {
    let node = node(config(), 100);
    for kind in [
        "request",
        "headers",
        "body",
        "body-stream",
        "fields",
        "outgoing",
        "pollable",
        "tensor",
        "error",
        // Each may stay, but not so many.
        "models",
    ] {
        let reply = node.post(&format!("/f/acme/probe/leave/{kind}"), b"somebody's");
        assert_eq!(reply.status, 200, "{kind}: {}", reply.text());
        until_kept(&node, 0.0);
    }
    assert_eq!(node.metric("shoal_guests_reused_total"), 0.0);
    // A model is nobody's.
    assert_eq!(node.get("/f/acme/probe/leave/model").status, 200);
    until_kept(&node, 1.0);
    assert_eq!(count(&node), 1);
    assert_eq!(node.metric("shoal_guests_reused_total"), 1.0);
}

#[test]
fn a_sandbox_that_grew_big_serves_no_other_call() {
    let node = node(config(), 100);
    for (mib, kept) in [(2, 1.0), (32, 0.0)] {
        assert_eq!(node.get(&format!("/f/acme/probe/grow/{mib}")).status, 200);
        until_kept(&node, kept);
    }
    assert_eq!(count(&node), 1);
}

#[test]
fn a_client_that_leaves_takes_its_sandbox_along() {
    let node = node(config(), 100);
    assert_eq!(count(&node), 1);
    until_kept(&node, 1.0);
    let mut client = node.connect();
    client.send(b"GET /f/acme/probe/sleep/60000 HTTP/1.1\r\nhost: x\r\n\r\n");
    let began = Instant::now();
    while node.metric("shoal_guests_live") != 1.0 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    drop(client);
    while node.metric("shoal_guests_live") != 0.0 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(count(&node), 1);
}

#[test]
fn calls_at_once_have_a_sandbox_each() {
    let node = node(config(), 100);
    let mut clients: Vec<Client> = (0..4).map(|_| node.connect()).collect();
    for client in &mut clients {
        client.send(b"GET /f/acme/probe/sleep/1000 HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.reply().status, 200);
    }
    until_kept(&node, 4.0);
    assert_eq!(node.metric("shoal_guests_reused_total"), 0.0);
}

#[test]
fn each_call_has_its_own_name_limits_and_bill() {
    let node = Node::run(parts(
        Config {
            guest_cpu_max: Duration::from_millis(400),
            ..config()
        },
        vec![
            reused("probe", "probe", 100),
            reused("digits", "digits", 100),
        ],
    ));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let reply = node.get("/f/acme/probe/count");
        ids.push(reply.header("x-request-id").unwrap().to_owned());
        until_kept(&node, 1.0);
        let reply = node.get("/f/acme/probe/context");
        let id = reply.json()["request_id"].clone();
        assert_eq!(Some(id.as_str().unwrap()), reply.header("x-request-id"));
        until_kept(&node, 1.0);
    }
    // The line of each call ended with it, and has its id.
    let lines = node.log("acme/probe").after(0);
    let lines = lines
        .iter()
        .map(|line| (line.text.to_string(), &*line.origin.request_id));
    let expected = (1..=3)
        .map(|n| format!("call {n}"))
        .zip(ids.iter().map(|id| &**id));
    assert_eq!(Vec::from_iter(lines), Vec::from_iter(expected));
    // Together they take more CPU time than one may.
    for _ in 0..4 {
        assert_eq!(node.get("/f/acme/probe/burn/200").status, 200);
        until_kept(&node, 1.0);
    }
    let pixels = serde_json::json!({ "image": vec![0.0; 64] }).to_string();
    for _ in 0..3 {
        let reply = node.post("/f/acme/digits/", pixels.as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text());
        let timing = reply.header("server-timing").unwrap();
        assert!(timing.contains("device;dur="), "{timing}");
        until_kept(&node, 2.0);
    }
    assert_eq!(node.metric("shoal_guests_reused_total"), 5.0 + 4.0 + 2.0);
}

#[test]
fn a_node_may_keep_none() {
    let none = Config {
        guests_kept_max: 0,
        ..config()
    };
    let node = node(none, 100);
    for _ in 0..2 {
        assert_eq!(count(&node), 1);
        until_kept(&node, 0.0);
    }
}

#[test]
fn a_sandbox_that_is_not_called_goes() {
    let node = node(
        Config {
            guest_kept_idle_max: Duration::from_millis(50),
            ..config()
        },
        100,
    );
    for _ in 0..2 {
        assert_eq!(count(&node), 1);
        until_kept(&node, 0.0);
    }
}

#[test]
fn a_sandbox_that_waits_gives_way() {
    let functions = vec![reused("a", "probe", 100), reused("b", "probe", 100)];
    let one_place = Config {
        guests_max: 1,
        ..config()
    };
    let node = Node::run(parts(one_place, functions.clone()));
    for function in ["a", "b", "a"] {
        assert_eq!(count_of(&node, function), 1);
        until_kept(&node, 1.0);
    }
    let none_kept = Config {
        guests_kept_max: 1,
        ..config()
    };
    let node = Node::run(parts(none_kept, functions));
    for (function, expected) in [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("a", 1)] {
        assert_eq!(count_of(&node, function), expected, "{function}");
        until_kept(&node, 1.0);
    }
}

#[test]
fn a_new_version_begins_anew_and_says_how_often_it_may_be_used() {
    let node = Node::run(parts(
        Config {
            function_reuse_max: 50,
            ..config()
        },
        Vec::new(),
    ));
    let made = node.post("/v1/organization/projects", b"{\"name\":\"acme\"}");
    assert_eq!(made.status, 200, "{}", made.text());
    let deploy = |query: &str| {
        let path = format!("/api/v1/projects/acme/functions/probe/versions?{query}");
        node.post(&path, &component("probe"))
    };
    for (query, code, words) in [
        ("reuse=0", "invalid_value", "1 or more"),
        ("reuse=51", "reuse_limit", "function_reuse_max"),
        ("reuse=x", "invalid_value", "reuse"),
    ] {
        let refused = deploy(query);
        assert_eq!(refused.status, 400, "{query}");
        assert_eq!(refused.error_code(), code, "{query}: {}", refused.text());
        assert!(refused.text().contains(words), "{}", refused.text());
    }
    for (query, reuse, counts) in [("reuse=50", 50, [1, 2]), ("reuse=2", 2, [1, 2])] {
        let deployed = deploy(query);
        assert_eq!(deployed.status, 200, "{}", deployed.text());
        assert_eq!(
            deployed.json()["live"]["reuse"],
            serde_json::Value::from(reuse)
        );
        // Those of the version before went with it.
        until_kept(&node, 0.0);
        for expected in counts {
            assert_eq!(count(&node), expected, "{query}");
            let more = expected < reuse;
            until_kept(&node, f64::from(u8::from(more)));
        }
    }
    assert_eq!(deploy("reuse=9").status, 200);
    assert_eq!(count(&node), 1);
    until_kept(&node, 1.0);
    // Another version on trial leaves those of the live one where they are.
    assert_eq!(deploy("reuse=9&canary=1").status, 200);
    until_kept(&node, 1.0);
    assert_eq!(count(&node), 2);
    assert_eq!(deploy("").json()["live"]["reuse"], serde_json::Value::Null);
    assert_eq!((count(&node), count(&node)), (1, 1));
    until_kept(&node, 0.0);
    assert_eq!(deploy("reuse=9").status, 200);
    assert_eq!(count(&node), 1);
    until_kept(&node, 1.0);
    let path = "/api/v1/projects/acme/functions/probe";
    let deleted = node.connect().request("DELETE", path, None, b"");
    assert_eq!(deleted.status, 200);
    until_kept(&node, 0.0);
}

#[test]
fn where_there_are_too_many_one_goes_of_the_tenant_that_has_most() {
    let mut other = reused("probe", "probe", 100);
    other.project = "birch".to_owned();
    let functions = vec![reused("probe", "probe", 100), other];
    let few = Config {
        guests_kept_max: 2,
        ..config()
    };
    let node = Node::run(parts(few, functions));
    assert_eq!(node.get("/f/birch/probe/count").json()["count"], 1);
    until_kept(&node, 1.0);
    let mut clients: Vec<Client> = (0..3).map(|_| node.connect()).collect();
    for client in &mut clients {
        client.send(b"GET /f/acme/probe/sleep/1000 HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.reply().status, 200);
    }
    until_kept(&node, 2.0);
    assert_eq!(node.get("/f/birch/probe/count").json()["count"], 2);
}
