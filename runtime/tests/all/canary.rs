//! A version on trial: who gets it, how it becomes live, and how it is taken away when it fails.

use crate::support::{Client, Node, Reply, Served, component, config, parts, served};
use serde_json::Value;
use shoal::Config;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::time::Instant;

const WEB: &str = "/api/v1/projects/acme/functions/web";

/// A node that asks nobody, where `hello` is live as `acme/web`.
fn node(config: Config) -> Node {
    let node = Node::run(parts(config, Vec::new()));
    let made = node.post("/v1/organization/projects", b"{\"name\":\"acme\"}");
    assert_eq!(made.status, 200, "{}", made.text());
    deploy(&node, "", "hello");
    node
}

fn deploy(node: &Node, query: &str, name: &str) -> Value {
    let deployed = node.post(&format!("{WEB}/versions{query}"), &component(name));
    assert_eq!(deployed.status, 200, "{}", deployed.text());
    deployed.json()
}

/// One call from 127.0.x.y.
fn call_from(node: &Node, client: u16, path: &str) -> Reply {
    let [x, y] = client.to_be_bytes();
    connect(
        SocketAddr::from((Ipv4Addr::new(127, 0, x, y), 0)),
        node.address,
    )
    .get(path)
}

fn connect(from: SocketAddr, to: SocketAddr) -> Client {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(from).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    Client::over(stream)
}

/// Those of the clients 2 to 201 that get another answer than `hello`'s.
fn on_trial(node: &Node) -> BTreeSet<u16> {
    (2..=201)
        .filter(|client| call_from(node, *client, "/f/acme/web/").text() != "Hello from Shoal\n")
        .collect()
}

#[test]
fn a_caller_stays_with_one_version_and_a_growing_share_takes_more() {
    let node = node(config());
    let deployed = deploy(&node, "?canary=20", "echo");
    assert_eq!(deployed["live"]["version"], 1);
    assert_eq!(deployed["canary"]["version"]["version"], 2);
    assert_eq!(deployed["canary"]["percent"], 20);
    let few = on_trial(&node);
    // The addresses are fixed, and with them who is drawn; 40 would be the mean.
    assert!((15..=70).contains(&few.len()), "{} of 200", few.len());
    assert_eq!(on_trial(&node), few);
    let seen = seen(&node, |canary| canary["live_calls"] == 100);
    assert_eq!(seen["calls"], (2 * few.len()).min(100));
    assert_eq!(
        (&seen["failed"], &seen["live_failed"]),
        (&Value::from(0), &Value::from(0))
    );

    let promote = |percent: &[u8]| node.post(&format!("{WEB}/promote"), percent).json();
    assert_eq!(promote(b"{\"percent\":60}")["canary"]["percent"], 60);
    let more = on_trial(&node);
    assert!(more.is_superset(&few) && more.len() > few.len());
    assert_eq!(promote(b"{\"percent\":10}")["canary"]["percent"], 10);
    assert!(on_trial(&node).is_subset(&few));

    let live = promote(b"{}");
    assert_eq!(
        (&live["live"]["version"], &live["canary"]),
        (&Value::from(2), &Value::Null)
    );
    assert_eq!(on_trial(&node).len(), 200);
    // Other trials have other callers.
    deploy(&node, "", "hello");
    deploy(&node, "?canary=20", "echo");
    assert_ne!(on_trial(&node), few);
}

#[test]
fn where_a_key_is_asked_for_it_says_who_calls() {
    let folder = tempfile::tempdir().unwrap();
    let node = served(&folder.path().join("data"), &[]);
    let admin = node.admin_key.clone().unwrap();
    let key = node.project(&admin, "acme");
    let keys: Vec<String> = (0..60).map(|n| another_key(&node, &admin, n)).collect();
    let deploy = |query: &str, name| {
        node.ok(
            "POST",
            &format!("{WEB}/versions{query}"),
            &key,
            &component(name),
        )
    };
    deploy("", "hello");
    // What is on trial does not say who may call.
    deploy("?canary=50&public=true", "echo");
    assert_eq!(node.call("/f/acme/web/", None).status, 401);
    let calls = || -> Vec<String> {
        keys.iter()
            .map(|key| node.call("/f/acme/web/", Some(key)).text())
            .collect()
    };
    let first = calls();
    let hellos = first
        .iter()
        .filter(|text| *text == "Hello from Shoal\n")
        .count();
    assert!((10..=50).contains(&hellos), "{hellos} of 60");
    assert_eq!(calls(), first);
    node.stop();
    // Nor does a restart move anybody.
    let node = served(&folder.path().join("data"), &[]);
    let again: Vec<String> = keys
        .iter()
        .map(|key| node.call("/f/acme/web/", Some(key)).text())
        .collect();
    assert_eq!(again, first);
    // As it is, so it becomes.
    node.ok("POST", &format!("{WEB}/promote"), &key, b"{}");
    assert_eq!(node.call("/f/acme/web/", None).status, 200);
}

fn another_key(node: &Served, admin: &str, n: usize) -> String {
    let account = node.ok(
        "POST",
        "/v1/organization/projects/acme/service_accounts",
        admin,
        format!("{{\"name\":\"caller {n}\"}}").as_bytes(),
    );
    account["api_key"]["value"].as_str().unwrap().to_owned()
}

/// Calls a path of `acme/web` from one client after the other until all calls work; the failures it took.
fn call_until_it_is_given_up(node: &Node, path: &str) -> usize {
    let mut failures = 0;
    for round in 0.. {
        assert!(round < 10, "it still gets calls");
        let failed = (2..=201)
            .filter(|client| call_from(node, *client, path).status >= 500)
            .count();
        failures += failed;
        if failed == 0 {
            break;
        }
    }
    failures
}

/// The function, once the trial is over.
fn given_up(node: &Node) -> Value {
    wait_for(node, |shown| shown["canary"].is_null())
}

/// A call is counted when all of it is over, which is a little after its client has the answer.
fn seen(node: &Node, enough: impl Fn(&Value) -> bool) -> Value {
    wait_for(node, |shown| enough(&shown["canary"]))["canary"].clone()
}

fn wait_for(node: &Node, holds: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let shown = node.get(WEB).json();
        if holds(&shown) {
            return shown;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{shown}");
    }
}

#[test]
fn a_canary_that_traps_is_given_up_after_the_sixth_failure() {
    let node = node(config());
    deploy(&node, "?canary=30", "probe");
    // One more may be on its way when the sixth is counted.
    let failures = call_until_it_is_given_up(&node, "/f/acme/web/trap");
    assert!((6..=7).contains(&failures), "{failures}");
    let shown = given_up(&node);
    assert_eq!(shown["live"]["version"], 1);
    let why = &shown["rolled_back"];
    assert_eq!(
        (&why["version"], &why["failed"]),
        (&Value::from(2), &Value::from(6))
    );
    assert_eq!(
        (&why["calls"], &why["live_failed"]),
        (&Value::from(6), &Value::from(0))
    );
    assert!(
        node.get("/metrics")
            .text()
            .contains("shoal_canaries_failed_total 1\n")
    );
    // The next is on its own.
    let deployed = deploy(&node, "?canary=30", "echo");
    assert_eq!(deployed["rolled_back"], Value::Null);
    assert_eq!(deployed["canary"]["version"]["version"], 3);
    assert_eq!(deployed["canary"]["failed"], 0);
}

#[test]
fn as_many_failures_as_the_live_version_has_are_none() {
    let node = node(config());
    deploy(&node, "", "probe");
    // Both fail always. The live one is called first: a canary that has failed six times beside no call of the other is broken.
    deploy(&node, "?canary=1", "probe");
    for client in 2..=21 {
        assert_eq!(call_from(&node, client, "/f/acme/web/trap").status, 500);
    }
    let promoted = node.post(&format!("{WEB}/promote"), b"{\"percent\":50}");
    assert_eq!(promoted.status, 200, "{}", promoted.text());
    for client in 2..=201 {
        assert_eq!(call_from(&node, client, "/f/acme/web/trap").status, 500);
    }
    assert_eq!(node.get(WEB).json()["canary"]["percent"], 50);
}

#[test]
fn what_a_client_does_wrong_is_no_failure_of_a_version() {
    let node = node(Config {
        body_bytes_max: 1_000,
        ..config()
    });
    deploy(&node, "?canary=99", "command");
    let head = "POST /f/acme/web/cat HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n";
    for _ in 0..20 {
        // Over the limit, known too late to be refused; then a chunk that is none; then one that breaks off.
        let large = format!("{head}7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2_000));
        for request in [
            large.as_str(),
            &format!("{head}zzz\r\n"),
            &format!("{head}5\r\nab"),
        ] {
            let mut client = node.connect();
            client.send(request.as_bytes());
            client.stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            let _ = std::io::Read::read_to_end(&mut client.stream, &mut rest);
        }
    }
    assert_eq!(node.get("/f/acme/web/bytes/1").text(), "x");
    let seen = seen(&node, |canary| {
        canary["calls"] != 0 || canary["live_calls"] != 0
    });
    assert_eq!(
        (&seen["failed"], &seen["live_failed"]),
        (&Value::from(0), &Value::from(0))
    );
}

#[test]
fn what_was_never_live_is_not_gone_back_to_and_the_live_one_is_kept() {
    let node = node(Config {
        function_versions_max: 2,
        ..config()
    });
    let rollback = || node.post(&format!("{WEB}/rollback"), b"{}");
    for _ in 0..3 {
        deploy(&node, "?canary=50", "echo");
    }
    let versions = node.get(&format!("{WEB}/versions")).json();
    let numbers: Vec<&Value> = versions["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| &v["version"])
        .collect();
    assert_eq!(numbers, [1, 4]);
    // Its trial is over, and it has not been live.
    assert_eq!(rollback().json()["canary"], Value::Null);
    assert_eq!(rollback().error_code(), "version_not_found");
    deploy(&node, "", "echo");
    assert_eq!(rollback().error_code(), "version_not_found");
    // What was made live by hand has been.
    let live = deploy(&node, "?canary=50", "hello")["canary"]["version"]["version"].clone();
    node.post(&format!("{WEB}/promote"), b"{}");
    deploy(&node, "", "echo");
    assert_eq!(rollback().json()["live"]["version"], live);
}

#[test]
fn the_limits_are_configured() {
    let node = node(Config {
        canary_calls: 10,
        canary_error_points_max: 20,
        ..config()
    });
    deploy(&node, "?canary=50", "probe");
    let failures = call_until_it_is_given_up(&node, "/f/acme/web/status/500");
    assert!((3..=4).contains(&failures), "{failures}");
    assert_eq!(given_up(&node)["rolled_back"]["failed"], 3);
}

#[test]
fn a_trial_ends_with_a_deploy_or_a_rollback() {
    let node = node(config());
    deploy(&node, "?canary=50", "echo");
    let ended = node.post(&format!("{WEB}/rollback"), b"{}").json();
    assert_eq!(
        (&ended["live"]["version"], &ended["canary"]),
        (&Value::from(1), &Value::Null)
    );
    deploy(&node, "?canary=50", "echo");
    let replaced = deploy(&node, "?canary=10", "echo");
    assert_eq!(replaced["canary"]["version"]["version"], 4);
    let live = deploy(&node, "", "echo");
    assert_eq!(
        (&live["live"]["version"], &live["canary"]),
        (&Value::from(5), &Value::Null)
    );
    deploy(&node, "?canary=50", "echo");
    let older = node
        .post(&format!("{WEB}/rollback"), b"{\"version\":2}")
        .json();
    assert_eq!(
        (&older["live"]["version"], &older["canary"]),
        (&Value::from(2), &Value::Null)
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let node = node(config());
    let refused = |path: &str, body: &[u8], status, code: &str| {
        let reply = node.post(path, body);
        assert_eq!(
            (reply.status, &*reply.error_code()),
            (status, code),
            "{path}"
        );
        reply.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let hello = component("hello");
    for percent in ["0", "100", "255"] {
        let path = format!("{WEB}/versions?canary={percent}");
        let why = refused(&path, &hello, 400, "invalid_value");
        assert_eq!(why, "canary: must be 1 to 99 percent of the calls");
    }
    refused(
        &format!("{WEB}/versions?canary=256"),
        &hello,
        400,
        "invalid_value",
    );
    let why = refused(
        "/api/v1/projects/acme/functions/new/versions?canary=10",
        &hello,
        400,
        "canary_alone",
    );
    assert_eq!(
        why,
        "canary: function has no live version that it could run beside: deploy without it"
    );
    refused(&format!("{WEB}/promote"), b"{}", 404, "canary_not_found");
    deploy(&node, "?canary=1", "hello");
    for percent in [0, 101] {
        let body = format!("{{\"percent\":{percent}}}");
        let why = refused(
            &format!("{WEB}/promote"),
            body.as_bytes(),
            400,
            "invalid_value",
        );
        assert_eq!(why, "percent: must be 1 to 100 percent of the calls");
    }
}
