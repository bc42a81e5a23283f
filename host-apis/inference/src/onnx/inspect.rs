//! Looks at an ONNX file before the engine does: refuses what this node does not run, and reads what the model takes and
//! gives. Refused here because the engine's parser recurses into them (a file nested deep enough would end the process) or
//! would reach outside the file: subgraphs (If, Loop, Scan), sequences, external data, operators that are not ONNX's own.
//!
//! Field numbers: `onnx/onnx.proto3` of the ONNX project.

use super::proto::{self, Malformed};
use crate::request::{ModelSpec, Port};
use crate::tensor::{DType, RANK_MAX};
use std::collections::HashSet;

/// Why a model is not run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the file has {0} graphs, expected one")]
    Graphs(usize),
    #[error("operator {0} has a subgraph (If, Loop and Scan are not supported)")]
    Subgraph(String),
    #[error("operator {domain}.{operator} is not one of ONNX's own")]
    CustomOperator { domain: String, operator: String },
    #[error("initialiser {0:?} is kept outside the file, expected all data inside")]
    ExternalData(String),
    #[error("value {0:?} is not a tensor")]
    NotATensor(String),
    #[error(
        "{port:?} has ONNX element type {code}, expected float (1), uint8 (2), int32 (6) or int64 (7)"
    )]
    ElementType { port: String, code: u64 },
    #[error("{0:?} declares no shape")]
    NoShape(String),
    #[error("{port:?} has {rank} dimensions, at most {RANK_MAX} are allowed")]
    Rank { port: String, rank: usize },
    #[error("{0:?} has a dimension that does not fit in 32 bits")]
    Dimension(String),
    #[error("the model has no inputs")]
    NoInputs,
    #[error("the model has no outputs")]
    NoOutputs,
}

// Numbers of the fields that are read, by message.
const MODEL_GRAPH: u64 = 7;
const GRAPH_NODE: u64 = 1;
const GRAPH_INITIALIZER: u64 = 5;
const GRAPH_INPUT: u64 = 11;
const GRAPH_OUTPUT: u64 = 12;
const GRAPH_VALUE_INFO: u64 = 13;
const NODE_OPERATOR: u64 = 4;
const NODE_ATTRIBUTE: u64 = 5;
const NODE_DOMAIN: u64 = 7;
const ATTRIBUTE_TENSOR: u64 = 5;
const ATTRIBUTE_GRAPH: u64 = 6;
const ATTRIBUTE_TENSORS: u64 = 10;
const ATTRIBUTE_GRAPHS: u64 = 11;
const TENSOR_NAME: u64 = 8;
const TENSOR_EXTERNAL_DATA: u64 = 13;
const TENSOR_DATA_LOCATION: u64 = 14;
const VALUE_NAME: u64 = 1;
const VALUE_TYPE: u64 = 2;
const TYPE_TENSOR: u64 = 1;
const TENSOR_TYPE_ELEMENT: u64 = 1;
const TENSOR_TYPE_SHAPE: u64 = 2;
const SHAPE_DIM: u64 = 1;
const DIM_VALUE: u64 = 1;
const DIM_PARAM: u64 = 2;

/// What the model in this file takes and gives.
///
/// # Errors
/// The first thing found that is not run here.
pub(super) fn inspect(file: &[u8]) -> Result<ModelSpec, Refusal> {
    let graphs = proto::each(file, MODEL_GRAPH).collect::<Result<Vec<_>, _>>()?;
    let [graph] = graphs.as_slice() else {
        return Err(Refusal::Graphs(graphs.len()));
    };
    check_nodes(graph)?;
    let mut initializers = HashSet::new();
    for tensor in proto::each(graph, GRAPH_INITIALIZER) {
        let tensor = tensor?;
        check_inside(tensor)?;
        initializers.insert(proto::string(tensor, TENSOR_NAME)?);
    }
    for value in proto::each(graph, GRAPH_VALUE_INFO) {
        tensor_type(value?)?;
    }
    let inputs = Axes::read(graph, GRAPH_INPUT, &initializers)?;
    let outputs = Axes::read(graph, GRAPH_OUTPUT, &HashSet::new())?;
    if inputs.is_empty() {
        return Err(Refusal::NoInputs);
    }
    if outputs.is_empty() {
        return Err(Refusal::NoOutputs);
    }
    let batchable = share_batch_axis(inputs.iter().chain(&outputs));
    Ok(ModelSpec {
        inputs: inputs.into_iter().map(Axes::into_port).collect(),
        outputs: outputs.into_iter().map(Axes::into_port).collect(),
        batchable,
    })
}

fn check_nodes(graph: &[u8]) -> Result<(), Refusal> {
    for node in proto::each(graph, GRAPH_NODE) {
        let node = node?;
        let operator = proto::string(node, NODE_OPERATOR)?;
        let domain = proto::string(node, NODE_DOMAIN)?;
        if !matches!(domain, "" | "ai.onnx") {
            return Err(Refusal::CustomOperator {
                domain: domain.to_owned(),
                operator: operator.to_owned(),
            });
        }
        for attribute in proto::each(node, NODE_ATTRIBUTE) {
            let attribute = attribute?;
            for number in [ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS] {
                if proto::bytes(attribute, number)?.is_some() {
                    return Err(Refusal::Subgraph(operator.to_owned()));
                }
            }
            for number in [ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS] {
                for tensor in proto::each(attribute, number) {
                    check_inside(tensor?)?;
                }
            }
        }
    }
    Ok(())
}

fn check_inside(tensor: &[u8]) -> Result<(), Refusal> {
    let location = proto::varint(tensor, TENSOR_DATA_LOCATION)?.unwrap_or(0);
    if location == 0 && proto::bytes(tensor, TENSOR_EXTERNAL_DATA)?.is_none() {
        return Ok(());
    }
    let name = proto::string(tensor, TENSOR_NAME)?;
    Err(Refusal::ExternalData(name.to_owned()))
}

/// The tensor type of a value; any other kind is refused, as sequences of sequences nest.
fn tensor_type(value: &[u8]) -> Result<Option<&[u8]>, Refusal> {
    let Some(kind) = proto::bytes(value, VALUE_TYPE)? else {
        return Ok(None);
    };
    for value_type in proto::each(value, VALUE_TYPE) {
        for field in proto::Fields::new(value_type?) {
            if let (number, proto::Value::Bytes(_)) = field?
                && (2..=9).contains(&number)
                && number != 6
            {
                let name = proto::string(value, VALUE_NAME)?;
                return Err(Refusal::NotATensor(name.to_owned()));
            }
        }
    }
    Ok(proto::bytes(kind, TYPE_TENSOR)?)
}

/// One dimension as the file declares it.
#[derive(Debug, PartialEq)]
enum Axis {
    Fixed(u32),
    /// Open; the name is empty where the file gives none.
    Open(String),
}

/// An input or output with the names of its open dimensions.
#[derive(Debug)]
struct Axes {
    name: String,
    dtype: DType,
    axes: Vec<Axis>,
}

impl Axes {
    /// All values in one list of the graph, but for those in `skip`: files before IR version 4 list initialisers among the
    /// inputs.
    fn read(graph: &[u8], number: u64, skip: &HashSet<&str>) -> Result<Vec<Self>, Refusal> {
        let mut ports = Vec::new();
        for value in proto::each(graph, number) {
            let value = value?;
            let name = proto::string(value, VALUE_NAME)?;
            if skip.contains(name) {
                continue;
            }
            let name = name.to_owned();
            let Some(tensor) = tensor_type(value)? else {
                return Err(Refusal::NotATensor(name));
            };
            let dtype = match proto::varint(tensor, TENSOR_TYPE_ELEMENT)?.unwrap_or(0) {
                1 => DType::F32,
                2 => DType::U8,
                6 => DType::I32,
                7 => DType::I64,
                code => return Err(Refusal::ElementType { port: name, code }),
            };
            let Some(shape) = proto::bytes(tensor, TENSOR_TYPE_SHAPE)? else {
                return Err(Refusal::NoShape(name));
            };
            let axes = read_axes(shape, &name)?;
            ports.push(Self { name, dtype, axes });
        }
        Ok(ports)
    }

    fn into_port(self) -> Port {
        let size = |axis| match axis {
            Axis::Fixed(size) => Some(size),
            Axis::Open(_) => None,
        };
        Port {
            name: self.name,
            dtype: self.dtype,
            dims: self.axes.into_iter().map(size).collect(),
        }
    }
}

fn read_axes(shape: &[u8], port: &str) -> Result<Vec<Axis>, Refusal> {
    let mut axes = Vec::new();
    for dim in proto::each(shape, SHAPE_DIM) {
        let dim = dim?;
        axes.push(match proto::varint(dim, DIM_VALUE)? {
            Some(size) => {
                Axis::Fixed(u32::try_from(size).map_err(|_| Refusal::Dimension(port.to_owned()))?)
            }
            None => Axis::Open(proto::string(dim, DIM_PARAM)?.to_owned()),
        });
    }
    if axes.len() > RANK_MAX {
        return Err(Refusal::Rank {
            port: port.to_owned(),
            rank: axes.len(),
        });
    }
    Ok(axes)
}

/// Whether the first axis of all is one named open dimension that occurs nowhere else: then rows can be put together. A
/// second occurrence (say, similarities `[batch, batch]`) would mean that rows see each other.
fn share_batch_axis<'a>(mut ports: impl Iterator<Item = &'a Axes> + Clone) -> bool {
    let Some(Axes { axes, .. }) = ports.clone().next() else {
        return false;
    };
    let Some(batch @ Axis::Open(name)) = axes.first() else {
        return false;
    };
    !name.is_empty()
        && ports.all(|port| {
            port.axes
                .split_first()
                .is_some_and(|(first, rest)| first == batch && !rest.contains(batch))
        })
}
