//! ONNX graphs: the bundled digits model against ONNX Runtime's answers, the files that are refused and why, and files that
//! somebody has broken.

use crate::device_conformance::{cpu, instant};
use crate::support::numbers::Numbers;
use crate::support::onnx_file::{
    DOUBLE, FLOAT, Graph, INT32, INT64, UINT8, bytes, int, node, value,
};
use crate::support::seed::seed;
use serde::Deserialize;
use shoal_inference::plan::{Command, Event, Rows, RunError, TensorRef, Ticket};
use shoal_inference::{Compute, DType, Device, ModelId, ModelSpec, Payload, Port, Tensor};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MODEL: ModelId = ModelId(0);

/// ONNX Runtime and rten order the sums of a dot product differently: over 64 terms of size 1 that is a few units in the
/// last place of an f32 (6e-8), which the softmax does not enlarge beyond this.
const TOLERANCE: f32 = 1e-5;

/// What ONNX Runtime answers for held-out images.
#[derive(Deserialize)]
struct Fixture {
    images: Vec<Vec<f32>>,
    labels: Vec<usize>,
    probabilities: Vec<Vec<f32>>,
}

pub(crate) fn digits() -> Arc<[u8]> {
    read("digits.onnx").into()
}

fn read(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("../../samples/models/digits").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn load(device: &mut impl Device, file: &[u8]) -> Result<ModelSpec, String> {
    let payload = Payload::Shared(file.into());
    device
        .send(Command::Load { model: MODEL }, payload)
        .unwrap();
    match device.recv().await {
        Some((Event::Loaded { result, .. }, _)) => result,
        other => panic!("expected an answer to the load, got {other:?}"),
    }
}

/// One batch of one request for each set of inputs: each one's outputs.
async fn run(
    device: &mut impl Device,
    requests: &[Vec<Tensor>],
) -> Result<Vec<Vec<Tensor>>, RunError> {
    let mut payload = Vec::new();
    let mut put = |tensor: &Tensor| {
        let offset = payload.len() as u64;
        payload.extend(tensor.data());
        TensorRef {
            dtype: tensor.dtype(),
            dims: tensor.dims().to_vec(),
            offset,
            len: tensor.data().len() as u64,
        }
    };
    let requests = requests
        .iter()
        .map(|inputs| inputs.iter().map(&mut put).collect())
        .collect();
    let command = Command::Submit {
        ticket: Ticket(1),
        plan: Rows {
            model: MODEL,
            requests,
        },
        remaining: Duration::from_secs(60),
    };
    device.send(command, Payload::Owned(payload)).unwrap();
    let Some((Event::Outcome { result, .. }, payload)) = device.recv().await else {
        panic!("expected an outcome");
    };
    let done = result?;
    let tensor = |output: &TensorRef| {
        let bytes = output.bytes(&payload).unwrap().to_vec();
        Tensor::new(output.dtype, output.dims.clone(), bytes).unwrap()
    };
    let outputs = done.requests.iter();
    Ok(outputs
        .map(|set| set.iter().map(tensor).collect())
        .collect())
}

fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    let differences = left
        .iter()
        .zip(right)
        .map(|(left, right)| (left - right).abs());
    differences.fold(0.0, f32::max)
}

/// An engine of ONNX graphs gives ONNX Runtime's answers, alone and in a batch.
async fn onnx_conformance(mut device: impl Device) {
    let fixture: Fixture = serde_json::from_slice(&read("fixture.json")).unwrap();
    assert_eq!(fixture.images.len(), 32);
    let spec = load(&mut device, &digits()).await.unwrap();
    let port = |name: &str, size| Port {
        name: name.to_owned(),
        dtype: DType::F32,
        dims: vec![None, Some(size)],
    };
    let expected = ModelSpec {
        inputs: vec![port("image", 64)],
        outputs: vec![port("probabilities", 10)],
        batchable: true,
    };
    assert_eq!(spec, expected);

    let images: Vec<Vec<Tensor>> = fixture
        .images
        .iter()
        .map(|image| vec![Tensor::f32(vec![1, 64], image).unwrap()])
        .collect();
    let batched = run(&mut device, &images).await.unwrap();
    let mut worst = 0.0_f32;
    for (at, image) in images.iter().enumerate() {
        let alone = run(&mut device, std::slice::from_ref(image)).await.unwrap();
        let [alone, batched] = [&alone[0][0], &batched[at][0]].map(|tensor| {
            assert_eq!(tensor.dims(), [1, 10]);
            tensor.to_f32().unwrap()
        });
        let reference = &fixture.probabilities[at];
        worst = worst.max(largest_difference(&alone, reference));
        worst = worst.max(largest_difference(&batched, reference));
        worst = worst.max(largest_difference(&alone, &batched));
        let digit = (0..10).max_by(|a, b| batched[*a].total_cmp(&batched[*b]));
        let theirs = (0..10).max_by(|a, b| reference[*a].total_cmp(&reference[*b]));
        assert_eq!(digit, theirs, "image {at}, labelled {}", fixture.labels[at]);
    }
    println!("largest difference {worst:e}");
    assert!(worst <= TOLERANCE, "{worst:e}");
}

#[tokio::test]
async fn the_cpu_answers_as_onnx_runtime_does() {
    onnx_conformance(cpu()).await;
}

#[tokio::test(start_paused = true)]
async fn a_simulated_device_gives_real_answers() {
    onnx_conformance(instant(Compute::Onnx)).await;
}

#[tokio::test]
async fn integers_go_in_and_come_out_as_the_file_declares_them() {
    let file = Graph::new()
        .input("a", INT64, "n")
        .input("b", INT32, "n")
        .input("c", UINT8, "n")
        .output("x", INT64, "n")
        .output("y", INT32, "n")
        .output("z", UINT8, "n")
        .node(node("Neg", &["a"], &["x"]))
        .node(node("Neg", &["b"], &["y"]))
        .node(node("Identity", &["c"], &["z"]))
        .file();
    let mut device = cpu();
    let spec = load(&mut device, &file).await.unwrap();
    assert!(spec.batchable);
    let i64s = |values: &[i64]| {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        Tensor::new(DType::I64, vec![2], bytes).unwrap()
    };
    let i32s = |values: &[i32]| {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        Tensor::new(DType::I32, vec![2], bytes).unwrap()
    };
    let u8s = |values: &[u8]| Tensor::new(DType::U8, vec![2], values.to_vec()).unwrap();
    let inputs = vec![i64s(&[1, -2_000_000_000]), i32s(&[3, -4]), u8s(&[5, 255])];
    let outputs = run(&mut device, &[inputs]).await.unwrap();
    let expected = vec![i64s(&[-1, 2_000_000_000]), i32s(&[-3, 4]), u8s(&[5, 255])];
    assert_eq!(outputs, [expected]);

    let wide = vec![i64s(&[1, 1 << 31]), i32s(&[0, 0]), u8s(&[0, 0])];
    let message = "an integer does not fit in 32 bits".to_owned();
    assert_eq!(
        run(&mut device, &[wide]).await,
        Err(RunError::Failed(message))
    );
}

#[tokio::test]
async fn a_request_whose_inputs_disagree_on_rows_is_not_run() {
    let file = Graph::new()
        .input("a", FLOAT, "n 1")
        .input("b", FLOAT, "n 1")
        .output("y", FLOAT, "n 1")
        .node(node("Add", &["a", "b"], &["y"]))
        .file();
    let mut device = cpu();
    load(&mut device, &file).await.unwrap();
    let rows = |rows: u32| Tensor::f32(vec![rows, 1], &vec![1.0; rows as usize]).unwrap();
    // Together four rows of each, so that only the check of each request can tell.
    let crossed = [vec![rows(1), rows(3)], vec![rows(3), rows(1)]];
    let message = "input \"b\" came as F32 [3, 1]".to_owned();
    assert_eq!(
        run(&mut device, &crossed).await,
        Err(RunError::Failed(message))
    );
    let straight = [vec![rows(1), rows(1)], vec![rows(3), rows(3)]];
    assert!(run(&mut device, &straight).await.is_ok());
}

#[tokio::test]
async fn requests_that_differ_in_more_than_rows_are_not_run_together() {
    let file = Graph::new()
        .input("x", FLOAT, "n height width")
        .output("y", FLOAT, "n height width")
        .node(node("Identity", &["x"], &["y"]))
        .file();
    let mut device = cpu();
    load(&mut device, &file).await.unwrap();
    // As many bytes, so that nothing but the dimensions tells them apart.
    let image = |dims: [u32; 3]| vec![Tensor::f32(dims.to_vec(), &[1.0; 6]).unwrap()];
    let message = "input \"x\" came as F32 [1, 3, 2]".to_owned();
    assert_eq!(
        run(&mut device, &[image([1, 2, 3]), image([1, 3, 2])]).await,
        Err(RunError::Failed(message))
    );
    let same = [image([1, 2, 3]), image([1, 2, 3])];
    assert!(run(&mut device, &same).await.is_ok());
}

#[tokio::test]
async fn a_model_is_batchable_if_all_first_axes_are_one_that_occurs_nowhere_else() {
    let cases = [
        ("batch 4", "batch 4", true),
        ("batch 4", "batch", true),
        ("batch length", "batch length", true),
        ("1 4", "1 4", false),
        ("batch 4", "1 4", false),
        ("batch 4", "other 4", false),
        ("? 4", "? 4", false),
        ("batch batch", "batch batch", false),
        ("4 batch", "4 batch", false),
        ("", "", false),
    ];
    for (input, output, batchable) in cases {
        let file = Graph::new()
            .input("x", FLOAT, input)
            .output("y", FLOAT, output)
            .node(node("Identity", &["x"], &["y"]))
            .file();
        let spec = load(&mut cpu(), &file).await.unwrap();
        assert_eq!(spec.batchable, batchable, "[{input}] -> [{output}]");
    }
}

#[tokio::test]
async fn a_model_without_a_batch_axis_runs_alone() {
    let file = Graph::new()
        .input("x", FLOAT, "2 2")
        .output("y", FLOAT, "2 2")
        .node(node("Neg", &["x"], &["y"]))
        .file();
    let mut device = cpu();
    load(&mut device, &file).await.unwrap();
    let x = Tensor::f32(vec![2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    let y = Tensor::f32(vec![2, 2], &[-1.0, -2.0, -3.0, -4.0]).unwrap();
    let outputs = run(&mut device, &[vec![x.clone()]]).await;
    assert_eq!(outputs, Ok(vec![vec![y]]));
    let two = run(&mut device, &[vec![x.clone()], vec![x]]).await;
    assert!(matches!(two, Err(RunError::Failed(_))), "{two:?}");
}

#[tokio::test]
async fn a_model_whose_rows_run_away_fails_and_harms_nobody() {
    // Declares [batch] but sums all rows up: a batch of two would give one row.
    let file = Graph::new()
        .input("x", FLOAT, "batch 2")
        .output("y", FLOAT, "batch 1")
        .node(node("ReduceSum", &["x"], &["y"]))
        .file();
    let mut device = cpu();
    load(&mut device, &file).await.unwrap();
    let x = || vec![Tensor::f32(vec![1, 2], &[1.0, 2.0]).unwrap()];
    let message = "output \"y\" has dimensions [1, 1], expected 2 rows".to_owned();
    assert_eq!(
        run(&mut device, &[x(), x()]).await,
        Err(RunError::Failed(message))
    );
    assert!(run(&mut device, &[x()]).await.is_ok());
}

/// A graph that would run, to be changed.
fn good() -> Graph {
    Graph::new()
        .input("x", FLOAT, "batch 3")
        .output("y", FLOAT, "batch 3")
        .node(node("Identity", &["x"], &["y"]))
}

const OUTSIDE: &str = "initialiser \"weights\" is kept outside the file, expected all data inside";

#[tokio::test]
async fn what_is_not_run_here_is_refused_with_its_reason() {
    let attribute = |content: Vec<u8>| bytes(5, [bytes(1, "body"), content].concat());
    let looped = [node("Loop", &["x"], &["y"]), attribute(bytes(6, b""))].concat();
    let scan = [node("Scan", &["x"], &["y"]), attribute(bytes(11, b""))].concat();
    let custom = [node("Fast", &["x"], &["y"]), bytes(7, "com.example")].concat();
    let outside = [bytes(8, "weights"), int(14, 1)].concat();
    let entry = [bytes(1, "location"), bytes(2, "/etc/passwd")].concat();
    let hidden = [bytes(8, "weights"), bytes(13, entry)].concat();
    let constant = [node("Constant", &[], &["c"]), attribute(bytes(5, &outside))].concat();
    let sequence = [bytes(1, "s"), bytes(2, bytes(4, b""))].concat();
    let untyped = bytes(1, "u");
    let shapeless = [bytes(1, "h"), bytes(2, bytes(1, int(1, FLOAT)))].concat();
    let wide = value("w", FLOAT, "4294967296");
    let deep = value("d", FLOAT, "1 1 1 1 1 1 1 1 1");
    let cases = [
        (
            good().node(looped),
            "operator Loop has a subgraph (If, Loop and Scan are not supported)",
        ),
        (
            good().node(scan),
            "operator Scan has a subgraph (If, Loop and Scan are not supported)",
        ),
        (
            good().node(custom),
            "operator com.example.Fast is not one of ONNX's own",
        ),
        (good().field(5, &outside), OUTSIDE),
        (good().field(5, hidden), OUTSIDE),
        (good().node(constant), OUTSIDE),
        (good().field(13, &sequence), "value \"s\" is not a tensor"),
        (good().field(11, sequence), "value \"s\" is not a tensor"),
        (good().field(11, untyped), "value \"u\" is not a tensor"),
        (
            good().input("k", DOUBLE, "batch"),
            "\"k\" has ONNX element type 11, expected float (1), uint8 (2), int32 (6) or int64 (7)",
        ),
        (good().field(11, shapeless), "\"h\" declares no shape"),
        (
            good().field(11, wide),
            "\"w\" has a dimension that does not fit in 32 bits",
        ),
        (
            good().field(12, deep),
            "\"d\" has 9 dimensions, at most 8 are allowed",
        ),
        (
            Graph::new().output("y", FLOAT, "1"),
            "the model has no inputs",
        ),
        (
            Graph::new().input("x", FLOAT, "1"),
            "the model has no outputs",
        ),
    ];
    for (graph, reason) in cases {
        let refused = load(&mut cpu(), &graph.file()).await;
        assert_eq!(refused, Err(reason.to_owned()));
    }
    let two = [good().file(), good().file()].concat();
    let reason = "the file has 2 graphs, expected one".to_owned();
    assert_eq!(load(&mut cpu(), &two).await, Err(reason));
    load(&mut cpu(), &good().file()).await.unwrap();
}

#[tokio::test]
async fn a_file_nested_deep_enough_to_end_a_process_is_refused() {
    let mut graph = Vec::new();
    for _ in 0..20_000 {
        graph = bytes(1, bytes(5, bytes(6, graph)));
    }
    let refused = load(
        &mut cpu(),
        &Graph::new().field(1, bytes(5, bytes(6, graph))).file(),
    )
    .await;
    let reason = "operator  has a subgraph (If, Loop and Scan are not supported)";
    assert_eq!(refused, Err(reason.to_owned()));
    let mut sequence = Vec::new();
    for _ in 0..20_000 {
        sequence = bytes(4, bytes(1, sequence));
    }
    let value = [bytes(1, "s"), bytes(2, sequence)].concat();
    let refused = load(&mut cpu(), &good().field(13, value).file()).await;
    assert_eq!(refused, Err("value \"s\" is not a tensor".to_owned()));
}

#[tokio::test]
async fn a_broken_file_is_an_error_or_a_model_and_the_device_lives_on() {
    let original = digits();
    let mut numbers = Numbers(seed());
    let mut device = cpu();
    let mut loaded = 0;
    for _ in 0..1_000 {
        let mut file = original.to_vec();
        // Most of the file is weights: half of the changes go where the structure is, at both ends.
        for _ in 0..=numbers.below(3) {
            let at = match numbers.below(4) {
                0 => numbers.below(100),
                1 => file.len() - 1 - numbers.below(400),
                _ => numbers.below(file.len()),
            };
            match numbers.below(4) {
                0 => file[at] = numbers.byte(),
                1 => file[at] ^= 1 << numbers.below(8),
                2 => drop(file.remove(at)),
                _ => file.insert(at, numbers.byte()),
            }
        }
        if load(&mut device, &file).await.is_ok() {
            loaded += 1;
        }
    }
    println!("{loaded} of 1000 still load");
    load(&mut device, &original).await.unwrap();
}
