//! The binary as a person calls it.

use serde_json::Value;
use std::process::{Command, Output};

fn shoal(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shoal"))
        .args(arguments)
        .output()
        .unwrap()
}

fn last_line(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["demo", "--requests", "1"],
        &["demo", "--listen", "x"],
    ] {
        assert_eq!(shoal(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn the_demo_listens_on_loopback_only() {
    let output = shoal(&["demo", "--once", "--listen", "0.0.0.0:0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("loopback"));
}

#[test]
fn the_demo_shows_what_batching_is_worth() {
    let output = shoal(&[
        "demo",
        "--once",
        "--json",
        "--requests",
        "300",
        "--listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let figures = last_line(&output);
    assert_eq!(figures["errors"], 0);
    assert_eq!(figures["requests"], 1200);
    assert_eq!(figures["tenants"], 3);
    let simulated = &figures["simulated"];
    let figure = |name: &str| simulated[name].as_f64().unwrap();
    assert!(figure("rows_mean") > 4.0, "{figures}");
    assert!(figure("rps") > 3.0 * figure("unbatched_rps"), "{figures}");
    // Alone, a row costs the whole launch: exactly, since the device is simulated.
    assert_eq!(figure("unbatched_device_us_per_row"), 2020.0);
    assert!(figures["cpu"]["rps"].as_f64().unwrap() > 0.0);
}

#[test]
fn without_address_space_for_the_pool_the_demo_runs_on_demand_and_says_so() {
    let binary = env!("CARGO_BIN_EXE_shoal");
    let command = format!(
        "ulimit -v 6000000; exec '{binary}' demo --once --json --requests 100 --listen 127.0.0.1:0"
    );
    let output = Command::new("/bin/sh")
        .args(["-c", &command])
        .output()
        .unwrap();
    let progress = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{progress}");
    assert_eq!(progress.matches("on demand").count(), 1, "{progress}");
    assert_eq!(last_line(&output)["errors"], 0);
}

#[test]
fn each_invocation_is_one_log_line_without_its_payload() {
    let output = Command::new(env!("CARGO_BIN_EXE_shoal"))
        .args([
            "demo",
            "--once",
            "--json",
            "--requests",
            "100",
            "--listen",
            "127.0.0.1:0",
        ])
        .env("SHOAL_LOG", "info")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!log.contains("confidences") && !log.contains("\"image\""));
    let lines: Vec<Value> = log
        .lines()
        .filter(|line| line.contains("shoal::invocation"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // Four bursts of 100, each after a round of 96 that is not counted.
    assert_eq!(lines.len(), 4 * (100 + 96));
    for line in lines {
        assert_eq!(line["outcome"], "complete", "{line}");
        assert_eq!((&line["status"], &line["rows"]), (&200.into(), &1.into()));
        for field in ["request_id", "project", "function"] {
            assert!(!line[field].as_str().unwrap().is_empty(), "{line}");
        }
        for field in ["duration_us", "guest_cpu_us", "device_share_ns"] {
            assert!(line[field].as_u64().unwrap() > 0, "{line}");
        }
    }
}

#[test]
fn a_signal_ends_the_demo_and_a_second_ends_its_drain() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut demo = Command::new(env!("CARGO_BIN_EXE_shoal"))
        .args(["demo", "--requests", "100", "--listen", "127.0.0.1:0"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let serving = lines
        .map(Result::unwrap)
        .find(|line| line.starts_with("Serving on http://"));
    let address = serving.unwrap()["Serving on http://".len()..]
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    // A request that never ends holds the drain.
    let mut held = std::net::TcpStream::connect(address).unwrap();
    held.write_all(b"POST /f/acme/digits/ HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\n")
        .unwrap();
    let signal = |demo: &std::process::Child| {
        let pid = rustix::process::Pid::from_child(demo);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    };
    signal(&demo);
    assert!(demo.try_wait().unwrap().is_none());
    signal(&demo);
    assert_eq!(demo.wait().unwrap().code(), Some(0));
}

#[test]
fn the_doctor_names_what_it_looked_at() {
    let output = shoal(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let findings = last_line(&output);
    let names: Vec<_> = findings
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["what"].as_str().unwrap())
        .collect();
    for name in [
        "kernel",
        "pagemap_scan",
        "open files",
        "instance pool",
        "onnx engine",
        "cuda driver",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
}
