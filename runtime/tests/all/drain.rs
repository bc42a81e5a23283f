//! A node that is told to stop finishes what it began.

use crate::support::{Client, Node, config, parts};
use shoal::Config;
use std::io::Read as _;
use std::time::Duration;

fn begun(node: &Node, path: &str) -> Client {
    let mut client = node.connect();
    client.send(format!("GET /f/acme/probe/{path} HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes());
    let began = tokio::time::Instant::now();
    while node.metric("shoal_guests_live") < 1.0 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    client
}

#[test]
fn what_is_in_flight_is_answered_and_the_connection_then_closed() {
    let node = Node::with_probe(config());
    let mut idle = node.connect();
    assert_eq!(idle.get("/healthz").status, 200);
    let mut client = begun(&node, "sleep/500");
    node.trigger();
    assert!(idle.is_closed());
    assert_eq!(client.reply().status, 200);
    assert!(client.is_closed());
    let address = node.address;
    node.wait().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_connection_in_use_is_told_before_it_is_closed() {
    let node = Node::with_probe(config());
    let mut client = node.connect();
    let reply = client.get("/f/birch/hello/");
    assert_eq!((reply.status, reply.header("connection")), (200, None));
    node.trigger();
    let mut told = None;
    // What answers hears of the drain a moment before what closes.
    while told.is_none() {
        let reply = client.get("/f/birch/hello/");
        assert_eq!(
            (reply.status, reply.error_code().as_str()),
            (503, "node_draining")
        );
        told = reply.header("connection").map(str::to_owned);
    }
    assert_eq!(told.as_deref(), Some("close"));
    assert!(client.is_closed());
    node.wait().unwrap();
}

#[test]
fn a_guest_that_works_on_after_its_answer_is_waited_for() {
    let node = Node::with_probe(config());
    let reply = node.get("/f/acme/probe/after/800");
    assert_eq!(reply.status, 200);
    let began = tokio::time::Instant::now();
    node.trigger();
    node.wait().unwrap();
    assert!(began.elapsed() > Duration::from_millis(400));
}

#[test]
fn a_request_that_comes_during_the_drain_is_refused() {
    let node = Node::with_probe(config());
    let parked = begun(&node, "sleep/1500");
    // Its head is on the way when the drain begins.
    let mut late = node.connect();
    late.send(b"GET /f/birch/hello/ HTTP/1.1\r\n");
    assert_eq!(node.get("/healthz").status, 200);
    node.trigger();
    let mut other = node.is_running();
    late.send(b"host: t\r\n\r\n");
    let reply = late.reply();
    assert_eq!(
        (reply.status, reply.error_code().as_str()),
        (503, "node_draining")
    );
    assert_eq!(reply.header("retry-after"), Some("1"));
    other &= node.is_running();
    assert!(other, "the parked guest still holds the node");
    drop(parked);
    node.wait().unwrap();
}

#[test]
fn a_connection_that_nobody_has_accepted_yet_is_answered_too() {
    let parts = parts(config(), Vec::new());
    let address = parts.listeners.functions.local_addr().unwrap();
    let mut waiting: Vec<Client> = (0..20).map(|_| Client::new(address)).collect();
    for client in &mut waiting {
        client.send(b"GET /readyz HTTP/1.1\r\nhost: t\r\n\r\n");
    }
    let (trigger, shutdown) = shoal::shutdown();
    // It drains from its start on.
    drop(trigger);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(shoal::run(parts, shutdown, |_| {}))
        .unwrap();
    for client in &mut waiting {
        let reply = client.reply();
        assert_eq!(reply.error_code(), "node_draining");
        assert_eq!(reply.header("connection"), Some("close"));
    }
}

#[test]
fn the_grace_is_the_longest_a_drain_takes() {
    let node = Node::with_probe(Config {
        shutdown_grace: Duration::from_millis(200),
        ..config()
    });
    let mut client = begun(&node, "never");
    node.trigger();
    node.wait().unwrap();
    let mut rest = Vec::new();
    let _ = client.stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

#[test]
fn a_second_signal_skips_the_wait() {
    let node = Node::with_probe(config());
    let client = begun(&node, "never");
    node.trigger();
    assert!(node.is_running());
    node.trigger();
    node.wait().unwrap();
    drop(client);
}
