//! What a project may use of the node's devices: set by the operator, kept, and held to; and the classes its functions may ask
//! for.

use crate::support::{Node, component, config, function, parts, served, simulated};
use serde_json::{Value, json};
use shoal_inference::Class;
use std::time::Duration;

const LIMITS: &str = "/api/v1/projects/acme/limits";

/// As for all.
fn defaults() -> Value {
    json!({
        "weight": 1,
        "priority": false,
        "rows_max": 4096,
        "bytes_max": 268_435_456,
        "requests_max": 2048,
        "own": [],
    })
}

#[test]
fn an_operator_sets_what_a_project_may_use_and_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = served(&data, &[]);
    let admin = node.admin_key.clone().unwrap();
    let key = node.project(&admin, "acme");
    let other = node.project(&admin, "birch");
    assert_eq!(node.ok("GET", LIMITS, &key, b""), defaults());
    assert_eq!(node.api("GET", LIMITS, &other, b"").status, 404);
    let refused = node.api("PUT", LIMITS, &key, b"{\"weight\":1000}");
    assert_eq!(refused.status, 403, "{}", refused.text());

    let set = node.ok("PUT", LIMITS, &admin, b"{\"weight\":3,\"rows_max\":100}");
    let mut expected = defaults();
    expected["weight"] = 3.into();
    expected["rows_max"] = 100.into();
    expected["own"] = json!(["weight", "rows_max"]);
    assert_eq!(set, expected);
    node.add_digits(&admin);
    let deploy = "/api/v1/projects/acme/functions/probe/versions?models=digits&public=true";
    node.ok("POST", deploy, &key, &component("probe"));
    node.kill();

    let node = served(&data, &[]);
    assert_eq!(node.ok("GET", LIMITS, &key, b""), expected);
    let run = |rows: u32| node.call(&format!("/f/acme/probe/nn/run?rows={rows}"), None);
    assert_eq!(run(100).status, 200);
    assert_eq!(run(101).json()["code"], "too-large");
    // The command line leaves what it is not given.
    let shown = node.shoal(&admin, &["limits", "acme", "--priority", "true"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(
        shown,
        "weight: 3\npriority: true\nrows_max: 100\nbytes_max: 268435456 (as for all)\nrequests_max: 2048 (as for all)\n"
    );
    let reset = node.shoal(&admin, &["limits", "acme", "--reset", "--json"]);
    let reset: Value = serde_json::from_slice(&reset.stdout).unwrap();
    assert_eq!(reset, defaults());
}

#[test]
fn a_limit_out_of_its_range_is_named() {
    let node = Node::run(parts(config(), Vec::new()));
    node.post("/v1/organization/projects", b"{\"name\":\"acme\"}");
    for (body, param, words) in [
        ("{\"weight\":1001}", "weight", "weight must be 0 to 1000"),
        (
            "{\"rows_max\":0}",
            "rows_max",
            "rows_max must be 1 to 1099511627776",
        ),
        (
            "{\"bytes_max\":1099511627777}",
            "bytes_max",
            "bytes_max must be 1 to 1099511627776",
        ),
        (
            "{\"requests_max\":0}",
            "requests_max",
            "requests_max must be 1 to 1099511627776",
        ),
    ] {
        let reply = node.connect().request("PUT", LIMITS, None, body.as_bytes());
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["param"]), (400, &param.into()));
        assert_eq!(error["message"], words);
    }
    for body in [
        "{\"weight\":0}",
        "{\"weight\":1000}",
        "{\"rows_max\":1}",
        "{}",
    ] {
        let reply = node.connect().request("PUT", LIMITS, None, body.as_bytes());
        assert_eq!(reply.status, 200, "{body}: {}", reply.text());
    }
    for body in ["{\"heft\":1}", "{\"weight\":-1}", "[]"] {
        let reply = node.connect().request("PUT", LIMITS, None, body.as_bytes());
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
    }
}

#[test]
fn what_a_project_may_queue_is_held_to_at_once() {
    let functions = ["acme", "birch"].map(|project| function(project, "probe", component("probe")));
    let node = Node::run(parts(config(), functions.into()));
    let set = node
        .connect()
        .request("PUT", LIMITS, None, b"{\"rows_max\":2}");
    assert_eq!(set.status, 200, "{}", set.text());
    assert_eq!(node.get("/f/acme/probe/nn/run?rows=2").status, 200);
    let refused = node.get("/f/acme/probe/nn/run?rows=3");
    assert_eq!(refused.json()["code"], "too-large", "{}", refused.text());
    assert_eq!(node.get("/f/birch/probe/nn/run?rows=3").status, 200);
    let refused = node.metric("shoal_inference_refused_total{limit=\"tenant_rows_max\"}");
    assert_eq!(refused, 1.0);
}

#[test]
fn priority_is_a_right_and_flex_is_everybodys() {
    let folder = tempfile::tempdir().unwrap();
    let node = served(&folder.path().join("data"), &[]);
    let admin = node.admin_key.clone().unwrap();
    let key = node.project(&admin, "acme");
    let deploy = |class: &str| {
        let path = format!("/api/v1/projects/acme/functions/hello/versions?class={class}");
        node.api("POST", &path, &key, &component("hello"))
    };
    let refused = deploy("priority");
    assert_eq!(
        (refused.status, refused.error_code().as_str()),
        (403, "no_priority")
    );
    assert_eq!(refused.json()["error"]["param"], "class");
    assert_eq!(deploy("urgent").status, 400);
    node.ok("PUT", LIMITS, &admin, b"{\"priority\":true}");
    for class in ["priority", "flex", "default"] {
        let deployed = deploy(class);
        assert_eq!(deployed.status, 200, "{}", deployed.text());
        assert_eq!(deployed.json()["live"]["class"], class);
    }
}

#[test]
fn flex_on_a_device_gives_way_to_another_function_and_is_answered_after_it() {
    let mut functions =
        ["acme", "birch", "cedar"].map(|project| function(project, "probe", component("probe")));
    functions[1].grants.class = Class::Flex;
    let mut config = config();
    config.inference.rows_max = 1;
    let mut parts = parts(config, functions.into());
    parts.devices = vec![simulated(Duration::from_secs(1), Duration::ZERO)];
    let node = Node::run(parts);
    let answered = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        // One runs, the flex one is behind it on the device, and then the third comes.
        for (before, project) in [(0.0, "acme"), (1.0, "birch"), (2.0, "cedar")] {
            // Each reading takes a guest's way to the device, and longer.
            for _ in 0..5 {
                while node.metric("shoal_guests_live") != before {}
            }
            let (node, answered) = (&node, &answered);
            scope.spawn(move || {
                let reply = node.get(&format!("/f/{project}/probe/nn/run"));
                assert_eq!(reply.status, 200, "{project}: {}", reply.text());
                answered.lock().unwrap().push(project);
            });
        }
    });
    assert_eq!(*answered.lock().unwrap(), ["acme", "cedar", "birch"]);
    assert_eq!(node.metric("shoal_inference_preempted_total"), 1.0);
}
