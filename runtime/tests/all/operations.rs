//! What an operator sees.

use crate::support::{Node, component, config, function, parts, simulated};
use std::time::Duration;

#[test]
fn a_node_says_that_it_lives_and_is_ready() {
    let node = Node::start(config());
    for path in ["/healthz", "/readyz"] {
        assert_eq!(node.get(path).status, 200);
        let reply = node.post(path, b"");
        assert_eq!(
            (reply.status, reply.error_code().as_str()),
            (405, "method_not_allowed")
        );
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    }
}

#[test]
fn a_node_whose_device_is_gone_is_not_ready() {
    use shoal_inference::{Compute, Fault, SimConfig, SimDevice};
    let mut parts = parts(
        config(),
        vec![function("acme", "probe", component("probe"))],
    );
    let device = SimDevice::new(SimConfig {
        name: "dying".to_owned(),
        launch: Duration::from_millis(1),
        per_row: Duration::ZERO,
        depth: 2,
        memory_bytes: None,
        compute: Compute::Onnx,
        faults: vec![Fault::DieRun(1)],
    });
    parts.devices = vec![device.into()];
    let node = Node::run(parts);
    assert_eq!(node.get("/readyz").status, 200);
    let reply = node.get("/f/acme/probe/nn/run");
    assert_eq!(reply.json()["code"], "runtime-error");
    let reply = node.get("/readyz");
    assert_eq!(
        (reply.status, reply.error_code().as_str()),
        (503, "node_not_ready")
    );
    assert_eq!(node.get("/healthz").status, 200);
}

#[test]
fn the_metrics_have_their_names() {
    let mut parts = parts(
        config(),
        vec![function("acme", "probe", component("probe"))],
    );
    parts.devices = vec![simulated(Duration::from_millis(1), Duration::ZERO)];
    let node = Node::run(parts);
    assert_eq!(node.get("/f/acme/probe/nn/run?rows=3").status, 200);
    assert_eq!(node.get("/f/acme/probe/trap").status, 500);
    let reply = node.get("/metrics");
    assert!(
        reply
            .header("content-type")
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let page = reply.text();
    for line in [
        "shoal_http_requests_total{route=\"function\",code=\"200\"} 1",
        "shoal_http_requests_total{route=\"function\",code=\"500\"} 1",
        "shoal_invocation_duration_seconds_count 2",
        "shoal_guest_cpu_seconds_total ",
        "shoal_guests_live 0",
        "shoal_compile_duration_seconds_count 1",
        "shoal_inference_queue_seconds_count 1",
        "shoal_inference_queue_rows 0",
        "shoal_batch_rows_sum 3",
        "shoal_batch_rows_count 1",
        "shoal_device_busy_seconds_total 0.001",
        "shoal_process_resident_memory_bytes ",
        "# EOF",
    ] {
        assert!(page.contains(line), "no {line:?} in\n{page}");
    }
}
