//! What is put to a model: rows, as our engine takes them and as rten does.

use crate::digits::{DIGITS_ONNX, Pictures};
use crate::random::draw;
use anyhow::Context as _;
use rten::Value;
use shoal_inference::{DType, ModelSpec, NamedTensor, Port, Tensor};
use std::path::Path;
use std::sync::Arc;

/// Different rows, so that no cache of a processor holds them all alone.
const ROWS: usize = 256;
/// MiniLM's; 0 to 998 are no words.
const VOCABULARY: u64 = 30_522;

/// A model's file and rows for it.
pub(in crate::benches) struct Rows {
    pub(in crate::benches) model: &'static str,
    pub(in crate::benches) onnx: Arc<[u8]>,
    /// Of every input, without the batch axis.
    dims: Vec<u32>,
    inputs: Vec<Input>,
}

/// All rows of one input.
struct Input {
    name: &'static str,
    values: Values,
}

enum Values {
    F32(Vec<Vec<f32>>),
    /// 64 bits wide outside, 32 inside of rten.
    I64(Vec<Vec<i32>>),
}

impl Rows {
    pub(in crate::benches) fn digits() -> anyhow::Result<Self> {
        let images = Pictures::images()?;
        Ok(Self {
            model: "digits",
            onnx: DIGITS_ONNX.into(),
            dims: vec![64],
            inputs: vec![Input {
                name: "image",
                values: Values::F32(images),
            }],
        })
    }

    /// Rows of so many words that mean nothing.
    pub(in crate::benches) fn minilm(file: &Path, tokens: u32) -> anyhow::Result<Self> {
        let row = |value: fn(u64) -> i32| {
            let row = |n: usize| (0..u64::from(tokens)).map(move |at| value(draw(n as u64, at)));
            Values::I64((0..ROWS).map(|n| row(n).collect()).collect())
        };
        let word = |drawn| (999 + drawn % (VOCABULARY - 999)) as i32;
        let input = |name, values| Input { name, values };
        Ok(Self {
            model: "minilm",
            onnx: std::fs::read(file).context("reading MiniLM")?.into(),
            dims: vec![tokens],
            inputs: vec![
                input("input_ids", row(word)),
                input("attention_mask", row(|_| 1)),
                input("token_type_ids", row(|_| 0)),
            ],
        })
    }

    /// How a model is described that gives back what it takes.
    pub(in crate::benches) fn spec(&self) -> ModelSpec {
        let ports = self.inputs.iter().map(|input| Port {
            name: input.name.to_owned(),
            dtype: input.values.dtype(),
            dims: std::iter::once(None)
                .chain(self.dims.iter().map(|size| Some(*size)))
                .collect(),
        });
        let ports: Vec<Port> = ports.collect();
        ModelSpec {
            inputs: ports.clone(),
            outputs: ports,
            batchable: true,
        }
    }

    /// The inputs of the `n`th row.
    pub(in crate::benches) fn request(&self, n: usize) -> anyhow::Result<Vec<NamedTensor>> {
        let mut dims = vec![1];
        dims.extend(&self.dims);
        let tensor = |input: &Input| {
            let data = match &input.values {
                Values::F32(rows) => bytes(&rows[n % rows.len()], |x| x.to_le_bytes()),
                Values::I64(rows) => bytes(&rows[n % rows.len()], |x| i64::from(x).to_le_bytes()),
            };
            let tensor = Tensor::new(input.values.dtype(), dims.clone(), data)?;
            Ok((input.name.to_owned(), tensor))
        };
        self.inputs.iter().map(tensor).collect()
    }

    /// So many rows from the `first` on, in one value for each input.
    pub(in crate::benches) fn batch(
        &self,
        first: usize,
        rows: usize,
    ) -> Vec<(&'static str, Value)> {
        let mut dims = vec![rows];
        dims.extend(self.dims.iter().map(|size| *size as usize));
        let value = |input: &Input| {
            let value = match &input.values {
                Values::F32(all) => tensor(&dims, &run_of(all, first, rows)),
                Values::I64(all) => tensor(&dims, &run_of(all, first, rows)),
            };
            (input.name, value)
        };
        self.inputs.iter().map(value).collect()
    }
}

impl Values {
    fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::I64(_) => DType::I64,
        }
    }
}

fn bytes<T: Copy, const N: usize>(values: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|value| to_bytes(*value)).collect()
}

fn run_of<T: Copy>(all: &[Vec<T>], first: usize, rows: usize) -> Vec<T> {
    let rows = (first..first + rows).map(|n| &all[n % all.len()]);
    rows.flatten().copied().collect()
}

fn tensor<T: Clone>(dims: &[usize], values: &[T]) -> Value
where
    Value: From<rten_tensor::Tensor<T>>,
{
    rten_tensor::Tensor::from_data(dims, values.to_vec()).into()
}
