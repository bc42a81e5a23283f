//! Admission in this process: what is admitted and with which figures, and what is refused. What only a process with limits
//! of its own survives is tried in the runtime's tests.

use crate::onnx::digits;
use crate::support::numbers::Numbers;
use crate::support::onnx_file::{FLOAT, Graph, INT32, identity, ints, node, one_int, tensor};
use crate::support::seed::seed;
use shoal_inference::{CheckError, CheckLimits, DType, ModelReport, ModelSpec, Port, check_model};
use std::time::Duration;

const LIMITS: CheckLimits = CheckLimits {
    model_bytes_max: 1 << 20,
    tensor_bytes_max: 1 << 20,
    runs_time_max: Duration::from_secs(60),
};

fn check(file: &[u8]) -> Result<ModelReport, String> {
    check_model(file, LIMITS).map_err(|error| error.to_string())
}

fn rows(report: &ModelReport) -> Vec<u32> {
    report.runs.iter().map(|run| run.rows).collect()
}

/// One node from `x` to `y`.
fn one_node(node: Vec<u8>, input: &str, output: &str) -> Vec<u8> {
    Graph::new()
        .input("x", FLOAT, input)
        .output("y", FLOAT, output)
        .node(node)
        .file()
}

#[test]
fn the_bundled_model_is_admitted_with_what_it_takes() {
    let report = check(&digits()).unwrap();
    let port = |name: &str, size| Port {
        name: name.to_owned(),
        dtype: DType::F32,
        dims: vec![None, Some(size)],
    };
    let spec = ModelSpec {
        inputs: vec![port("image", 64)],
        outputs: vec![port("probabilities", 10)],
        batchable: true,
    };
    assert_eq!(report.spec, spec);
    assert!(report.memory_bytes >= digits().len() as u64);
    assert_eq!(report.open_size, None);
    assert_eq!(rows(&report), [1, 4, 16]);
    for run in report.runs {
        assert!((1..1_000_000_000).contains(&run.device_ns), "{run:?}");
    }
}

#[test]
fn a_model_without_a_batch_axis_is_run_with_one_row() {
    let file = one_node(node("Neg", &["x"], &["y"]), "2 2", "2 2");
    let report = check(&file).unwrap();
    assert!(!report.spec.batchable);
    assert_eq!((rows(&report), report.open_size), (vec![1], None));
}

#[test]
fn open_dimensions_get_the_first_size_with_which_the_model_runs() {
    let sequence = one_node(node("Neg", &["x"], &["y"]), "n length", "n length");
    assert_eq!(check(&sequence).unwrap().open_size, Some(8));
    let pool = |size| {
        let pool = [
            node("AveragePool", &["x"], &["y"]),
            ints("kernel_shape", &[size, size]),
            ints("strides", &[1, 1]),
        ];
        one_node(pool.concat(), "n 1 height width", "n 1 h w")
    };
    for (kernel, open_size) in [(8, 8), (9, 64), (64, 64), (65, 256)] {
        let report = check(&pool(kernel)).unwrap();
        assert_eq!(report.open_size, Some(open_size), "{kernel}");
    }
    let why = check(&pool(257)).unwrap_err();
    assert!(why.starts_with("model does not run with 1 rows"), "{why}");
}

#[test]
fn a_file_may_have_as_many_bytes_as_the_limit() {
    let file = identity();
    let bytes = file.len() as u64;
    let check = |model_bytes_max| {
        let limits = CheckLimits {
            model_bytes_max,
            ..LIMITS
        };
        check_model(&file, limits).map(|report| rows(&report))
    };
    assert_eq!(check(bytes), Ok(vec![1, 4, 16]));
    for limit in [bytes - 1, 0] {
        assert_eq!(check(limit), Err(CheckError::TooLarge { bytes, limit }));
    }
}

#[test]
fn an_input_may_have_as_many_bytes_as_the_limit() {
    // 12 bytes a row.
    let check = |tensor_bytes_max| {
        let limits = CheckLimits {
            tensor_bytes_max,
            ..LIMITS
        };
        check_model(&identity(), limits).map(|report| rows(&report))
    };
    assert_eq!(check(16 * 12), Ok(vec![1, 4, 16]));
    assert_eq!(check(16 * 12 - 1), Ok(vec![1, 4]));
    assert_eq!(check(12), Ok(vec![1]));
    for limit in [11, 0] {
        let why = format!(
            "input \"x\" takes 12 bytes with 1 rows, at most {limit} are allowed (tensor_bytes_max)"
        );
        assert_eq!(check(limit), Err(CheckError::Refused(why)));
    }
    let endless = one_node(node("Neg", &["x"], &["y"]), "n 4294967295 4294967295", "n");
    let why = "input \"x\" takes 18446744073709551615 bytes with 1 rows, at most 1048576 are allowed (tensor_bytes_max)";
    assert_eq!(self::check(&endless), Err(why.to_owned()));
}

#[test]
fn without_time_for_more_there_is_one_row() {
    let limits = CheckLimits {
        runs_time_max: Duration::ZERO,
        ..LIMITS
    };
    assert_eq!(rows(&check_model(&digits(), limits).unwrap()), [1]);
}

#[test]
fn a_model_that_does_not_do_what_it_declares_is_refused() {
    let twice = [node("Concat", &["x", "x"], &["y"]), one_int("axis", 1)].concat();
    let truncated = Graph::new()
        .input("x", FLOAT, "batch 3")
        .output("y", INT32, "batch 3")
        .node(node("Neg", &["x"], &["y"]))
        .file();
    let cases = [
        (
            one_node(twice, "batch 3", "batch 3"),
            r#"output "y" came as [1, 6], the file declares [?, 3]"#,
        ),
        (
            one_node(node("Neg", &["x"], &["y"]), "batch 3", "batch"),
            r#"output "y" came as [1, 3], the file declares [?]"#,
        ),
        (
            one_node(node("ReduceSum", &["x"], &["y"]), "batch 2", "batch 1"),
            r#"model does not run with 4 rows of zeros: run failed: output "y" has dimensions [1, 1], expected 4 rows"#,
        ),
        (
            truncated,
            "model does not run with 1 rows of zeros: run failed: an output is tensor(f32), expected I32",
        ),
        (
            one_node(node("NoSuchOperator", &["x"], &["y"]), "n", "n"),
            "no such",
        ),
    ];
    for (file, why) in cases {
        let refused = check(&file).unwrap_err();
        if why == "no such" {
            assert!(refused.contains("NoSuchOperator"), "{refused}");
        } else {
            assert_eq!(refused, why);
        }
    }
}

#[test]
fn weights_have_as_much_data_as_their_dimensions_say() {
    let with = |bytes: usize| {
        let file = Graph::new()
            .input("x", FLOAT, "n 2")
            .output("y", FLOAT, "n 2")
            .initializer(tensor("w", FLOAT, &[1, 2], &vec![0; bytes]))
            .node(node("Add", &["x", "w"], &["y"]))
            .file();
        check(&file).map(|report| rows(&report))
    };
    assert_eq!(with(8), Ok(vec![1, 4, 16]));
    for bytes in [0, 4, 7, 9, 800] {
        let why = with(bytes).unwrap_err();
        assert!(why.contains("\"w\""), "{bytes}: {why}");
    }
}

#[test]
fn a_file_that_was_cut_off_is_refused() {
    let file = digits();
    for len in (0..file.len()).step_by(97) {
        assert!(check(&file[..len]).is_err(), "{len} of {}", file.len());
    }
}

#[test]
fn a_broken_file_is_refused_or_admitted_and_nothing_else() {
    let original = digits();
    let mut numbers = Numbers(seed());
    let limits = CheckLimits {
        // One run of each size is enough to see that it runs.
        runs_time_max: Duration::ZERO,
        ..LIMITS
    };
    let mut admitted = 0;
    for _ in 0..2_000 {
        let mut file = original.to_vec();
        for _ in 0..=numbers.below(3) {
            // Most of the file is weights: half of the changes go where the structure is, at both ends.
            let at = match numbers.below(4) {
                0 => numbers.below(100),
                1 => file.len() - 1 - numbers.below(400),
                _ => numbers.below(file.len()),
            };
            file[at] ^= 1 << numbers.below(8);
        }
        match check_model(&file, limits) {
            Ok(report) => {
                assert_eq!(rows(&report), [1]);
                admitted += 1;
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    println!("{admitted} of 2000 are still admitted");
    assert!(admitted > 0, "a changed weight is no reason to refuse");
}
