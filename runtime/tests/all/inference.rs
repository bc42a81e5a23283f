//! Model calls through the sandbox: right answers, full batches, and a code for every mistake.

use crate::support::{Node, component, config, digits, function, parts, root, simulated};
use serde_json::Value;
use shoal_inference::ModelSource;
use std::collections::BTreeSet;
use std::time::Duration;

fn fixture() -> Value {
    let path = root().join("samples/models/digits/fixture.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_digits_sample_reads_every_image_of_the_fixture() {
    let node = Node::start(config());
    let fixture = fixture();
    let images = fixture["images"].as_array().unwrap();
    for (n, image) in images.iter().enumerate() {
        let body = serde_json::json!({ "image": image }).to_string();
        let reply = node.post("/f/acme/digits/", body.as_bytes());
        assert_eq!(reply.status, 200);
        let answer = reply.json();
        assert_eq!(answer["digit"], fixture["labels"][n]);
        for (confidence, expected) in answer["confidences"]
            .as_array()
            .unwrap()
            .iter()
            .zip(fixture["probabilities"][n].as_array().unwrap())
        {
            let difference = confidence.as_f64().unwrap() - expected.as_f64().unwrap();
            // f32 sums in another order than ONNX Runtime's.
            assert!(difference.abs() < 1e-5, "{confidence} {expected}");
        }
    }
}

#[test]
fn the_digits_sample_reads_a_png() {
    let node = Node::start(config());
    let png = std::fs::read(root().join("samples/models/digits/seven.png")).unwrap();
    let mut client = node.connect();
    let length = png.len();
    client.send(format!("POST /f/acme/digits/ HTTP/1.1\r\nhost: t\r\ncontent-type: image/png\r\ncontent-length: {length}\r\n\r\n").as_bytes());
    client.send(&png);
    assert_eq!(client.reply().json()["digit"], 7);
}

#[test]
fn every_mistake_has_a_code_and_none_is_a_trap() {
    let node = Node::with_probe(config());
    for (path, code) in [
        ("run?model=absent", "not-found"),
        ("run?model=private", "security"),
        ("load-bytes", "unsupported-operation"),
        ("bad-length", "invalid-argument"),
        ("overflow", "invalid-argument"),
        ("rank/0", "invalid-argument"),
        ("rank/9", "invalid-argument"),
        ("rank/100000", "invalid-argument"),
        ("wrong-type", "invalid-argument"),
        ("no-input", "invalid-argument"),
        ("unknown-input", "invalid-argument"),
        ("run?cols=63", "invalid-argument"),
        ("run?rows=0", "invalid-argument"),
        ("run?rows=1025", "too-large"),
        ("run?rows=10000", "too-large"),
    ] {
        let reply = node.get(&format!("/f/acme/probe/nn/{path}"));
        assert_eq!(reply.status, 502, "{path}: {}", reply.text());
        assert_eq!(reply.json()["code"], code, "{path}: {}", reply.text());
    }
    for path in [
        "run",
        "run?rows=64",
        "run?rows=1024",
        "two/5",
        "contexts/100",
    ] {
        let reply = node.get(&format!("/f/acme/probe/nn/{path}"));
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
}

#[test]
fn handles_and_tensors_of_a_guest_are_bounded() {
    let node = Node::with_probe(shoal::Config {
        guest_handles_max: 1_000,
        // Each path makes an input of 64 floats and two dimensions first; the tensors of `tensors` have one byte and one
        // dimension.
        guest_tensor_bytes_max: (256 + 8) + 300 * (1 + 4),
        ..config()
    });
    assert_eq!(node.get("/f/acme/probe/nn/contexts/900").status, 200);
    assert_eq!(node.get("/f/acme/probe/nn/tensors/300").status, 200);
    for path in [
        "nn/contexts/1001",
        "nn/contexts/1000000",
        "nn/tensors/301",
        "nn/tensors/900",
    ] {
        let reply = node.get(&format!("/f/acme/probe/{path}"));
        assert_eq!(reply.status, 500, "{path}: {}", reply.text());
        assert_eq!(reply.error_code(), "function_failed", "{path}");
    }
}

#[test]
fn requests_of_different_tenants_run_in_one_batch() {
    let probe = component("probe");
    let tenants = ["acme", "birch", "cedar"];
    let functions = tenants.map(|tenant| function(tenant, "probe", probe.clone()));
    let mut config = config();
    config.inference.rows_max = 16;
    let mut parts = parts(config, functions.into());
    parts.devices = vec![simulated(Duration::from_secs(1), Duration::ZERO)];
    let node = Node::run(parts);
    // While the first run lasts all others come, and share what follows; in how many runs, the model's own cost says.
    let together: Vec<&str> = std::thread::scope(|scope| {
        let node = &node;
        let asked: Vec<_> = (0..17)
            .map(|n| {
                let tenant = tenants[n % 3];
                let path = format!("/f/{tenant}/probe/nn/run");
                (tenant, scope.spawn(move || node.get(&path)))
            })
            .collect();
        let timings = asked.into_iter().map(|(tenant, reply)| {
            let reply = reply.join().unwrap();
            (tenant, reply.header("server-timing").unwrap().to_owned())
        });
        let alone = "batch;desc=\"1 of 1\", device;dur=1000.000";
        let together = timings.filter(|(_, timing)| !timing.contains(alone));
        together.map(|(tenant, _)| tenant).collect()
    });
    assert!(together.len() > 12, "{together:?}");
    for tenant in tenants {
        assert!(together.contains(&tenant), "{together:?}");
    }
    assert_eq!(node.metric("shoal_batch_rows_sum"), 17.0);
}

#[test]
fn many_pictures_are_read_in_one_request_and_in_many() {
    let functions = ["classify", "fanout"].map(|name| function("acme", name, component(name)));
    let node = Node::run(parts(config(), functions.into()));
    let fixture = fixture();
    let mut pictures = serde_json::json!({ "images": fixture["images"] });
    let body = pictures.to_string();
    let reply = node.post("/f/acme/classify/", body.as_bytes());
    assert_eq!(
        reply.json()["digits"],
        fixture["labels"],
        "{}",
        reply.text()
    );
    // One that is no picture spoils the first, and only its own answer in the second.
    pictures["images"][3] = serde_json::json!([0.5]);
    let body = pictures.to_string();
    let reply = node.post("/f/acme/classify/", body.as_bytes());
    assert_eq!(
        (reply.status, &reply.json()["error"]["param"]),
        (400, &"images".into())
    );
    let reply = node.post("/f/acme/fanout/", body.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answers = reply.json();
    assert_eq!(answers["project"], "acme");
    for (n, label) in fixture["labels"].as_array().unwrap().iter().enumerate() {
        let answer = &answers["answers"][n];
        match n {
            3 => assert!(
                answer["error"]
                    .as_str()
                    .unwrap()
                    .contains("model_invalid_argument")
            ),
            _ => assert_eq!(&answer["digit"], label, "{n}"),
        }
    }
}

#[test]
fn requests_of_one_call_share_a_batch() {
    let mut config = config();
    config.inference.rows_max = 31;
    let mut parts = parts(config, vec![function("acme", "probe", component("probe"))]);
    parts.devices = vec![simulated(Duration::from_millis(1), Duration::ZERO)];
    let node = Node::run(parts);
    let reply = node.get("/f/acme/probe/nn/many/32");
    let outcomes = reply.json()["outputs"].as_array().unwrap().clone();
    assert_eq!(outcomes.len(), 32, "{}", reply.text());
    for (n, outcome) in outcomes.iter().enumerate() {
        let expected = if n == 1 {
            Value::from("invalid-argument")
        } else {
            1.into()
        };
        assert_eq!(*outcome, expected, "{n}");
    }
    // They came together; how large the first batch should be, the model's own cost says.
    assert!(node.metric("shoal_batch_rows_count") <= 8.0);
    assert_eq!(node.metric("shoal_batch_rows_sum"), 31.0);
}

#[test]
fn a_call_has_as_many_requests_as_it_may() {
    let node = Node::with_probe(config());
    for (count, status) in [(0, 200), (256, 200), (257, 502), (900, 502)] {
        let reply = node.get(&format!("/f/acme/probe/nn/many/{count}"));
        assert_eq!(reply.status, status, "{count}: {}", reply.text());
        if status == 502 {
            assert_eq!(reply.json()["code"], "too-large");
        }
    }
}

#[test]
fn a_model_that_cannot_be_loaded_keeps_the_node_from_starting() {
    let source = |onnx: &[u8]| ModelSource {
        name: "broken".to_owned(),
        onnx: onnx.into(),
        tokenizer: None,
        dry_runs: Vec::new(),
    };
    let whole = digits().onnx;
    for bytes in [&b"not onnx"[..], &[], &whole[..whole.len() / 2]] {
        let mut parts = parts(config(), Vec::new());
        parts.seed.models = vec![source(bytes)];
        let why = Node::refused(parts);
        assert!(why.contains("broken"), "{why}");
    }
}

#[test]
fn a_function_has_only_the_models_it_was_granted() {
    let mut denied = function("acme", "probe", component("probe"));
    denied.grants.models = BTreeSet::new();
    let node = Node::run(parts(config(), vec![denied]));
    let reply = node.get("/f/acme/probe/nn/run");
    assert_eq!(
        (reply.status, &reply.json()["code"]),
        (502, &Value::from("security"))
    );
}

#[test]
fn a_guest_that_waits_past_its_deadline_is_answered_then() {
    let mut parts = parts(
        shoal::Config {
            invocation_timeout: Duration::from_millis(400),
            ..config()
        },
        vec![function("acme", "probe", component("probe"))],
    );
    parts.devices = vec![simulated(Duration::from_secs(5), Duration::ZERO)];
    let node = Node::run(parts);
    let reply = node.get("/f/acme/probe/nn/run");
    assert_eq!(
        (reply.status, reply.error_code().as_str()),
        (504, "function_timeout")
    );
}
