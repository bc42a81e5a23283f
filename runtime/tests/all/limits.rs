//! Every limit at its value, one over, and far over.

use crate::support::{Client, Node, component, config, function, parts};
use shoal::Config;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_body_may_have_as_many_bytes_as_the_limit() {
    let node = Node::start(Config {
        body_bytes_max: 100_000,
        ..config()
    });
    for (length, status) in [(100_000, 200), (100_001, 413), (50_000_000, 413)] {
        let mut client = node.connect();
        client.send(
            format!("POST /f/acme/echo/ HTTP/1.1\r\nhost: t\r\ncontent-length: {length}\r\n\r\n")
                .as_bytes(),
        );
        if status == 200 {
            client.send(&vec![b'x'; length]);
        }
        let reply = client.reply();
        assert_eq!(reply.status, status, "{length}");
        if status == 413 {
            assert_eq!(reply.error_code(), "body_too_large");
            assert!(reply.text().contains("100000"));
        }
    }
}

#[test]
fn a_body_of_unknown_length_is_cut_at_the_limit() {
    let node = Node::start(Config {
        body_bytes_max: 1_000,
        ..config()
    });
    // `digits` reads the whole body before it answers, so nothing but the limit can answer here.
    for (length, status) in [(1_000, 400), (1_001, 413), (200_000, 413)] {
        let mut client = node.connect();
        client.send(b"POST /f/acme/digits/ HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
        client.send(format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length)).as_bytes());
        assert_eq!(client.reply().status, status, "{length}");
    }
    assert_eq!(
        node.metric("shoal_refused_total{limit=\"body_bytes_max\"}"),
        2.0
    );
}

#[test]
fn a_body_that_comes_too_slowly_is_refused() {
    let node = Node::start(Config {
        body_rate_min: 1_000_000,
        body_rate_grace: Duration::from_millis(200),
        ..config()
    });
    let mut client = node.connect();
    client.send(b"POST /f/acme/digits/ HTTP/1.1\r\nhost: t\r\ncontent-length: 1000\r\n\r\nabc");
    let reply = client.reply();
    assert_eq!(
        (reply.status, reply.error_code().as_str()),
        (408, "body_too_slow")
    );
    assert_eq!(
        node.metric("shoal_refused_total{limit=\"body_rate_min\"}"),
        1.0
    );
}

#[test]
fn a_head_may_have_as_many_bytes_as_the_limit() {
    let node = Node::start(config());
    let rest = "GET /f/acme/hello/ HTTP/1.1\r\nhost: t\r\nx-filler: \r\n\r\n".len();
    let limit = shoal::Config::default().header_bytes_max;
    for (length, status) in [(limit, 200), (limit + 1, 431), (100_000, 431)] {
        let mut client = node.connect();
        let filler = "x".repeat(length - rest);
        client.send(
            format!("GET /f/acme/hello/ HTTP/1.1\r\nhost: t\r\nx-filler: {filler}\r\n\r\n")
                .as_bytes(),
        );
        assert_eq!(client.head().status, status, "{length}");
    }
}

#[test]
fn a_client_that_does_not_send_its_head_is_closed() {
    let node = Node::start(Config {
        header_timeout: Duration::from_millis(300),
        ..config()
    });
    for sent in ["", "GET /f/acme/hello/ HTTP/1.1\r\nhost: t\r\n"] {
        let mut client = node.connect();
        client.send(sent.as_bytes());
        let mut rest = Vec::new();
        // Closed, with or without a 408 first.
        client.stream.read_to_end(&mut rest).unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(node.get("/f/acme/hello/").status, 200);
}

#[test]
fn a_client_that_does_not_read_is_dropped() {
    let node = Node::start(Config {
        write_stall_max: Duration::from_millis(300),
        ..config()
    });
    let mut client = node.connect();
    client.send(b"GET /f/acme/probe/big/512 HTTP/1.1\r\nhost: t\r\n\r\n");
    let began = tokio::time::Instant::now();
    while node.metric("shoal_guests_live") > 0.0 || began.elapsed() < Duration::from_millis(200) {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "the stalled guest is still alive"
        );
    }
}

#[test]
fn the_wall_deadline_holds_for_a_slow_reader_too() {
    let node = Node::start(Config {
        write_stall_max: Duration::from_secs(60),
        invocation_timeout: Duration::from_millis(500),
        ..config()
    });
    let mut client = node.connect();
    client.send(b"GET /f/acme/probe/big/512 HTTP/1.1\r\nhost: t\r\n\r\n");
    assert_eq!(client.head().status, 200);
    let began = tokio::time::Instant::now();
    while node.metric("shoal_guests_live") > 0.0 {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "the guest outlived its deadline"
        );
    }
}

#[test]
fn connections_over_the_limit_are_closed() {
    let node = Node::start(Config {
        connections_max: 3,
        ..config()
    });
    let mut open: Vec<Client> = (0..3).map(|_| node.connect()).collect();
    for client in &mut open {
        assert_eq!(client.get("/healthz").status, 200);
    }
    for _ in 0..5 {
        assert!(node.connect().is_closed());
    }
    let refused = open[0].get("/metrics").text();
    assert!(
        refused.contains("shoal_refused_total{limit=\"connections_max\"} 5"),
        "{refused}"
    );
}

#[test]
fn connections_of_one_address_have_a_limit_of_their_own() {
    let node = Node::start(Config {
        connections_per_address_max: 2,
        ..config()
    });
    let mut open: Vec<Client> = (0..2).map(|_| node.connect()).collect();
    for client in &mut open {
        assert_eq!(client.get("/healthz").status, 200);
    }
    assert!(node.connect().is_closed());
    drop(open.pop());
    // The place comes back when the node has seen the close.
    let began = tokio::time::Instant::now();
    loop {
        let mut client = node.connect();
        client.send(b"GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n");
        if !client.is_closed() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

/// Parks guests until `count` are alive.
fn park(node: &Node, count: usize) -> Vec<Client> {
    let parked: Vec<Client> = (0..count)
        .map(|_| {
            let mut client = node.connect();
            client.send(b"GET /f/acme/probe/never HTTP/1.1\r\nhost: t\r\n\r\n");
            client
        })
        .collect();
    let began = tokio::time::Instant::now();
    while node.metric("shoal_guests_live") < count as f64 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    parked
}

#[test]
fn a_tenant_has_as_many_guests_as_it_may_and_others_have_theirs() {
    let node = Node::with_probe(Config {
        tenant_guests_max: 3,
        ..config()
    });
    let parked = park(&node, 3);
    for _ in 0..4 {
        let reply = node.get("/f/acme/probe/status/200");
        assert_eq!(
            (reply.status, reply.error_code().as_str()),
            (429, "concurrency_limit")
        );
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert!(reply.text().contains("tenant_guests_max"));
        assert_eq!(node.get("/f/birch/hello/").status, 200);
    }
    drop(parked);
    assert_eq!(
        node.metric("shoal_refused_total{limit=\"tenant_guests_max\"}"),
        4.0
    );
}

#[test]
fn a_node_has_as_many_guests_as_it_can() {
    let node = Node::with_probe(Config {
        guests_max: 4,
        ..config()
    });
    let parked = park(&node, 4);
    let reply = node.get("/f/birch/hello/");
    assert_eq!(
        (reply.status, reply.error_code().as_str()),
        (503, "node_busy")
    );
    assert_eq!(reply.header("retry-after"), Some("1"));
    drop(parked);
}

#[test]
fn what_is_no_function_is_refused_with_a_reason() {
    let core_module = wasm(&[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00]);
    let cut_off: Arc<[u8]> = component("hello")[..50_000].into();
    let empty_component = wasm(&[0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00]);
    for (bytes, words) in [
        (wasm(b""), "not a WebAssembly component"),
        (wasm(b"#!/bin/sh"), "not a WebAssembly component"),
        (core_module, "core module"),
        (cut_off, "does not compile"),
        (empty_component, "wasi:http/incoming-handler"),
    ] {
        let why = Node::refused(parts(config(), vec![function("acme", "bad", bytes)]));
        assert!(why.contains(words), "{why}");
        assert!(why.contains("acme/bad"), "{why}");
    }
}

/// A component of one core module with one section, and `instances` of it.
fn component_of(section: &[u8], instances: u8) -> Arc<[u8]> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend(section);
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    bytes.extend([1, module.len() as u8]);
    bytes.extend(module);
    if instances > 0 {
        // Each: instantiate, module 0, no arguments.
        let entries = [0, 0, 0].repeat(instances.into());
        bytes.extend([2, 1 + entries.len() as u8, instances]);
        bytes.extend(entries);
    }
    bytes.into()
}

#[test]
fn what_tenants_may_not_use_does_not_compile() {
    let refusal = |section: &[u8]| {
        let component = component_of(section, 0);
        Node::refused(parts(config(), vec![function("acme", "bad", component)]))
    };
    for (feature, section) in [
        ("a 64-bit memory", &[5, 3, 1, 4, 1][..]),
        ("two memories", &[5, 5, 2, 0, 1, 0, 1]),
        ("a shared memory", &[5, 4, 1, 3, 1, 2]),
        ("a structure", &[1, 3, 1, 0x5f, 0]),
        ("an exception", &[1, 4, 1, 0x60, 0, 0, 13, 3, 1, 0, 0]),
        (
            "a tail call",
            &[
                1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 10, 6, 1, 4, 0, 0x12, 0, 0x0b,
            ],
        ),
    ] {
        let why = refusal(section);
        assert!(why.contains("does not compile"), "{feature}: {why}");
    }
    // One memory of 32 bits compiles, and then is no function.
    let why = refusal(&[5, 3, 1, 0, 1]);
    assert!(why.contains("wasi:http/incoming-handler"), "{why}");
}

#[test]
fn a_component_that_the_pool_cannot_hold_is_refused() {
    // 20,001 elements, 2,049 pages, and 33 instances: each one more than there may be.
    let table: &[u8] = &[4, 6, 1, 0x70, 0, 0xa1, 0x9c, 1];
    let memory: &[u8] = &[5, 4, 1, 0, 0x81, 0x10];
    for (section, instances) in [(table, 1), (memory, 1), (&[][..], 33)] {
        let component = component_of(section, instances);
        let why = Node::refused(parts(config(), vec![function("acme", "bad", component)]));
        assert!(why.contains("function contract"), "{why}");
        assert!(!why.contains("incoming-handler"), "{why}");
    }
}

/// A component that imports an instance of this name, with one function without parameters and results.
fn importing(name: &str, function: &str) -> Arc<[u8]> {
    let (name_len, function_len) = (name.len() as u8, function.len() as u8);
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    // One instance type: a function type, and an export of it.
    bytes.extend([7, function_len + 13, 1, 0x42, 2, 1, 0x40, 0, 1, 0]);
    bytes.extend([4, 0, function_len]);
    bytes.extend(function.as_bytes());
    bytes.extend([1, 0]);
    // One import of that type.
    bytes.extend([10, name_len + 5, 1, 0, name_len]);
    bytes.extend(name.as_bytes());
    bytes.extend([5, 0]);
    bytes.into()
}

#[test]
fn an_import_that_the_node_lacks_is_named() {
    for (import, get, how) in [
        ("wasi:keyvalue/store@0.2.0-draft", "get", "does not have"),
        ("wasi:random/random@0.2.0", "get", "does not have"),
        ("wasi:random/random@0.3.0", "get", "does not have"),
        (
            "wasi:random/random@0.2.0",
            "get-random-u64",
            "has in another form",
        ),
    ] {
        let bytes = importing(import, get);
        let why = Node::refused(parts(config(), vec![function("acme", "bad", bytes)]));
        let words = format!("it imports {import} with {get}, which this node {how}");
        assert!(why.contains(&words), "{why}");
    }
}

fn wasm(bytes: &[u8]) -> Arc<[u8]> {
    bytes.into()
}

#[test]
fn a_component_may_have_as_many_bytes_as_the_limit() {
    let hello = component("hello");
    let with_limit = |limit| {
        let config = Config {
            component_bytes_max: limit,
            ..config()
        };
        parts(config, vec![function("acme", "hello", hello.clone())])
    };
    assert_eq!(
        Node::run(with_limit(hello.len()))
            .get("/f/acme/hello/")
            .status,
        200
    );
    for limit in [hello.len() - 1, 8] {
        let why = Node::refused(with_limit(limit));
        assert!(why.contains("component_bytes_max"), "{why}");
    }
}

#[test]
fn a_compiler_that_needs_too_much_is_stopped() {
    let with = |change: Change| {
        let mut config = config();
        change(&mut config);
        parts(config, vec![function("acme", "probe", component("probe"))])
    };
    let why = Node::refused(with(|c| c.compile_timeout = Duration::from_millis(1)));
    assert!(why.contains("compile_timeout"), "{why}");
    let why = Node::refused(with(|c| c.compile_memory_bytes_max = 40 << 20));
    assert!(why.contains("compile_memory_bytes_max"), "{why}");
}

#[test]
fn names_are_checked() {
    let long = "x".repeat(64);
    for name in ["", "-a", "A", "a b", "a/b", "ä", long.as_str()] {
        let why = Node::refused(parts(
            config(),
            vec![function(name, "hello", component("hello"))],
        ));
        assert!(why.contains("project") && why.contains("63"), "{why}");
    }
    let fits = "x".repeat(63);
    let node = Node::run(parts(
        config(),
        vec![function(&fits, "0-a", component("hello"))],
    ));
    assert_eq!(node.get(&format!("/f/{fits}/0-a/")).status, 200);
}

type Change = fn(&mut Config);

#[test]
fn a_configuration_that_cannot_work_names_its_key() {
    let cases: Vec<(&str, Change)> = vec![
        ("domain", |c| c.domain = "a..b".to_owned()),
        ("socket_threads", |c| c.socket_threads = 0),
        ("background_threads", |c| c.background_threads = 0),
        ("http2_streams_max", |c| c.http2_streams_max = 0),
        ("http2_stream_window_bytes", |c| {
            c.http2_stream_window_bytes = (16 << 10) - 1
        }),
        ("http2_stream_window_bytes", |c| {
            c.http2_stream_window_bytes = 1 << 31
        }),
        ("http2_connection_window_bytes", |c| {
            c.http2_connection_window_bytes = 65_534
        }),
        ("http2_ping_interval", |c| {
            c.http2_ping_interval = Duration::ZERO
        }),
        ("http2_ping_timeout", |c| {
            c.http2_ping_timeout = Duration::ZERO
        }),
        ("guests_max", |c| c.guests_max = 0),
        ("header_bytes_max", |c| c.header_bytes_max = 8191),
        ("guest_memory_bytes_max", |c| {
            c.guest_memory_bytes_max = (4 << 30) + 1
        }),
        ("invocation_timeout", |c| {
            c.invocation_timeout = Duration::ZERO
        }),
        ("compile_cpu_max", |c| {
            c.compile_cpu_max = Duration::from_millis(999)
        }),
        ("log_line_bytes_max", |c| c.log_line_bytes_max = 15),
        ("function_log_bytes_max", |c| {
            c.function_log_bytes_max = c.log_line_bytes_max
        }),
        ("compiles_max", |c| c.compiles_max = 0),
        ("tenant_compiles_max", |c| c.tenant_compiles_max = 0),
        ("components_mapped_max", |c| c.components_mapped_max = 0),
        ("inference.rows_max", |c| c.inference.rows_max = 0),
    ];
    for (key, change) in cases {
        let mut config = config();
        change(&mut config);
        let why = Node::refused(parts(config, Vec::new()));
        assert!(why.starts_with(key), "{why}");
    }
}
