//! Checks the tensors of a request against its model, once, before it is queued. Behind this file every set of inputs is
//! complete, in the model's order and of the model's shapes.

use super::Model;
use crate::error::Error;
use crate::request::{NamedTensor, Port};
use crate::scheduler::Shape;
use crate::tensor::{Tensor, TensorError};
use std::sync::Arc;

/// The inputs of one request, checked.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// In the model's order.
    pub(crate) tensors: Arc<[Tensor]>,
    pub(crate) rows: u32,
    pub(crate) bytes: u64,
    /// The sizes the model leaves open, beyond the batch axis.
    pub(crate) shape: Shape,
    /// What one row counts for its cost: the product of those sizes in the input where it is largest, 1 if there are none.
    pub(crate) row_units: u64,
}

/// What the inputs of one request are held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InputLimits {
    pub(crate) tensor_bytes_max: u64,
    /// Most rows, and the key of that limit.
    pub(crate) rows_max: (&'static str, u32),
}

impl Inputs {
    /// # Errors
    /// [`Error::Invalid`] naming the input that is missing, unknown, given twice or of another type or shape,
    /// [`Error::Tensor`] for one over `tensor_bytes_max`, [`Error::TooManyRows`].
    pub(crate) fn check(
        model: &Model,
        given: Vec<NamedTensor>,
        limits: InputLimits,
    ) -> Result<Self, Error> {
        let tensors = in_order(model, given)?;
        let mut bytes = 0;
        let mut shape = Vec::new();
        let mut row_units = 1;
        let tensor_bytes_max = limits.tensor_bytes_max;
        for (port, tensor) in model.spec.inputs.iter().zip(&tensors) {
            let len = tensor.data().len() as u64;
            if len > tensor_bytes_max {
                return Err(Error::Tensor(TensorError::TooLarge {
                    bytes: len,
                    limit: tensor_bytes_max,
                }));
            }
            bytes += len;
            check_port(port, tensor)?;
            if model.spec.batchable {
                let before = shape.len();
                shape.extend(open_dims(port, tensor).skip(1));
                let sizes = shape[before..].iter().copied().map(u64::from);
                row_units = row_units.max(sizes.fold(1, u64::saturating_mul));
            }
        }
        Ok(Self {
            rows: check_rows(model, &tensors, limits.rows_max)?,
            tensors: tensors.into(),
            bytes,
            shape: shape.into(),
            row_units,
        })
    }
}

/// Each input of the model exactly once.
fn in_order(model: &Model, given: Vec<NamedTensor>) -> Result<Vec<Tensor>, Error> {
    let ports = &model.spec.inputs;
    let mut slots: Vec<Option<Tensor>> = ports.iter().map(|_| None).collect();
    for (name, tensor) in given {
        let Some(at) = ports.iter().position(|port| port.name == name) else {
            return Err(Error::Invalid(format!(
                "model {:?} has no input {name:?}, expected {}",
                model.name,
                names(ports)
            )));
        };
        if slots[at].replace(tensor).is_some() {
            return Err(Error::Invalid(format!("input {name:?} is given twice")));
        }
    }
    slots
        .into_iter()
        .zip(ports)
        .map(|(slot, port)| {
            slot.ok_or_else(|| Error::Invalid(format!("input {:?} is missing", port.name)))
        })
        .collect()
}

fn names(ports: &[Port]) -> String {
    let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
    names.join(", ")
}

/// Element type, rank and every fixed dimension; a dimension that is left open is at least 1.
fn check_port(port: &Port, tensor: &Tensor) -> Result<(), Error> {
    if port.fits(tensor.dtype(), tensor.dims()) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "input {:?} is {:?} {:?}, expected {:?} {}",
        port.name,
        tensor.dtype(),
        tensor.dims(),
        port.dtype,
        port.shape()
    )))
}

/// The sizes given for the dimensions the model leaves open.
fn open_dims<'a>(port: &'a Port, tensor: &'a Tensor) -> impl Iterator<Item = u32> + 'a {
    port.dims
        .iter()
        .zip(tensor.dims())
        .filter(|(expected, _)| expected.is_none())
        .map(|(_, given)| *given)
}

/// The same number of rows in every input, at most so many.
fn check_rows(
    model: &Model,
    tensors: &[Tensor],
    (key, limit): (&'static str, u32),
) -> Result<u32, Error> {
    if !model.spec.batchable {
        return Ok(1);
    }
    let rows_of = |tensor: &Tensor| tensor.dims().first().copied().unwrap_or(1);
    let rows = tensors.first().map_or(1, rows_of);
    for (port, tensor) in model.spec.inputs.iter().zip(tensors) {
        if rows_of(tensor) != rows {
            return Err(Error::Invalid(format!(
                "input {:?} has {} rows, the others have {rows}",
                port.name,
                rows_of(tensor)
            )));
        }
    }
    if rows > limit {
        return Err(Error::TooManyRows { key, rows, limit });
    }
    Ok(rows)
}
