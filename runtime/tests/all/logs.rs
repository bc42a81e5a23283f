//! What functions write, and who can read it.

use crate::support::{Node, PATIENCE, Reply, component, components, config, function, parts, put};
use shoal::Config;
use shoal::sandbox::{LogRing, Registry, Source, Tenant};
use shoal_host::logging::Level;
use shoal_inference::TenantId;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Two tenants, each with a function of the same name.
fn two_tenants(config: Config) -> Node {
    let functions = ["acme", "birch"].map(|project| function(project, "probe", component("probe")));
    Node::run(parts(config, functions.into()))
}

/// Has the probe of `acme` write `body` to `to`, as in `stdout/1`.
fn write(node: &Node, to: &str, body: &[u8]) -> Reply {
    node.post(&format!("/f/acme/probe/logs/{to}"), body)
}

fn texts(log: &LogRing) -> Vec<String> {
    let lines = log.after(0);
    lines.iter().map(|line| line.text.to_string()).collect()
}

#[test]
fn every_line_says_when_where_and_in_which_request_it_was_written() {
    let node = two_tenants(config());
    let log = node.log("acme/probe");
    assert!(log.after(0).is_empty());
    let began = unix_ms();
    let replies = [1, 2].map(|_| write(&node, "all/1", b""));
    let ended = unix_ms();
    let levels = [
        Level::Trace,
        Level::Debug,
        Level::Info,
        Level::Warn,
        Level::Error,
        Level::Critical,
    ];
    let lines = log.after(0);
    assert_eq!(lines.len(), 16);
    for (reply, lines) in replies.iter().zip(lines.chunks(8)) {
        for line in lines {
            assert_eq!(Some(&*line.origin.request_id), reply.header("x-request-id"));
            let wasm = component("probe");
            assert_eq!(line.origin.component.0, *blake3::hash(&wasm).as_bytes());
            assert!((began..=ended).contains(&line.unix_ms));
        }
        assert_eq!(
            (&lines[0].source, &*lines[0].text),
            (&Source::Stdout, "to stdout")
        );
        assert_eq!(
            (&lines[1].source, &*lines[1].text),
            (&Source::Stderr, "to stderr")
        );
        for (line, level) in lines[2..].iter().zip(levels) {
            let context = "probe".into();
            assert_eq!(line.source, Source::Log { level, context });
            assert_eq!(&*line.text, level.name());
        }
    }
    assert!(lines.iter().map(|line| line.seq).eq(1..=16));
    assert_eq!(node.metric("shoal_function_log_lines_total"), 16.0);
    assert_eq!(node.metric("shoal_function_log_lines_lost_total"), 0.0);
}

#[allow(clippy::disallowed_methods, reason = "compared with the node's own")]
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as u64
}

#[test]
fn two_tenants_with_equal_names_never_see_each_others_lines() {
    let node = two_tenants(config());
    std::thread::scope(|scope| {
        for tenant in ["acme", "birch"] {
            let node = &node;
            scope.spawn(move || {
                let mut client = node.connect();
                for to in ["stdout/50", "stderr/50", "info/50"] {
                    client.send(
                        format!("POST /f/{tenant}/probe/logs/{to} HTTP/1.1\r\nhost: t\r\ncontent-length: 6\r\n\r\n{tenant:5}\n")
                            .as_bytes(),
                    );
                    assert_eq!(client.reply().status, 200);
                }
            });
        }
    });
    for tenant in ["acme", "birch"] {
        let texts = texts(&node.log(&format!("{tenant}/probe")));
        assert_eq!(texts.len(), 150);
        assert!(
            texts.iter().all(|text| text.starts_with(tenant)),
            "{texts:?}"
        );
    }
}

#[test]
fn a_line_is_what_stands_before_a_newline_however_it_was_written() {
    let node = two_tenants(config());
    let log = node.log("acme/probe");
    for (to, body, expected) in [
        ("stdout/1", &b"one\ntwo\n"[..], vec!["one", "two"]),
        ("stdout/3", b"piece ", vec!["piece piece piece "]),
        ("stderr/2", b"a\nb", vec!["a", "ba", "b"]),
        ("stdout/1", b"\n\nno more", vec!["", "", "no more"]),
        (
            "stdout/1",
            b"\x1b[2J\x1b]0;t\x07\0\xff\r\n",
            vec!["\\u{1b}[2J\\u{1b}]0;t\\u{7}\\u{0}�\\r"],
        ),
        ("warn/1", b"two\nlines\x1b", vec!["two\\nlines\\u{1b}"]),
        ("error/2", b"", vec!["", ""]),
        ("stdout/1", b"", vec![]),
    ] {
        let seen = log.after(0).len();
        assert_eq!(write(&node, to, body).status, 200);
        assert_eq!(texts(&log)[seen..], expected, "{to}");
    }
}

#[test]
fn a_line_may_have_as_many_bytes_as_the_limit() {
    let node = two_tenants(Config {
        log_line_bytes_max: 3_000,
        function_log_bytes_max: 100_000,
        ..config()
    });
    let log = node.log("acme/probe");
    for to in ["stdout/1", "stderr/1", "info/1"] {
        for length in [3_000, 3_001, 500_000] {
            let seen = log.after(0).last().map_or(0, |line| line.seq);
            assert_eq!(write(&node, to, &vec![b'x'; length]).status, 200);
            let lines = log.after(seen);
            let mark = if length > 3_000 { "…" } else { "" };
            assert_eq!(lines.len(), 1);
            assert_eq!(*lines[0].text, *format!("{}{mark}", "x".repeat(3_000)));
        }
    }
}

#[test]
fn a_flood_keeps_the_newest_lines_and_says_how_many_it_lost() {
    let node = two_tenants(config());
    let log = node.log("acme/probe");
    assert_eq!(write(&node, "stdout/100000", b"wave\n").status, 200);
    assert_eq!(write(&node, "stdout/1", b"the last").status, 200);
    let lines = log.after(0);
    assert!(lines.len() > 200, "{}", lines.len());
    assert!(
        lines
            .iter()
            .map(|line| line.seq)
            .rev()
            .eq((1..=100_001).rev().take(lines.len()))
    );
    assert_eq!(&*lines[lines.len() - 1].text, "the last");
    let lost = 100_001 - lines.len();
    assert_eq!(node.metric("shoal_function_log_lines_total"), 100_001.0);
    assert_eq!(
        node.metric("shoal_function_log_lines_lost_total"),
        lost as f64
    );
}

#[test]
fn the_last_words_of_a_guest_that_was_stopped_are_kept() {
    let node = two_tenants(Config {
        invocation_timeout: Duration::from_millis(300),
        ..config()
    });
    let log = node.log("acme/probe");
    for (to, status) in [("stdout/1?then=trap", 500), ("stderr/1?then=park", 504)] {
        assert_eq!(
            write(&node, to, format!("last words of {to}").as_bytes()).status,
            status
        );
        assert_eq!(*texts(&log).last().unwrap(), format!("last words of {to}"));
    }
    assert_eq!(node.get("/f/acme/probe/panic").status, 500);
    let said = "the probe was asked to panic".to_owned();
    assert!(texts(&log).contains(&said), "{:?}", texts(&log));
}

#[tokio::test]
async fn a_follower_wakes_up_for_a_line_of_a_guest_that_still_runs() {
    let node = two_tenants(config());
    let mut follower = node.log("acme/probe").follow(0);
    let mut client = node.connect();
    client.send(b"POST /f/acme/probe/logs/stdout/1?then=park HTTP/1.1\r\nhost: t\r\ncontent-length: 6\r\n\r\nalive\n");
    let lines = tokio::time::timeout(PATIENCE, follower.next()).await;
    let lines = lines.unwrap().unwrap();
    assert_eq!((lines.len(), &*lines[0].text), (1, "alive"));
}

#[tokio::test]
async fn a_log_outlives_a_version_and_ends_with_its_function() {
    let directory = tempfile::tempdir().unwrap();
    let components = components(&config(), directory.path());
    let registry = Registry::new(components.sandbox(), &config());
    let tenant = Tenant::new(TenantId(1));
    let mut logs = Vec::new();
    for version in ["hello", "echo"] {
        put(&registry, &components, &tenant, "web", component(version)).await;
        logs.push(registry.get("acme/web").unwrap().log.clone());
    }
    assert!(Arc::ptr_eq(&logs[0], &logs[1]));
    let mut follower = logs[0].follow(0);
    logs.clear();
    // The last that knows the function.
    drop(registry);
    assert!(follower.next().await.is_none());
}
