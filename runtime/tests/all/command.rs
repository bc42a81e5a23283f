//! Core modules of preview 1, run as commands, with `wasi_ephemeral_nn` as the crate `wasi-nn` calls it. The guest is
//! `samples/fixtures/command`.

use crate::support::{Node, Reply, component, config, parts, root};
use serde_json::Value;
use shoal::Config;
use std::time::Duration;

fn node(config: Config, query: &str) -> Node {
    let node = Node::run(parts(config, Vec::new()));
    node.post("/v1/organization/projects", b"{\"name\":\"acme\"}");
    let path = format!("/api/v1/projects/acme/functions/command/versions{query}");
    let deployed = node.post(&path, &component("command"));
    assert_eq!(deployed.status, 200, "{}", deployed.text());
    node
}

fn call(node: &Node, path: &str, body: &[u8]) -> Reply {
    node.post(&format!("/f/acme/command/{path}"), body)
}

/// The lines of its log.
fn logged(node: &Node) -> String {
    node.get("/api/v1/projects/acme/functions/command/logs")
        .text()
}

#[test]
fn a_body_goes_in_and_comes_out() {
    let node = node(config(), "");
    for bytes in [0, 1, 70_000, 3_000_000] {
        let body: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
        let reply = call(&node, "cat", &body);
        assert_eq!((reply.status, reply.complete), (200, true));
        assert!(reply.body == body, "{bytes} bytes came back changed");
    }
    // Whole where it is known before the head leaves.
    assert_eq!(
        call(&node, "bytes/65535", b"").header("content-length"),
        Some("65535")
    );
    let long = call(&node, "bytes/1000000", b"");
    assert_eq!((long.body.len(), long.complete), (1_000_000, true));
    assert_eq!(long.header("transfer-encoding"), Some("chunked"));
}

#[test]
fn the_request_is_in_the_environment() {
    let node = node(config(), "");
    let mut client = node.connect();
    client.send(b"PUT /f/acme/command/env?a=b HTTP/1.1\r\nhost: t\r\nx-name: value\r\nauthorization: Bearer sk-shoal-x\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(
        client.reply().text(),
        "REQUEST_METHOD=PUT\nPATH_INFO=/env\nQUERY_STRING=a=b\nHTTP_X_NAME=value\narguments=0\n"
    );
}

#[test]
fn how_it_ends_is_what_is_answered() {
    let node = node(
        Config {
            guest_cpu_max: Duration::from_millis(100),
            ..config()
        },
        "",
    );
    assert_eq!(call(&node, "exit/0", b"").text(), "not to be seen");
    for (path, status, code) in [
        ("exit/3", 500, "function_exited"),
        ("trap", 500, "function_failed"),
        ("spin", 504, "function_cpu_limit"),
    ] {
        let reply = call(&node, path, b"");
        assert_eq!(
            (reply.status, &*reply.error_code()),
            (status, code),
            "{path}"
        );
        assert!(!reply.text().contains("not to be seen"));
    }
    let begun = call(&node, "late-exit/500000", b"");
    assert_eq!((begun.status, begun.complete), (200, false));
    assert_eq!(call(&node, "stderr", b"").text(), "");
    assert!(logged(&node).contains("said to whoever runs it"));
    assert!(!logged(&node).contains("not to be seen"));
}

#[test]
fn the_crate_wasi_nn_runs_as_it_comes() {
    let node = node(config(), "?models=digits");
    let fixture = std::fs::read(root().join("samples/models/digits/fixture.json")).unwrap();
    let fixture: Value = serde_json::from_slice(&fixture).unwrap();
    let images = fixture["images"].as_array().unwrap();
    let labels = fixture["labels"].as_array().unwrap();
    for (image, label) in images.iter().zip(labels).take(20) {
        let numbers = image.as_array().unwrap().iter();
        let body: Vec<u8> = numbers
            .flat_map(|x| (x.as_f64().unwrap() as f32).to_le_bytes())
            .collect();
        let reply = call(&node, "digits/digits", &body);
        assert_eq!(reply.text(), format!("{label} (40 bytes)\n"));
        let timing = reply.header("server-timing").unwrap();
        assert!(timing.contains("batch;desc=\"1 of 1\""), "{timing}");
    }
    // What it is told is a number; the log has the words.
    assert_eq!(
        call(&node, "digits/absent", b"").error_code(),
        "function_exited"
    );
    assert!(
        logged(&node).contains(r#"no model \"absent\" on this node"#),
        "{}",
        logged(&node)
    );
    assert_eq!(
        call(&node, "digits/digits", b"short").error_code(),
        "function_exited"
    );
    assert!(logged(&node).contains("tensor dimensions ask for 256 bytes, data has 5"));
}

#[test]
fn addresses_and_handles_that_are_none_are_answered() {
    let node = node(config(), "?models=digits");
    let answers = call(&node, "wild", b"").text();
    assert_eq!(answers, "[1, 8, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1]\n");
}

#[test]
fn what_is_not_granted_is_not_opened() {
    let node = node(config(), "");
    let reply = call(&node, "digits/digits", &[0; 256]);
    assert_eq!(reply.error_code(), "function_exited");
    assert!(logged(&node).contains(r#"model \"digits\" was not granted to this function"#));
}
