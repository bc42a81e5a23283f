//! Writes small ONNX files: what no exporter would write is what the tests need most.
//! Field numbers: `onnx/onnx.proto3` of the ONNX project.

pub(crate) const FLOAT: u64 = 1;
pub(crate) const UINT8: u64 = 2;
pub(crate) const INT32: u64 = 6;
pub(crate) const INT64: u64 = 7;
pub(crate) const DOUBLE: u64 = 11;

/// A field that holds bytes, a string or a message.
pub(crate) fn bytes(number: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut field = varint(number << 3 | 2);
    field.extend(varint(content.len() as u64));
    field.extend(content);
    field
}

/// A field that holds an integer.
pub(crate) fn int(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

/// A dimension: a number, a name, or `?` for one without a name.
fn dim(text: &str) -> Vec<u8> {
    let content = match text.parse() {
        Ok(size) => int(1, size),
        Err(_) if text == "?" => Vec::new(),
        Err(_) => bytes(2, text),
    };
    bytes(1, content)
}

/// A value of a tensor type; `dims` is separated by spaces.
pub(crate) fn value(name: &str, element: u64, dims: &str) -> Vec<u8> {
    let dims: Vec<u8> = dims.split_whitespace().flat_map(dim).collect();
    let tensor = [int(1, element), bytes(2, dims)].concat();
    [bytes(1, name), bytes(2, bytes(1, tensor))].concat()
}

/// A node without attributes.
pub(crate) fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Vec<u8> {
    let mut node: Vec<u8> = inputs.iter().flat_map(|name| bytes(1, name)).collect();
    node.extend(outputs.iter().flat_map(|name| bytes(2, name)));
    node.extend(bytes(4, operator));
    node
}

/// An attribute of a node: a list of integers.
pub(crate) fn ints(name: &str, values: &[u64]) -> Vec<u8> {
    let values = values.iter().flat_map(|value| int(8, *value));
    bytes(5, [bytes(1, name), values.collect(), int(20, 7)].concat())
}

/// An attribute of a node: one integer.
pub(crate) fn one_int(name: &str, value: u64) -> Vec<u8> {
    bytes(5, [bytes(1, name), int(3, value), int(20, 2)].concat())
}

/// A tensor with its data.
pub(crate) fn tensor(name: &str, element: u64, dims: &[u64], data: &[u8]) -> Vec<u8> {
    let dims = dims.iter().flat_map(|dim| int(1, *dim)).collect();
    [dims, int(2, element), bytes(8, name), bytes(9, data)].concat()
}

/// A graph in the making.
#[derive(Clone, Default)]
pub(crate) struct Graph(Vec<u8>);

impl Graph {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn input(mut self, name: &str, element: u64, dims: &str) -> Self {
        self.0.extend(bytes(11, value(name, element, dims)));
        self
    }

    pub(crate) fn output(mut self, name: &str, element: u64, dims: &str) -> Self {
        self.0.extend(bytes(12, value(name, element, dims)));
        self
    }

    pub(crate) fn node(mut self, node: impl AsRef<[u8]>) -> Self {
        self.0.extend(bytes(1, node));
        self
    }

    pub(crate) fn initializer(self, tensor: impl AsRef<[u8]>) -> Self {
        self.field(5, tensor)
    }

    /// Any field at all.
    pub(crate) fn field(mut self, number: u64, content: impl AsRef<[u8]>) -> Self {
        self.0.extend(bytes(number, content));
        self
    }

    /// The whole file.
    pub(crate) fn file(self) -> Vec<u8> {
        let opset = bytes(8, [bytes(1, ""), int(2, 17)].concat());
        [int(1, 8), opset, bytes(7, self.0)].concat()
    }
}

/// `y` is `x`: `[batch, 3]` f32.
pub(crate) fn identity() -> Vec<u8> {
    Graph::new()
        .input("x", FLOAT, "batch 3")
        .output("y", FLOAT, "batch 3")
        .node(node("Identity", &["x"], &["y"]))
        .file()
}
