//! Guests that misbehave cost their own request only, and learn nothing of the host.

use crate::support::{Node, Reply, config};
use shoal::Config;
use std::time::Duration;
use tokio::time::Instant;

fn strict() -> Config {
    Config {
        invocation_timeout: Duration::from_millis(600),
        guest_memory_bytes_max: 32 << 20,
        ..config()
    }
}

/// The reply to `path` while another tenant's function goes on answering.
fn beside_an_innocent(node: &Node, path: &str) -> Reply {
    std::thread::scope(|scope| {
        let hostile = scope.spawn(|| node.get(path));
        let mut innocent = node.connect();
        while !hostile.is_finished() {
            assert_eq!(innocent.get("/f/birch/hello/").text(), "Hello from Shoal\n");
        }
        hostile.join().unwrap()
    })
}

#[test]
fn every_kind_of_failure_is_an_answer_of_its_own() {
    let node = Node::with_probe(strict());
    for (path, status, code) in [
        ("spin", 504, "function_timeout"),
        ("never", 504, "function_timeout"),
        ("sleep/5000", 504, "function_timeout"),
        ("recurse", 500, "function_failed"),
        ("grow", 500, "function_failed"),
        ("grow/64", 500, "function_failed"),
        ("trap", 500, "function_failed"),
        ("panic", 500, "function_failed"),
        ("random/1000000000", 500, "function_failed"),
        ("silent", 502, "function_no_answer"),
        ("wrong-length/7", 502, "function_errored"),
        ("break-body", 502, "function_errored"),
        ("forget-body/100", 502, "function_errored"),
    ] {
        let reply = beside_an_innocent(&node, &format!("/f/acme/probe/{path}"));
        assert_eq!(reply.status, status, "{path}: {reply:?}");
        assert_eq!(reply.error_code(), code, "{path}");
        let words = reply.text();
        for secret in ["wasm", "trap", "/", "panick", "rust", "unreachable"] {
            assert!(!words.contains(secret), "{path} answers {words}");
        }
    }
    // Nothing is left of any of them.
    assert_eq!(node.metric("shoal_guests_live"), 0.0);
    assert_eq!(node.get("/f/birch/hello/").status, 200);
}

#[test]
fn a_guest_over_its_cpu_limit_is_stopped() {
    let node = Node::with_probe(Config {
        guest_cpu_max: Duration::from_millis(100),
        ..config()
    });
    let reply = node.get("/f/acme/probe/spin");
    assert_eq!(
        (reply.status, reply.error_code().as_str()),
        (504, "function_cpu_limit")
    );
    assert_eq!(node.get("/f/acme/probe/burn/20").status, 200);
    // Waiting is free.
    assert_eq!(node.get("/f/acme/probe/sleep/300").status, 200);
}

#[test]
fn memory_may_grow_to_the_limit_and_not_over_it() {
    let node = Node::with_probe(strict());
    for (mib, status) in [(1, 200), (24, 200), (31, 500), (33, 500), (4000, 500)] {
        let reply = node.get(&format!("/f/acme/probe/grow/{mib}"));
        assert_eq!(reply.status, status, "{mib} MiB");
    }
}

#[test]
fn a_body_that_stops_in_the_middle_is_cut_not_ended() {
    let node = Node::with_probe(strict());
    for path in ["spin-after-head", "stall-body"] {
        let mut client = node.connect();
        let reply = client.get(&format!("/f/acme/probe/{path}"));
        assert_eq!(reply.status, 200, "{path}");
        assert!(!reply.complete, "{path} ended as if it were whole");
        assert!(client.is_closed(), "{path}");
    }
}

#[test]
fn a_client_that_goes_away_takes_its_guest_along() {
    let node = Node::with_probe(config());
    for path in ["spin", "never", "stall-body"] {
        let mut client = node.connect();
        client.send(format!("GET /f/acme/probe/{path} HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes());
        wait_for(&node, "a live guest", |live| live == 1.0);
        drop(client);
        wait_for(&node, "no live guest", |live| live == 0.0);
    }
}

fn wait_for(node: &Node, what: &str, holds: impl Fn(f64) -> bool) {
    let began = Instant::now();
    while !holds(node.metric("shoal_guests_live")) {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "waited in vain for {what}"
        );
    }
}

#[test]
fn a_spinning_tenant_moves_to_the_background_and_others_stay_quick() {
    let node = Node::with_probe(Config {
        invocation_timeout: Duration::from_secs(3),
        ..config()
    });
    std::thread::scope(|scope| {
        let spinners: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| node.get("/f/acme/probe/spin").status))
            .collect();
        wait_for(&node, "all spinners", |live| live >= 20.0);
        let mut innocent = node.connect();
        let mut latencies: Vec<Duration> = (0..200)
            .map(|_| {
                let began = Instant::now();
                assert_eq!(innocent.get("/f/birch/hello/").status, 200);
                began.elapsed()
            })
            .collect();
        latencies.sort_unstable();
        // Without the move every request would wait for 20 spinners' turns. Not a measurement, which is a bar's business:
        // only the order of magnitude that tells the two apart.
        assert!(
            latencies[100] < Duration::from_millis(100),
            "{:?}",
            latencies[100]
        );
        for spinner in spinners {
            assert_eq!(spinner.join().unwrap(), 504);
        }
    });
    assert!(node.metric("shoal_guests_moved_total") >= 20.0);
}
