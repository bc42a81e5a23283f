"""Train the digit classifier and write its model, fixture and sample image.

A small multilayer perceptron learns scikit-learn's bundled 8x8 digits. Beside this file appear:

    digits.onnx   the model: `image` f32 [batch, 64] -> `probabilities` f32 [batch, 10]
    fixture.json  32 held-out rows with the probabilities ONNX Runtime gives for them
    seven.png     a held-out seven, 64x64 grayscale, bright ink on a dark background

It needs Python 3.11 or newer, no network, and takes a few seconds:

    pip install -r requirements.txt && python train.py

Split and seeds are fixed and training uses one thread: a second run on the same machine writes
the same bytes. It fails if held-out accuracy falls under ACCURACY_MIN.
"""

import json
import sys
from pathlib import Path
from struct import pack
from zlib import compress, crc32

import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

HERE = Path(__file__).parent
SEED = 0
SIDE = 8  # pixels along one side of an image
INTENSITY_MAX = 16  # the data counts ink as 0..16; the model takes 0.0..1.0
ACCURACY_MIN = 0.97
TOLERANCE = 1e-5  # on probabilities: both sides are f32 and differ in the order of their sums
FIXTURE_ROWS = 32
SEVEN_ROW = 19  # a held-out seven that is also clear to the eye


def main():
    data, labels = load_digits(return_X_y=True)
    images = (data / INTENSITY_MAX).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.25, stratify=labels, random_state=SEED
    )
    classifier = MLPClassifier(hidden_layer_sizes=(128,), max_iter=500, random_state=SEED)
    # With more threads the order of the sums, and so the weights, would vary by machine.
    with threadpool_limits(limits=1):
        classifier.fit(train_x, train_y)

    model = to_onnx(classifier).SerializeToString(deterministic=True)
    probabilities = run_onnx(model, test_x)
    difference = np.abs(probabilities - classifier.predict_proba(test_x)).max()
    if difference > TOLERANCE:
        sys.exit(f"expected ONNX within {TOLERANCE} of scikit-learn, got {difference}")
    correct = probabilities.argmax(axis=1) == test_y
    accuracy = correct.mean()
    print(f"held-out accuracy {accuracy:.4f}, {correct.sum()} of {len(test_y)} rows")
    print(f"probabilities within {difference:.1e} of scikit-learn's")
    if accuracy < ACCURACY_MIN:
        sys.exit(f"expected held-out accuracy of at least {ACCURACY_MIN}, got {accuracy:.4f}")

    (HERE / "digits.onnx").write_bytes(model)
    write_fixture(model, test_x[:FIXTURE_ROWS], test_y[:FIXTURE_ROWS])
    assert test_y[SEVEN_ROW] == 7 and correct[SEVEN_ROW], "the sample is a seven, classified so"
    write_png(test_x[SEVEN_ROW].reshape(SIDE, SIDE), scale=8)


def to_onnx(classifier):
    """Write the two layers as one Gemm each, with Relu between them and Softmax at the end."""
    (weight1, weight2), (bias1, bias2) = classifier.coefs_, classifier.intercepts_
    weights = {"weight1": weight1, "bias1": bias1, "weight2": weight2, "bias2": bias2}
    nodes = [
        helper.make_node("Gemm", ["image", "weight1", "bias1"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "weight2", "bias2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    tensors = [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", SIDE * SIDE])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "digits", [image], [output], tensors)
    # Not the newest versions, so that more engines can read the file.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model


def run_onnx(model, images):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"image": images})[0]


def write_fixture(model, images, labels):
    fixture = {
        "images": images.tolist(),  # sixteenths, exact in f32
        "labels": labels.tolist(),
        # The shortest decimals that read back as the same f32.
        "probabilities": [[float(str(p)) for p in row] for row in run_onnx(model, images)],
        "onnxruntime": onnxruntime.__version__,
    }
    (HERE / "fixture.json").write_text(json.dumps(fixture, separators=(",", ":")) + "\n")


def write_png(image, scale):
    """Write each pixel as a scale x scale square of 8-bit gray; 1.0 (ink) is white."""
    pixels = np.rint(image * 255).astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # each row begins with filter 0, none

    def chunk(kind, data):
        return pack(">I", len(data)) + kind + data + pack(">I", crc32(kind + data))

    header = pack(">IIBBBBB", *pixels.T.shape, 8, 0, 0, 0, 0)  # width, height, 8 bits, gray
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", compress(rows)) + chunk(b"IEND", b"")
    (HERE / "seven.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


if __name__ == "__main__":
    main()
