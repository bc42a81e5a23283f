//! What stands between a text and a model of the BERT family: the tokenizer, the inputs that its tokens go to, and the mean
//! of what comes out.

use crate::request::{ModelSpec, NamedTensor, Port};
use crate::tensor::{DType, Tensor};
use std::fmt;
use std::sync::Arc;
use tokenizers::{PostProcessor as _, Tokenizer, TruncationParams};

/// Tokens of a text where the tokenizer's file does not say how many: what BERT has positions for.
const TOKENS_DEFAULT: usize = 512;
/// Most tokens a tokenizer's file may ask for.
const TOKENS_MAX: usize = 8_192;

/// How a model's texts are encoded and its outputs read.
pub struct Encoder {
    tokenizer: Tokenizer,
    tokens_max: usize,
    inputs: Vec<Input>,
    /// The length of every row, where the model fixes it.
    length: Option<usize>,
    output: Output,
}

struct Input {
    name: String,
    dtype: DType,
    holds: Holds,
}

/// What an input is filled with.
#[derive(Clone, Copy)]
enum Holds {
    Ids,
    Mask,
    Types,
}

struct Output {
    name: String,
    /// Whether it has a vector for each token, of which the mean is taken, or one for each text.
    by_token: bool,
}

/// The tokens of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tokens {
    ids: Vec<u32>,
    types: Vec<u32>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("tokens_max", &self.tokens_max)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// Reads a `tokenizer.json` as Hugging Face's tokenizers write it, for a model that takes and gives `spec`. A text longer
    /// than the file's `truncation` (without one: 512 tokens) is cut there; padding is our own.
    ///
    /// # Errors
    /// What does not fit, in words for the model's owner.
    pub fn new(tokenizer: &[u8], spec: &ModelSpec) -> Result<Arc<Self>, String> {
        let mut tokenizer = Tokenizer::from_bytes(tokenizer)
            .map_err(|why| format!("tokenizer cannot be read: {why}"))?;
        let inputs: Vec<Input> = spec.inputs.iter().map(input).collect::<Result<_, _>>()?;
        let is_missing = !inputs.iter().any(|input| matches!(input.holds, Holds::Ids));
        if is_missing || !spec.batchable {
            return Err("a model with a tokenizer takes input_ids: [batch, tokens]".to_owned());
        }
        let lengths: Vec<usize> = spec
            .inputs
            .iter()
            .filter_map(|port| port.dims[1])
            .map(|length| length as usize)
            .collect();
        let length = lengths.first().copied();
        if lengths.iter().any(|other| Some(*other) != length) {
            return Err("inputs have rows of different lengths".to_owned());
        }
        let asked = tokenizer
            .get_truncation()
            .map_or(TOKENS_DEFAULT, |truncation| truncation.max_length);
        let tokens_max = asked.min(length.unwrap_or(TOKENS_MAX));
        // What is put around each text; tokenizers subtracts it unchecked.
        let added = tokenizer.get_post_processor();
        let added = added.map_or(0, |processor| processor.added_tokens(false));
        if tokens_max <= added || asked > TOKENS_MAX {
            return Err(format!(
                "tokenizer's truncation.max_length is {asked}, expected {} to {TOKENS_MAX}",
                added + 1
            ));
        }
        let truncation = TruncationParams {
            max_length: tokens_max,
            stride: 0,
            ..tokenizer.get_truncation().cloned().unwrap_or_default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|why| format!("tokenizer cannot cut texts: {why}"))?;
        tokenizer.with_padding(None);
        Ok(Arc::new(Self {
            tokenizer,
            tokens_max,
            inputs,
            length,
            output: output(&spec.outputs)?,
        }))
    }

    pub(super) fn tokens(&self, text: &str) -> Result<Tokens, String> {
        let encoding = self.tokenizer.encode_fast(text, true);
        let encoding = encoding.map_err(|why| why.to_string())?;
        Ok(Tokens {
            ids: encoding.get_ids().to_vec(),
            types: encoding.get_type_ids().to_vec(),
        })
    }

    /// The length that a row of so many tokens is padded to. Few lengths, so that texts of many callers share batches.
    pub(super) fn padded(&self, tokens: &Tokens) -> usize {
        let len = tokens.ids.len().max(1);
        self.length.unwrap_or_else(|| {
            let step = if len <= 64 { 16 } else { 64 };
            len.next_multiple_of(step).min(self.tokens_max)
        })
    }

    /// The model's inputs for rows of one padded length.
    pub(super) fn rows(&self, texts: &[&Tokens], length: usize) -> Vec<NamedTensor> {
        let tensor = |input: &Input| {
            let mut data = Vec::with_capacity(texts.len() * length * input.dtype.size());
            for tokens in texts {
                for at in 0..length {
                    let value = input.holds.at(tokens, at);
                    match input.dtype {
                        DType::I32 => data.extend(value.cast_signed().to_le_bytes()),
                        _ => data.extend(i64::from(value).to_le_bytes()),
                    }
                }
            }
            // Bounded by configuration far below.
            let dims = [texts.len(), length].map(|dim| u32::try_from(dim).unwrap_or(u32::MAX));
            let tensor = Tensor::new(input.dtype, dims.to_vec(), data)
                .expect("as many numbers as the dimensions say");
            (input.name.clone(), tensor)
        };
        self.inputs.iter().map(tensor).collect()
    }

    /// The vector of each text, from what the model made of [`Encoder::rows`]: of length 1, or without any where there is no
    /// token.
    pub(super) fn vectors(
        &self,
        outputs: &[NamedTensor],
        texts: &[&Tokens],
    ) -> Option<Vec<Vec<f32>>> {
        let (_, output) = outputs.iter().find(|(name, _)| *name == self.output.name)?;
        let vector_bytes = *output.dims().last()? as usize * size_of::<f32>();
        let text_bytes = output.data().len().checked_div(texts.len())?;
        // A model may say that it makes nothing.
        if vector_bytes == 0 || text_bytes < vector_bytes {
            return None;
        }
        let vector = |(tokens, bytes): (&&Tokens, &[u8])| {
            let tokens = match self.output.by_token {
                true => tokens.ids.len(),
                false => 1,
            };
            unit(bytes.chunks_exact(vector_bytes).take(tokens), vector_bytes)
        };
        let of_texts = output.data().chunks_exact(text_bytes);
        Some(texts.iter().zip(of_texts).map(vector).collect())
    }
}

/// The mean of some vectors of f32, with length 1; their number does not matter then.
fn unit<'a>(vectors: impl Iterator<Item = &'a [u8]>, vector_bytes: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f64; vector_bytes / size_of::<f32>()];
    for vector in vectors {
        for (sum, x) in sum.iter_mut().zip(vector.chunks_exact(size_of::<f32>())) {
            *sum += f64::from(f32::from_le_bytes(x.try_into().expect("chunks of four")));
        }
    }
    let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    sum.iter().map(|x| (x / norm) as f32).collect()
}

impl Tokens {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}

impl Holds {
    fn at(self, tokens: &Tokens, at: usize) -> u32 {
        let value = match self {
            Self::Ids => tokens.ids.get(at),
            Self::Types => tokens.types.get(at),
            Self::Mask => return u32::from(at < tokens.ids.len()),
        };
        value.copied().unwrap_or(0)
    }
}

fn input(port: &Port) -> Result<Input, String> {
    let holds = match port.name.as_str() {
        "input_ids" => Holds::Ids,
        "attention_mask" => Holds::Mask,
        "token_type_ids" => Holds::Types,
        other => {
            return Err(format!(
                "input {other:?} is none that a text can be put in: input_ids, attention_mask, token_type_ids"
            ));
        }
    };
    if !matches!(port.dtype, DType::I64 | DType::I32) || port.dims.len() != 2 {
        return Err(format!(
            "input {:?} is {:?} {}, expected I64 or I32 [batch, tokens]",
            port.name,
            port.dtype,
            port.shape()
        ));
    }
    Ok(Input {
        name: port.name.clone(),
        dtype: port.dtype,
        holds,
    })
}

/// The output with vectors: of the names that exporters give it, else the first.
fn output(ports: &[Port]) -> Result<Output, String> {
    let named = |name: &&str| ports.iter().find(|port| port.name == **name);
    let found = ["sentence_embedding", "last_hidden_state"]
        .iter()
        .find_map(named);
    let port = found.or(ports.first()).ok_or("it has no output")?;
    if port.dtype != DType::F32 || !(2..=3).contains(&port.dims.len()) {
        return Err(format!(
            "output {:?} is {:?} {}, expected F32 [batch, dimensions] or [batch, tokens, dimensions]",
            port.name,
            port.dtype,
            port.shape()
        ));
    }
    Ok(Output {
        name: port.name.clone(),
        by_token: port.dims.len() == 3,
    })
}
