//! HTTP/2 frame by frame, from clients that break its rules, take no answers, or ask for more than they may.

use crate::support::{Client, Node, PATIENCE, config};
use shoal::Config;
use std::io::Read as _;
use std::time::Duration;
use tokio::time::Instant;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload: payload.to_vec(),
        }
    }

    /// A request without a body. Fields are literals: no table, no Huffman code.
    fn get(stream: u32, path: &str, fields: &[(&str, &str)]) -> Self {
        let pseudo = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", path),
        ];
        let mut payload = Vec::new();
        for (name, value) in pseudo.iter().chain(fields) {
            payload.push(0);
            for text in [name, value] {
                payload.push(u8::try_from(text.len()).unwrap());
                payload.extend(text.as_bytes());
            }
        }
        Self::new(HEADERS, END_HEADERS | END_STREAM, stream, &payload)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = (self.payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The last number of a RST_STREAM or GOAWAY without words.
    fn error_code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

fn reset(stream: u32) -> Frame {
    Frame::new(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

fn window(stream: u32, bytes: u32) -> Frame {
    Frame::new(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// One connection.
struct Raw(Client);

impl Raw {
    /// A connection whose client begins as it should, with one setting or none.
    fn open(node: &Node, setting: Option<(u16, u32)>) -> Self {
        let mut raw = Self(node.connect());
        raw.0.send(PREFACE);
        let mut payload = Vec::new();
        if let Some((key, value)) = setting {
            payload.extend(key.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        raw.send(&[Frame::new(SETTINGS, 0, 0, &payload)]);
        raw
    }

    /// Sends all in one piece.
    fn send(&mut self, frames: &[Frame]) {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        self.0.send(&bytes);
    }

    /// The next frame; `None` at the end.
    fn next(&mut self) -> Option<Frame> {
        let (mut head, mut payload) = (Vec::new(), Vec::new());
        if !self.0.exactly(9, &mut head) {
            return None;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        assert!(
            self.0.exactly(length as usize, &mut payload),
            "half a frame"
        );
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame::new(head[3], head[4], stream, &payload))
    }

    /// The next frame that is an answer, passing over what belongs to the connection.
    fn answer(&mut self) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            match frame.kind {
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    /// Whether the node is still there and answers this client.
    fn is_served(&mut self, stream: u32) -> bool {
        self.send(&[Frame::get(stream, "/healthz", &[]), window(stream, 100)]);
        let head = self.answer().unwrap();
        // `:status: 200` of the static table.
        let served = (head.kind, head.stream, head.payload[0]) == (HEADERS, stream, 0x88);
        let body = self.answer().unwrap();
        assert_eq!((body.kind, body.payload.as_slice()), (DATA, &b"ok\n"[..]));
        served
    }
}

fn until_live(node: &Node, guests: usize) {
    let began = Instant::now();
    while node.metric("shoal_guests_live") != guests as f64 {
        assert!(began.elapsed() < PATIENCE, "not {guests} guests");
    }
}

#[test]
fn what_begins_like_http_2_and_is_not_is_closed() {
    let node = Node::start(config());
    for sent in [
        &b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..],
        b"PRI * HTTP/1.1\r\nhost: t\r\n\r\n",
        b"PRI /f/acme/hello/ HTTP/1.1\r\nhost: t\r\n\r\n",
    ] {
        let mut client = node.connect();
        client.send(sent);
        assert!(client.is_closed(), "{}", String::from_utf8_lossy(sent));
    }
    // No preface at all is HTTP/1.1, and not well said.
    let mut client = node.connect();
    client.send(b"INVALID CONNECTION PREFACE\r\n\r\n");
    let mut answer = String::new();
    client.stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn a_preface_may_come_in_pieces() {
    let node = Node::start(config());
    let mut raw = Raw(node.connect());
    for byte in PREFACE {
        raw.0.send(&[*byte]);
    }
    raw.send(&[Frame::new(SETTINGS, 0, 0, &[])]);
    assert!(raw.is_served(1));
    // So may what only begins like one.
    let mut client = node.connect();
    for byte in b"PROPFIND /f/acme/hello/ HTTP/1.1\r\nhost: t\r\n\r\n" {
        client.send(&[*byte]);
    }
    assert_eq!(client.reply().status, 200);
}

#[test]
fn a_connection_without_a_stream_is_closed_in_time() {
    let node = Node::start(Config {
        header_timeout: Duration::from_millis(300),
        ..config()
    });
    for sent in [&b""[..], b"PRI * HT", PREFACE] {
        let began = Instant::now();
        let mut client = node.connect();
        client.send(sent);
        let mut rest = Vec::new();
        client.stream.read_to_end(&mut rest).unwrap();
        let took = began.elapsed();
        let range = Duration::from_millis(300)..Duration::from_secs(5);
        assert!(range.contains(&took), "{took:?} after {} bytes", sent.len());
    }
    let mut raw = Raw::open(&node, None);
    assert!(raw.is_served(1));
    let goaway = raw.answer().unwrap();
    assert_eq!((goaway.kind, goaway.error_code()), (GOAWAY, 0));
    while raw.next().is_some() {}
}

#[test]
fn a_stream_over_the_limit_is_refused_and_the_others_go_on() {
    let node = Node::with_probe(Config {
        http2_streams_max: 3,
        ..config()
    });
    let mut raw = Raw::open(&node, None);
    let never = |stream| Frame::get(stream, "/f/acme/probe/never", &[]);
    raw.send(&[never(1), never(3), never(5), never(7), never(9)]);
    for stream in [7, 9] {
        let refused = raw.answer().unwrap();
        assert_eq!((refused.kind, refused.stream), (RST_STREAM, stream));
        assert_eq!(refused.error_code(), REFUSED_STREAM);
    }
    until_live(&node, 3);
    raw.send(&[reset(1)]);
    until_live(&node, 2);
    assert!(raw.is_served(11));
}

#[test]
fn a_flood_of_cancelled_streams_ends_its_connection() {
    let node = Node::with_probe(config());
    for (pairs, survives) in [(100, true), (101, false), (20_000, false)] {
        let mut raw = Raw::open(&node, None);
        let flood: Vec<Frame> = (0..pairs)
            .map(|n| 2 * n + 1)
            .flat_map(|stream| [Frame::get(stream, "/healthz", &[]), reset(stream)])
            .collect();
        raw.send(&flood);
        if survives {
            assert!(raw.is_served(2 * pairs + 1));
            continue;
        }
        let goaway = raw.answer().unwrap();
        assert_eq!(
            (goaway.kind, goaway.error_code()),
            (GOAWAY, ENHANCE_YOUR_CALM),
            "{pairs}"
        );
        assert_eq!(raw.answer(), None);
    }
    assert_eq!(node.metric("shoal_guests_live"), 0.0);
}

#[test]
fn streams_cancelled_one_by_one_end_their_connection_too() {
    let node = Node::with_probe(Config {
        http2_streams_max: 3,
        ..config()
    });
    for (cancelled, survives) in [(3, true), (4, false)] {
        let mut raw = Raw::open(&node, None);
        for stream in (0..cancelled).map(|n| 2 * n + 1) {
            raw.send(&[Frame::get(stream, "/f/acme/probe/never", &[])]);
            until_live(&node, 1);
            raw.send(&[reset(stream)]);
            until_live(&node, 0);
        }
        if survives {
            assert!(raw.is_served(2 * cancelled + 1));
            continue;
        }
        assert_eq!(raw.answer().unwrap().kind, GOAWAY);
        assert_eq!(raw.answer(), None);
    }
    assert_eq!(
        node.metric("shoal_refused_total{limit=\"http2_streams_max\"}"),
        1.0
    );
}

/// A client whose window has no room for an answer, which has begun.
fn without_window(node: &Node) -> Raw {
    let mut raw = Raw::open(node, Some((INITIAL_WINDOW_SIZE, 0)));
    raw.send(&[Frame::get(1, "/f/acme/probe/big/512", &[])]);
    let head = raw.answer().unwrap();
    assert_eq!((head.kind, head.stream), (HEADERS, 1));
    raw
}

#[test]
fn a_client_that_gives_no_window_loses_its_stream_only() {
    let node = Node::with_probe(Config {
        write_stall_max: Duration::from_millis(300),
        ..config()
    });
    let mut raw = without_window(&node);
    assert_eq!(raw.answer().unwrap().kind, RST_STREAM);
    until_live(&node, 0);
    assert!(raw.is_served(3));
    // A window for a part does not help.
    raw.send(&[
        Frame::get(5, "/f/acme/probe/big/512", &[]),
        window(5, 100_000),
    ]);
    let last = std::iter::from_fn(|| raw.answer())
        .find(|frame| frame.kind != DATA && frame.kind != HEADERS);
    assert_eq!(
        last.map(|frame| (frame.kind, frame.stream)),
        Some((RST_STREAM, 5))
    );
    until_live(&node, 0);
}

#[test]
fn the_wall_deadline_holds_without_a_window_too() {
    let node = Node::with_probe(Config {
        write_stall_max: Duration::from_secs(60),
        invocation_timeout: Duration::from_millis(500),
        ..config()
    });
    let mut raw = without_window(&node);
    assert_eq!(raw.answer().unwrap().kind, RST_STREAM);
    until_live(&node, 0);
    assert!(raw.is_served(3));
}

#[test]
fn a_client_that_does_not_read_is_dropped_with_all_its_streams() {
    let node = Node::with_probe(Config {
        write_stall_max: Duration::from_millis(300),
        ..config()
    });
    let mut raw = Raw::open(&node, Some((INITIAL_WINDOW_SIZE, (1 << 31) - 1)));
    raw.send(&[window(0, (1 << 31) - 1 - 65_535)]);
    let big = |stream| Frame::get(stream, "/f/acme/probe/big/512", &[]);
    raw.send(&[big(1), big(3), big(5)]);
    assert_eq!(raw.answer().unwrap().kind, HEADERS);
    let began = Instant::now();
    while node.metric("shoal_guests_live") > 0.0 || began.elapsed() < Duration::from_millis(200) {
        assert!(
            began.elapsed() < PATIENCE,
            "the stalled guests are still alive"
        );
    }
}

#[test]
fn a_client_that_answers_no_ping_is_gone() {
    let node = Node::with_probe(Config {
        http2_ping_interval: Duration::from_millis(100),
        http2_ping_timeout: Duration::from_millis(200),
        ..config()
    });
    let mut raw = Raw::open(&node, None);
    raw.send(&[Frame::get(1, "/f/acme/probe/never", &[])]);
    while raw.next().is_some() {}
    until_live(&node, 0);
}

#[test]
fn headers_of_a_connection_have_no_place_in_a_stream() {
    let node = Node::with_probe(config());
    let mut raw = Raw::open(&node, None);
    let mut stream = 1;
    for field in [
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("keep-alive", "1"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
    ] {
        raw.send(&[Frame::get(stream, "/f/acme/probe/headers", &[field])]);
        let refused = raw.answer().unwrap();
        assert_eq!(
            (refused.kind, refused.stream),
            (RST_STREAM, stream),
            "{field:?}"
        );
        assert_eq!(refused.error_code(), PROTOCOL_ERROR, "{field:?}");
        stream += 2;
    }
    assert!(raw.is_served(stream));
}

#[test]
fn a_frame_out_of_place_ends_its_connection_only() {
    let node = Node::with_probe(config());
    let mut innocent = Raw::open(&node, None);
    for frame in [
        Frame::new(DATA, END_STREAM, 0, b"x"),
        Frame::new(DATA, END_STREAM, 1, b"x"),
        Frame::get(2, "/healthz", &[]),
        Frame::new(SETTINGS, ACK, 0, b"x"),
        window(0, 0),
    ] {
        let mut raw = Raw::open(&node, None);
        raw.send(&[frame]);
        let goaway = raw.answer().unwrap();
        assert_eq!(goaway.kind, GOAWAY);
        assert_ne!(goaway.error_code(), 0);
        assert_eq!(raw.answer(), None);
    }
    assert!(innocent.is_served(1));
}
