//! Trailers, in both protocols and both ways.

use crate::client::{Client, get, open_body, post};
use crate::support::{Node, config};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::Frame;
use std::io::Read as _;

/// All that comes back for a body of five bytes and these trailers, in chunks; `fields` are lines of the head.
fn http1(node: &Node, target: &str, fields: &str, trailers: &str) -> String {
    let mut client = node.connect();
    let head = format!(
        "POST /f/acme/probe/trailers{target} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n{fields}\r\n5\r\nhello\r\n0\r\n{trailers}\r\n"
    );
    client.send(head.as_bytes());
    let mut answer = String::new();
    client.stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// Where the body ends.
fn end(answer: &str) -> &str {
    let at = answer.find("8\r\n5 bytes\n\r\n").unwrap();
    &answer[at + 13..]
}

#[test]
fn trailers_reach_the_guest_and_come_back() {
    let node = Node::with_probe(config());
    for target in ["", "?length=8", "?pause=30", "?length=8&pause=30"] {
        let answer = http1(
            &node,
            target,
            "te: trailers\r\n",
            "x-sum: 5\r\nX-Kind: a b\r\n",
        );
        assert!(answer.contains("trailer: x-"), "{target}: {answer}");
        let mut lines: Vec<_> = end(&answer).lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["", "0", "x-kind: a b", "x-sum: 5"], "{target}");
    }
}

#[test]
fn a_client_that_takes_no_trailers_gets_none() {
    let node = Node::with_probe(config());
    for (target, fields) in [("", ""), ("?announce=no", "te: trailers\r\n")] {
        let answer = http1(&node, target, fields, "x-sum: 5\r\n");
        assert_eq!(end(&answer), "0\r\n\r\n", "{target}");
    }
}

#[test]
fn a_body_without_trailers_ends_as_ever() {
    let node = Node::with_probe(config());
    let answer = http1(&node, "", "te: trailers\r\n", "");
    assert_eq!(end(&answer), "0\r\n\r\n");
}

#[test]
fn a_key_of_ours_does_not_reach_a_guest_in_a_trailer() {
    let node = Node::with_probe(config());
    let trailers = "x-key: sk-shoal-0123\r\nx-sum: 5\r\n";
    let answer = http1(&node, "", "te: trailers\r\n", trailers);
    assert_eq!(end(&answer), "0\r\nx-sum: 5\r\n\r\n");
}

#[tokio::test]
async fn trailers_pass_over_http_2_announced_or_not() {
    let node = Node::with_probe(config());
    let mut client = Client::new(&node).await;
    for target in ["", "?announce=no", "?length=8", "?pause=30"] {
        let sent = HeaderMap::from_iter([(
            HeaderName::from_static("x-sum"),
            HeaderValue::from_static("5"),
        )]);
        let (sender, body) = open_body();
        let upload = async {
            let data = Bytes::from_static(b"hello");
            sender.send(Frame::data(data)).await.unwrap();
            sender.send(Frame::trailers(sent.clone())).await.unwrap();
            drop(sender);
        };
        let request = post(&format!("/f/acme/probe/trailers{target}"), body);
        let (reply, ()) = tokio::join!(client.call(request), upload);
        assert_eq!(reply.body, "5 bytes\n", "{target}");
        assert_eq!(reply.trailers, Some(sent), "{target}");
    }
    let reply = client.call(get("/f/acme/probe/trailers")).await;
    assert_eq!(reply.body, "0 bytes\n");
    assert!(reply.trailers.is_none_or(|trailers| trailers.is_empty()));
}
