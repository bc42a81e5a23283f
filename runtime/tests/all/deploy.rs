//! The admin API: what it does, and what it refuses and how. The node asks nobody and keeps nothing, so that these are fast.

use crate::support::{Node, Reply, component, config, digits, parts};
use serde_json::Value;
use shoal::Config;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const FUNCTIONS: &str = "/api/v1/projects/acme/functions";

fn node(config: Config) -> Node {
    let node = Node::run(parts(config, Vec::new()));
    let made = node.post("/v1/organization/projects", b"{\"name\":\"acme\"}");
    assert_eq!(made.status, 200, "{}", made.text());
    node
}

fn deploy(node: &Node, function: &str, query: &str, wasm: &[u8]) -> Reply {
    node.post(&format!("{FUNCTIONS}/{function}/versions{query}"), wasm)
}

fn ask(node: &Node, method: &str, path: &str, body: &[u8]) -> Reply {
    node.connect().request(method, path, None, body)
}

fn refused(reply: &Reply, status: u16, code: &str, words: &str) {
    assert_eq!((reply.status, reply.error_code().as_str()), (status, code));
    let message = reply.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains(words), "{message}");
}

#[test]
fn a_component_that_cannot_run_is_refused_and_the_live_version_stays() {
    let node = node(Config {
        component_bytes_max: 400_000,
        ..config()
    });
    let hello = component("hello");
    assert_eq!(deploy(&node, "hello", "", &hello).status, 200);
    let core = b"\0asm\x01\0\0\0";
    let torn = &hello[..hello.len() / 2];
    let empty_component = b"\0asm\x0d\0\x01\0";
    let mut large = hello.to_vec();
    large.resize(400_001, 0);
    for (wasm, status, code, words) in [
        (
            &b""[..],
            400,
            "not_a_component",
            "not a WebAssembly component",
        ),
        (
            b"not wasm",
            400,
            "not_a_component",
            "not a WebAssembly component",
        ),
        (
            core,
            400,
            "component_contract",
            "must export the function _start",
        ),
        (torn, 400, "invalid_component", "does not compile"),
        (
            empty_component,
            400,
            "component_contract",
            "wasi:http/incoming-handler",
        ),
        (
            &large,
            413,
            "body_too_large",
            "400000 bytes (component_bytes_max)",
        ),
    ] {
        refused(&deploy(&node, "hello", "", wasm), status, code, words);
    }
    refused(
        &deploy(&node, "hello", "?models=digits,absent", &hello),
        400,
        "model_not_found",
        "models: no model \"absent\"",
    );
    assert_eq!(node.get("/f/acme/hello/").text(), "Hello from Shoal\n");
    let versions = node.get(&format!("{FUNCTIONS}/hello/versions")).json();
    assert_eq!(versions["data"].as_array().unwrap().len(), 1);
}

#[test]
fn names_and_parameters_are_checked() {
    let node = node(config());
    let hello = component("hello");
    let long = "a".repeat(64);
    for name in [
        "Hello",
        "-hello",
        "hello-",
        "he_llo",
        "h%C3%A9llo",
        "a.b",
        &long,
    ] {
        refused(
            &deploy(&node, name, "", &hello),
            400,
            "invalid_name",
            "1 to 63 of a-z, 0-9 and -",
        );
    }
    for name in ["a", "0", "a-b", &long[1..]] {
        assert_eq!(deploy(&node, name, "", &hello).status, 200, "{name}");
    }
    refused(
        &deploy(&node, "a", "?publc=true", &hello),
        400,
        "invalid_value",
        "publc",
    );
    refused(
        &deploy(&node, "a", "?public=maybe", &hello),
        400,
        "invalid_value",
        "`true` or `false`",
    );
    let projects = "/v1/organization/projects";
    for (body, code, words) in [
        (
            &b"{\"name\":\"Acme\"}"[..],
            "invalid_name",
            "project \"Acme\"",
        ),
        (b"{\"name\":7}", "invalid_value", "expected a string"),
        (
            b"{\"name\":\"a\",\"residency\":\"eu\"}",
            "invalid_value",
            "residency",
        ),
        (b"{}", "invalid_value", "name"),
        (b"{\"name\":", "invalid_value", "body"),
    ] {
        refused(&node.post(projects, body), 400, code, words);
    }
    refused(
        &node.post(projects, b"{\"name\":\"acme\"}"),
        409,
        "already_exists",
        "acme",
    );
}

#[test]
fn what_is_not_there_is_404_and_what_cannot_be_done_405() {
    let node = node(config());
    for (method, path, status, code) in [
        (
            "GET",
            "/api/v1/projects/absent/functions",
            404,
            "project_not_found",
        ),
        (
            "GET",
            "/api/v1/projects/acme/functions/absent",
            404,
            "function_not_found",
        ),
        (
            "DELETE",
            "/api/v1/projects/acme/functions/absent",
            404,
            "function_not_found",
        ),
        (
            "POST",
            "/api/v1/projects/acme/functions/absent/rollback",
            404,
            "function_not_found",
        ),
        (
            "GET",
            "/api/v1/projects/acme/functions/absent/logs",
            404,
            "function_not_found",
        ),
        ("GET", "/api/v1/models/absent", 404, "model_not_found"),
        ("GET", "/api/v1/absent", 404, "unknown_path"),
        ("PATCH", "/api/v1/models", 405, "method_not_allowed"),
    ] {
        let body: &[u8] = if method == "POST" { b"{}" } else { b"" };
        let reply = ask(&node, method, path, body);
        assert_eq!(
            (reply.status, reply.error_code().as_str()),
            (status, code),
            "{method} {path}"
        );
    }
}

#[test]
fn limits_hold_at_their_value() {
    let node = node(Config {
        tenant_functions_max: 2,
        function_versions_max: 2,
        projects_max: 2,
        ..config()
    });
    let hello = component("hello");
    for name in ["one", "two"] {
        assert_eq!(deploy(&node, name, "", &hello).status, 200);
    }
    refused(
        &deploy(&node, "three", "", &hello),
        403,
        "limit_reached",
        "2 functions in this project",
    );
    for version in 2..=5 {
        let deployed = deploy(&node, "one", "", &hello).json();
        assert_eq!(deployed["live"]["version"], version);
    }
    let versions = node.get(&format!("{FUNCTIONS}/one/versions")).json();
    let numbers: Vec<&Value> = versions["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| &v["version"])
        .collect();
    assert_eq!(numbers, [4, 5]);
    let gone = node.post(&format!("{FUNCTIONS}/one/rollback"), b"{\"version\":3}");
    assert_eq!(gone.error_code(), "version_not_found");
    assert_eq!(
        node.post("/v1/organization/projects", b"{\"name\":\"birch\"}")
            .status,
        200
    );
    let third = node.post("/v1/organization/projects", b"{\"name\":\"cedar\"}");
    refused(
        &third,
        403,
        "limit_reached",
        "2 projects already, the most there may be (projects_max)",
    );
    // One that is deleted makes room.
    assert_eq!(
        ask(&node, "DELETE", &format!("{FUNCTIONS}/two"), b"").status,
        200
    );
    assert_eq!(deploy(&node, "three", "", &hello).status, 200);
}

#[test]
fn a_redeploy_under_load_loses_nothing_and_mixes_nothing() {
    let node = Arc::new(node(config()));
    let (hello, echo) = (component("hello"), component("echo"));
    assert_eq!(deploy(&node, "f", "", &hello).status, 200);
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (node, over) = (node.clone(), over.clone());
            std::thread::spawn(move || {
                let mut client = node.connect();
                let mut calls = 0;
                while !over.load(Ordering::Relaxed) {
                    let reply = client.get("/f/acme/f/path");
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    // `echo` says which path it saw and has no body; `hello` has a body and says nothing.
                    let is_echo =
                        reply.header("x-echo-path") == Some("/path") && reply.body.is_empty();
                    let is_hello = reply.header("x-echo-path").is_none()
                        && reply.text() == "Hello from Shoal\n";
                    assert!(is_echo != is_hello, "{reply:?}");
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    for round in 0..20 {
        let wasm = if round % 2 == 0 { &echo } else { &hello };
        assert_eq!(deploy(&node, "f", "", wasm).status, 200);
        // It is live when the deploy is answered.
        let is_echo = node.get("/f/acme/f/").header("x-echo-path").is_some();
        assert_eq!(is_echo, round % 2 == 0);
    }
    over.store(true, Ordering::Relaxed);
    let calls: usize = callers
        .into_iter()
        .map(|caller| caller.join().unwrap())
        .sum();
    assert!(calls > 100, "{calls}");
}

#[test]
fn a_deleted_function_is_gone_and_its_last_call_is_answered() {
    let node = node(config());
    assert_eq!(deploy(&node, "probe", "", &component("probe")).status, 200);
    let mut slow = node.connect();
    slow.send(b"GET /f/acme/probe/sleep/300 HTTP/1.1\r\nhost: t\r\n\r\n");
    while node.metric("shoal_guests_live") < 1.0 {}
    assert_eq!(
        ask(&node, "DELETE", &format!("{FUNCTIONS}/probe"), b"").status,
        200
    );
    assert_eq!(
        node.get("/f/acme/probe/").error_code(),
        "function_not_found"
    );
    assert_eq!(slow.reply().status, 200);
    // Its name is free, and its numbers begin again.
    assert_eq!(
        deploy(&node, "probe", "", &component("probe")).json()["live"]["version"],
        1
    );
}

#[test]
fn a_model_is_added_granted_kept_while_it_is_used_and_removed() {
    let node = node(config());
    let put = |name: &str, onnx: &[u8]| ask(&node, "PUT", &format!("/api/v1/models/{name}"), onnx);
    let onnx = digits().onnx;
    let added = put("mine", &onnx);
    assert_eq!(added.status, 200, "{}", added.text());
    assert_eq!(
        added.json()["inputs"][0]["dims"],
        serde_json::json!([null, 64])
    );
    assert_eq!(
        put("mine", &onnx).json(),
        added.json(),
        "the same file again changes nothing"
    );
    refused(&put("mine", b"another"), 400, "invalid_model", "");
    for torn in [&onnx[..onnx.len() / 2], b"", b"onnx"] {
        refused(&put("torn", torn), 400, "invalid_model", "");
    }
    let probe = component("probe");
    assert_eq!(deploy(&node, "probe", "?models=mine", &probe).status, 200);
    let run = |model: &str| node.get(&format!("/f/acme/probe/nn/run?model={model}"));
    assert_eq!(run("mine").status, 200, "{}", run("mine").text());
    assert_eq!(run("digits").json()["code"], "security", "not granted");
    assert_eq!(run("absent").json()["code"], "not-found");
    let remove = || ask(&node, "DELETE", "/api/v1/models/mine", b"");
    refused(&remove(), 409, "model_in_use", "acme/probe");
    assert_eq!(deploy(&node, "probe", "", &probe).status, 200);
    assert_eq!(remove().status, 200);
    assert_eq!(run("mine").json()["code"], "not-found");
    refused(&remove(), 404, "model_not_found", "");
}

#[test]
fn lists_come_in_pages() {
    let node = node(config());
    for n in 0..25 {
        let body = format!("{{\"name\":\"p{n:02}\"}}");
        assert_eq!(
            node.post("/v1/organization/projects", body.as_bytes())
                .status,
            200
        );
    }
    let page = |query: &str| {
        node.get(&format!("/v1/organization/projects?{query}"))
            .json()
    };
    let first = page("");
    assert_eq!(
        (first["data"].as_array().unwrap().len(), &first["has_more"]),
        (20, &Value::Bool(true))
    );
    let after = format!("after={}", first["last_id"].as_str().unwrap());
    let second = page(&after);
    assert_eq!(
        (
            second["data"].as_array().unwrap().len(),
            &second["has_more"]
        ),
        (6, &Value::Bool(false))
    );
    let wrong = node.get("/v1/organization/projects?limit=101");
    refused(
        &wrong,
        400,
        "invalid_value",
        "limit: must be 1 to 100, got 101",
    );
}

#[test]
fn the_api_describes_itself() {
    let node = node(config());
    let description = node.get("/api/v1/openapi.json").json();
    assert_eq!(
        description["openapi"].as_str().map(|v| v.starts_with("3.")),
        Some(true)
    );
    let paths = description["paths"].as_object().unwrap();
    assert!(paths.contains_key("/api/v1/projects/{project}/functions/{name}/versions"));
    assert!(paths.contains_key("/v1/organization/projects"));
}

#[test]
fn the_hosts_of_a_function_are_checked_and_shown() {
    let node = node(Config {
        function_egress_hosts_max: 2,
        ..config()
    });
    let hello = component("hello");
    for (egress, code, words) in [
        ("https://example.com", "invalid_value", "without a scheme"),
        ("*", "invalid_value", "must be a host like"),
        ("127.1", "invalid_value", "must be a host like"),
        (
            "a.com,b.com,c.com",
            "egress_limit",
            "function_egress_hosts_max",
        ),
    ] {
        let reply = deploy(&node, "hello", &format!("?egress={egress}"), &hello);
        refused(&reply, 400, code, words);
        assert_eq!(reply.json()["error"]["param"], "egress");
    }
    let reply = deploy(&node, "hello", "?egress=B.com:81,*.a.com", &hello);
    let live = &reply.json()["live"];
    assert_eq!(live["egress"], serde_json::json!(["*.a.com", "b.com:81"]));
}
