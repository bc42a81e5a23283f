//! Admission of models in a child with limits: a good one comes with its figures, and whatever is wrong with a file, it ends
//! there, within its limits, with a reason.

use crate::onnx_file::{FLOAT, Graph, INT64, bytes, int, ints, node, tensor};
use crate::support::{config, root};
use shoal::Config;
use shoal::models::{AdmitError, ModelFiles, check};
use shoal_inference::{DType, ModelReport, Port};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

fn digits_path() -> PathBuf {
    root().join("samples/models/digits/digits.onnx")
}

fn digits() -> Vec<u8> {
    std::fs::read(digits_path()).unwrap()
}

/// Small enough for a hostile file to reach soon.
fn limits() -> Config {
    Config {
        model_check_memory_bytes_max: 512 << 20,
        model_check_cpu_max: Duration::from_secs(2),
        ..config()
    }
}

fn admit(config: &Config, file: Vec<u8>) -> Result<ModelReport, AdmitError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let files = ModelFiles {
        onnx: file.into(),
        tokenizer: None,
    };
    runtime.block_on(check(config, &files))
}

fn check_model(file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shoal"))
        .arg("check-model")
        .arg(file)
        .args(["--memory-bytes", "1073741824", "--cpu-seconds", "10"])
        .args(["--model-bytes", "1048576", "--tensor-bytes", "1048576"])
        // As a node does: see child.rs.
        .env("MIMALLOC_ARENA_RESERVE", "65536")
        .output()
        .unwrap()
}

/// `y` is `x`, and what `nodes` make of it besides.
fn graph() -> Graph {
    Graph::new()
        .input("x", FLOAT, "batch 3")
        .output("y", FLOAT, "batch 3")
}

fn le_bytes(values: &[i64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn the_bundled_model_is_admitted_with_plausible_figures() {
    let report = admit(&config(), digits()).unwrap();
    let port = |name: &str, size| Port {
        name: name.to_owned(),
        dtype: DType::F32,
        dims: vec![None, Some(size)],
    };
    assert_eq!(report.spec.inputs, [port("image", 64)]);
    assert_eq!(report.spec.outputs, [port("probabilities", 10)]);
    assert!(report.spec.batchable);
    assert_eq!(report.open_size, None);
    // A process that has just started touches pages of its own for the first time, too.
    let mebibytes = report.memory_bytes.div_ceil(1 << 20);
    assert!((1..=32).contains(&mebibytes), "{report:?}");
    let rows: Vec<u32> = report.runs.iter().map(|run| run.rows).collect();
    assert_eq!(rows, [1, 4, 16]);
    let longest = report.runs.iter().map(|run| run.device_ns).max().unwrap();
    assert!(longest < 100_000_000, "{report:?}");
}

#[test]
fn the_memory_of_weights_and_of_a_run_is_measured() {
    // 8 MiB of weights.
    let weights = tensor("w", FLOAT, &[1_024, 2_048], &vec![0; 8 << 20]);
    let heavy = Graph::new()
        .input("x", FLOAT, "batch 1024")
        .output("y", FLOAT, "batch 2048")
        .initializer(weights)
        .node(node("MatMul", &["x", "w"], &["y"]));
    let report = admit(&config(), heavy.file()).unwrap();
    let mebibytes = report.memory_bytes >> 20;
    assert!((8..=64).contains(&mebibytes), "{report:?}");

    // 4 MiB for each of 16 rows, in between.
    let wide = tensor("wide", INT64, &[2], &le_bytes(&[1, 1 << 20]));
    let broad = Graph::new()
        .input("x", FLOAT, "batch 1")
        .output("y", FLOAT, "batch 1")
        .initializer(wide)
        .node(node("Expand", &["x", "wide"], &["broad"]))
        .node([node("ReduceMax", &["broad"], &["y"]), ints("axes", &[1])].concat());
    let report = admit(&config(), broad.file()).unwrap();
    let mebibytes = report.memory_bytes >> 20;
    assert!((64..=160).contains(&mebibytes), "{report:?}");
}

#[test]
fn a_model_may_have_as_many_bytes_as_the_limit() {
    let bytes = digits().len() as u64;
    let with_limit = |model_bytes_max| Config {
        model_bytes_max,
        ..config()
    };
    admit(&with_limit(bytes), digits()).unwrap();
    for limit in [bytes - 1, 1] {
        let refused = admit(&with_limit(limit), digits()).unwrap_err();
        let words =
            format!("model has {bytes} bytes, at most {limit} are allowed (model_bytes_max)");
        assert_eq!(refused.to_string(), words);
    }
}

/// What is refused, and with which words.
fn refused() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let identity = node("Identity", &["x"], &["y"]);
    let mut nested = Vec::new();
    for _ in 0..20_000 {
        nested = bytes(1, bytes(5, bytes(6, nested)));
    }
    let looped = [node("Loop", &["x"], &["y"]), bytes(5, bytes(6, b""))].concat();
    let outside = [
        bytes(8, "w"),
        int(14, 1),
        bytes(13, [bytes(1, "location"), bytes(2, "/etc/passwd")].concat()),
    ];
    let mismatch = tensor("w", FLOAT, &[2, 3], &[0; 20]);
    let huge = tensor("w", FLOAT, &[1 << 40, 1 << 40], &[0; 4]);
    let hollow = tensor("w", INT64, &[1 << 40], &[]);
    let cycle = graph()
        .node(node("Add", &["x", "b"], &["a"]))
        .node(node("Neg", &["a"], &["b"]))
        .node(node("Add", &["a", "b"], &["y"]));
    let many = (0..4_000).fold(graph().node(&identity), |graph, n| {
        graph.input(&format!("input-{n}"), FLOAT, "batch 1")
    });
    let with = |tensor: Vec<u8>| {
        graph()
            .initializer(tensor)
            .node(node("Add", &["x", "w"], &["y"]))
            .file()
    };
    vec![
        ("nothing", vec![], "graphs"),
        ("text", b"#!/bin/sh".to_vec(), "whole ONNX file"),
        (
            "deep nesting",
            Graph::new().field(1, bytes(5, bytes(6, nested))).file(),
            "subgraph",
        ),
        ("a loop", graph().node(looped).file(), "operator Loop"),
        ("external data", with(outside.concat()), "outside the file"),
        ("too little data", with(mismatch), ""),
        ("huge dimensions", with(huge), ""),
        ("no data at all", with(hollow), ""),
        ("a cycle", cycle.file(), ""),
        (
            "a missing value",
            graph().node(node("Neg", &["z"], &["y"])).file(),
            "",
        ),
        ("4,001 inputs", many.file(), "to describe"),
    ]
}

#[test]
fn a_hostile_file_is_refused_with_a_reason() {
    for (what, file, words) in refused() {
        match admit(&limits(), file) {
            Err(AdmitError::Refused(why)) => {
                assert!(!why.is_empty() && why.contains(words), "{what}: {why}");
                assert!(
                    !why.contains("registry") && !why.contains(".rs"),
                    "{what}: {why}"
                );
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

fn shape(sizes: &[i64]) -> Vec<u8> {
    tensor("shape", INT64, &[sizes.len() as u64], &le_bytes(sizes))
}

/// `operator` makes of `x` what has this shape.
fn blow_up(operator: &str, sizes: &[i64]) -> Vec<u8> {
    graph()
        .initializer(shape(sizes))
        .node(node(operator, &["x", "shape"], &["large"]))
        .node(node("ReduceMax", &["large"], &["small"]))
        .node(node("Add", &["x", "small"], &["y"]))
        .file()
}

/// Graphs of a few hundred bytes that ask for all the memory or all the time there is.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let constant = graph()
        .initializer(shape(&[1 << 20, 1 << 20]))
        .node(node("ConstantOfShape", &["shape"], &["large"]))
        .node(node("ReduceMax", &["large"], &["small"]))
        .node(node("Add", &["x", "small"], &["y"]))
        .file();
    // 2^33 multiplications for each of 64 products.
    let mut slow = graph()
        .initializer(shape(&[2_048, 2_048]))
        .node(node("ReduceMax", &["x"], &["one"]))
        .node(node("Expand", &["one", "shape"], &["m0"]));
    for n in 0..64 {
        let (from, to) = (format!("m{n}"), format!("m{}", n + 1));
        slow = slow.node(node("MatMul", &[&from, "m0"], &[&to]));
    }
    let slow = slow
        .node(node("ReduceMax", &["m64"], &["small"]))
        .node(node("Add", &["x", "small"], &["y"]));
    vec![
        (
            "Expand to 2^40",
            blow_up("Expand", &[1 << 20, 1 << 20, 1, 3]),
        ),
        ("Tile to 2^40", blow_up("Tile", &[1 << 20, 1 << 20])),
        (
            "Expand to 3 GiB",
            blow_up("Expand", &[1 << 14, 1 << 14, 1, 3]),
        ),
        ("ConstantOfShape of 2^40", constant),
        ("2^39 multiplications", slow.file()),
    ]
}

#[test]
fn a_file_that_asks_for_everything_ends_within_its_limits() {
    for (what, file) in bombs() {
        match admit(&limits(), file) {
            Err(AdmitError::OverLimit { cpu, memory_bytes }) => {
                assert_eq!((cpu.as_secs(), memory_bytes), (2, 512 << 20), "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    // More than an address can say is an error before it is an allocation.
    let refused = admit(&limits(), blow_up("Expand", &[1 << 30, 1 << 30, 1, 3]));
    assert!(
        matches!(refused, Err(AdmitError::Refused(_))),
        "{refused:?}"
    );
}

#[test]
fn a_file_that_was_cut_off_is_refused() {
    let file = digits();
    for len in (0..file.len()).step_by(1_999) {
        let refused = admit(&config(), file[..len].to_vec());
        assert!(
            matches!(refused, Err(AdmitError::Refused(_))),
            "{len}: {refused:?}"
        );
    }
}

#[test]
fn a_check_that_takes_too_long_is_ended() {
    let hurried = Config {
        model_check_timeout: Duration::from_millis(1),
        ..config()
    };
    let refused = admit(&hurried, digits()).unwrap_err();
    let words = "model took longer than 1ms to check (model_check_timeout)";
    assert_eq!(refused.to_string(), words);
}

#[test]
fn a_node_that_cannot_start_a_child_says_that_it_is_its_own_fault() {
    let broken = Config {
        compiler: PathBuf::from("/nonexistent"),
        ..config()
    };
    let refused = admit(&broken, digits()).unwrap_err();
    assert!(matches!(refused, AdmitError::Host(_)));
    assert_eq!(refused.to_string(), "model could not be checked");
}

#[test]
fn the_command_prints_one_line_or_a_reason() {
    let output = check_model(&digits_path());
    assert_eq!(output.status.code(), Some(0));
    let report: ModelReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report.runs.len(), 3);
    assert!(output.stderr.is_empty());

    let output = check_model(&root().join("Cargo.toml"));
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(words, "shoal: the file is not a whole ONNX file\n");
}

/// The child opens its file after it has limited itself: one that waits for a pipe to be written can be looked at.
#[test]
fn a_child_is_limited_and_idle_before_it_reads_anything() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let room = tempfile::tempdir().unwrap();
    let pipe = room.path().join("model");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_shoal"))
        .arg("check-model")
        .arg(&pipe)
        .args(["--memory-bytes", "1073741824", "--cpu-seconds", "7"])
        .args(["--model-bytes", "1048576", "--tensor-bytes", "1048576"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // Comes back when the child has opened it.
    let writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let values = line[name.len()..].split_whitespace();
        values.map(str::to_owned).next().unwrap()
    };
    assert_eq!(limit("Max address space"), "1073741824");
    assert_eq!(limit("Max cpu time"), "7");
    assert_eq!(limit("Max core file size"), "0");
    let stat = std::fs::read_to_string(proc.join("stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    // Fields 19 and 41 of proc(5): niceness, and the policy, of which 5 is SCHED_IDLE.
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    assert_eq!((fields[19 - 3], fields[41 - 3]), ("19", "5"));
    drop(writer);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
