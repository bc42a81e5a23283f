//! A body far larger than the node may remember, sent and echoed back.
//!
//! The node runs in a process of its own, so that its memory is nobody else's: that process is this test again, told by
//! [`AS_NODE`] to be the node.

use crate::client::{Client, post};
use crate::support::{Node, component, config, function, parts};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use shoal::Config;
use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::task::{Context, Poll};
use std::time::Duration;

const AS_NODE: &str = "SHOAL_TEST_AS_NODE";
const LISTENING: &str = "listening on ";

const BODY_BYTES: u64 = 1 << 30;
/// What the node may need for it.
const EXTRA_BYTES_MAX: u64 = 64 << 20;

const CHUNK_BYTES: usize = 64 << 10;
/// Prime, so that a piece lost or doubled shows.
const PERIOD: usize = 251;
static PATTERN: [u8; CHUNK_BYTES + PERIOD] = {
    let mut pattern = [0; CHUNK_BYTES + PERIOD];
    let mut at = 0;
    while at < pattern.len() {
        pattern[at] = (at % PERIOD) as u8;
        at += 1;
    }
    pattern
};

/// So many bytes of the body, from `offset` on: at most a chunk.
fn pattern(offset: u64, length: usize) -> &'static [u8] {
    let start = (offset % PERIOD as u64) as usize;
    &PATTERN[start..start + length]
}

/// Checks that `bytes` stand at `offset` of the body; where the next ones do.
fn check(offset: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(CHUNK_BYTES).fold(offset, |offset, chunk| {
        assert!(
            chunk == pattern(offset, chunk.len()),
            "not the same at {offset}"
        );
        offset + chunk.len() as u64
    })
}

/// The node in its own process.
struct NodeProcess {
    child: Child,
    address: SocketAddr,
    /// Open, for what else it has to say.
    _lines: Lines<BufReader<ChildStdout>>,
}

impl NodeProcess {
    /// Runs the test `name` again, as the node. In there it comes back with nothing, when the node has ended.
    fn start(name: &str) -> Option<Self> {
        if std::env::var_os(AS_NODE).is_some() {
            be_the_node();
            return None;
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(AS_NODE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once(LISTENING)?.1.parse().ok())
            .expect("the node says where it listens");
        Some(Self {
            child,
            address,
            _lines: lines,
        })
    }

    /// A figure of its memory, in bytes.
    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib: u64 = line
            .unwrap()
            .trim_matches([':', '\t', ' ', 'k', 'B'])
            .parse()
            .unwrap();
        kib << 10
    }

    /// How much more than now it has needed once `work` is done.
    fn extra_memory(&self, work: impl FnOnce(SocketAddr)) -> u64 {
        // Where the kernel cannot forget the peak so far, that of the start counts too: the test only gets stricter.
        let _ = std::fs::write(self.proc("clear_refs"), "5");
        let before = self.memory("VmRSS");
        work(self.address);
        self.memory("VmHWM") - before
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // The end of its input is its end.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn be_the_node() {
    let limits = Config {
        body_bytes_max: BODY_BYTES,
        invocation_timeout: Duration::from_secs(300),
        guest_cpu_max: Duration::from_secs(100),
        ..config()
    };
    let echo = function("acme", "echo", component("echo"));
    let parts = parts(limits, vec![echo]);
    let node = Node::run(parts);
    println!("{LISTENING}{}", node.address);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

#[test]
fn a_gibibyte_is_echoed_over_http_1_in_bounded_memory() {
    let name = "upload::a_gibibyte_is_echoed_over_http_1_in_bounded_memory";
    let Some(node) = NodeProcess::start(name) else {
        return;
    };
    let extra = node.extra_memory(echo_over_http1);
    assert!(extra < EXTRA_BYTES_MAX, "{} MiB more", extra >> 20);
}

#[test]
fn a_gibibyte_is_echoed_over_http_2_in_bounded_memory() {
    let name = "upload::a_gibibyte_is_echoed_over_http_2_in_bounded_memory";
    let Some(node) = NodeProcess::start(name) else {
        return;
    };
    let extra = node.extra_memory(echo_over_http2);
    assert!(extra < EXTRA_BYTES_MAX, "{} MiB more", extra >> 20);
}

fn echo_over_http1(address: SocketAddr) {
    let stream = TcpStream::connect(address).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let head = format!(
            "POST /f/acme/echo/ HTTP/1.1\r\nhost: t\r\ncontent-length: {BODY_BYTES}\r\n\r\n"
        );
        writer.write_all(head.as_bytes()).unwrap();
        let mut offset = 0;
        while offset < BODY_BYTES {
            writer.write_all(pattern(offset, CHUNK_BYTES)).unwrap();
            offset += CHUNK_BYTES as u64;
        }
    });
    let mut reader = BufReader::with_capacity(CHUNK_BYTES, stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    let (mut offset, mut chunk) = (0, Vec::new());
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        chunk.resize(length + 2, 0);
        reader.read_exact(&mut chunk).unwrap();
        if length == 0 {
            break;
        }
        offset = check(offset, &chunk[..length]);
    }
    sender.join().unwrap();
    assert_eq!(offset, BODY_BYTES);
}

/// The body, made as it is sent.
struct Upload(u64);

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let offset = self.0;
        if offset == BODY_BYTES {
            return Poll::Ready(None);
        }
        self.0 += CHUNK_BYTES as u64;
        let data = Bytes::from_static(pattern(offset, CHUNK_BYTES));
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(BODY_BYTES - self.0)
    }
}

fn echo_over_http2(address: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let offset = runtime.block_on(async {
        let mut client = Client::connect(address).await;
        let request = post("/f/acme/echo/", Upload(0).boxed());
        let mut body = client.send(request).await.into_body();
        let mut offset = 0;
        while let Some(frame) = body.frame().await {
            offset = check(offset, &frame.unwrap().into_data().unwrap());
        }
        offset
    });
    assert_eq!(offset, BODY_BYTES);
}
