//! Texts to vectors, each a row in batches that everybody shares.

use super::encoder::{Encoder, Tokens};
use crate::error::Error;
use crate::handle::Inference;
use crate::request::{Class, Explanation, ModelId, Request, TenantId};
use crate::tensor::{DType, Tensor};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Bytes of texts that are encoded in a row, before whoever else wants the thread has a turn: a millisecond or two. A longer
/// text has a turn of its own, up to 3 ms for 8 KiB.
const TURN_BYTES: usize = 4 << 10;

/// Texts, and whose they are.
#[derive(Clone, Debug)]
pub struct EmbedRequest {
    /// Who pays.
    pub tenant: TenantId,
    /// A model with a tokenizer.
    pub model: ModelId,
    /// As that of a [`Request`].
    pub class: Class,
    /// As that of a [`Request`].
    pub deadline: Instant,
    /// 1 to `texts_max`, each of at most `text_bytes_max`.
    pub texts: Vec<String>,
}

/// Vectors, and what they cost.
#[derive(Clone, Debug)]
pub struct EmbedReply {
    /// F32 `[texts, dimensions]`, in the order of the texts; each has length 1, but that of a text without tokens, which is 0.
    pub vectors: Tensor,
    /// Tokens of all texts, what was cut off and what was padded not counted.
    pub tokens: u64,
    /// Of each request that the texts became.
    pub explanations: Vec<Explanation>,
}

/// Texts that become one request: rows of one length.
struct Group {
    length: usize,
    texts: Vec<usize>,
}

impl Inference {
    /// Encodes texts, runs the model on them and takes the mean of what it makes of their tokens. Texts of different lengths
    /// are different requests, all submitted at once.
    ///
    /// # Errors
    /// See [`Error`]; of the requests, the first that failed.
    pub async fn embed(&self, request: EmbedRequest) -> Result<EmbedReply, Error> {
        self.check_texts(&request.texts)?;
        let model = self.model_of(request.model).ok_or(Error::NotLoaded)?;
        let Some(encoder) = &model.encoder else {
            return Err(Error::Invalid(format!(
                "model {:?} has no tokenizer: it takes tensors, not texts",
                model.name
            )));
        };
        let tokens = encode(encoder, &request.texts).await?;
        let groups = groups(encoder, &tokens, model.rows_max as usize);
        let answers = groups.iter().map(|group| {
            let rows: Vec<&Tokens> = group.texts.iter().map(|text| &tokens[*text]).collect();
            let inputs = encoder.rows(&rows, group.length);
            let request = Request {
                tenant: request.tenant,
                model: request.model,
                class: request.class,
                deadline: request.deadline,
                inputs,
            };
            async move {
                let reply = self.submit(request).await?;
                // Those whose answers come together take turns too.
                tokio::task::yield_now().await;
                let vectors = encoder.vectors(&reply.outputs, &rows);
                Ok::<_, Error>((vectors.ok_or(Error::Device)?, reply.explanation))
            }
        });
        let answers = join_all(answers).await;
        let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); tokens.len()];
        let mut explanations = Vec::with_capacity(groups.len());
        for (group, answer) in groups.iter().zip(answers) {
            let (answer, explanation) = answer?;
            explanations.push(explanation);
            for (text, vector) in group.texts.iter().zip(answer) {
                vectors[*text] = vector;
            }
        }
        Ok(EmbedReply {
            vectors: tensor(&vectors).ok_or(Error::Device)?,
            tokens: tokens.iter().map(|tokens| tokens.len() as u64).sum(),
            explanations,
        })
    }

    fn check_texts(&self, texts: &[String]) -> Result<(), Error> {
        let config = self.config();
        let limit = config.texts_max;
        if texts.is_empty() {
            return Err(Error::Invalid("texts is empty".to_owned()));
        }
        if texts.len() > limit {
            self.refused("texts_max");
            let given = texts.len();
            return Err(Error::TooMuchText(format!(
                "{given} texts, at most {limit} are allowed (texts_max)"
            )));
        }
        let limit = config.text_bytes_max;
        let too_long = |text: &String| text.len() > limit;
        if let Some(at) = texts.iter().position(too_long) {
            self.refused("text_bytes_max");
            let bytes = texts[at].len();
            return Err(Error::TooMuchText(format!(
                "text {at} has {bytes} bytes, at most {limit} are allowed (text_bytes_max)"
            )));
        }
        Ok(())
    }
}

async fn encode(encoder: &Encoder, texts: &[String]) -> Result<Vec<Tokens>, Error> {
    let mut encoded = Vec::with_capacity(texts.len());
    let mut bytes = 0;
    for text in texts {
        if bytes > 0 && bytes + text.len() > TURN_BYTES {
            bytes = 0;
            tokio::task::yield_now().await;
        }
        bytes += text.len();
        encoded.push(encoder.tokens(text).map_err(Error::Invalid)?);
    }
    Ok(encoded)
}

fn groups(encoder: &Encoder, tokens: &[Tokens], rows_max: usize) -> Vec<Group> {
    let mut lengths: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (text, tokens) in tokens.iter().enumerate() {
        lengths
            .entry(encoder.padded(tokens))
            .or_default()
            .push(text);
    }
    let groups = lengths.iter().flat_map(|(length, texts)| {
        texts.chunks(rows_max).map(|texts| Group {
            length: *length,
            texts: texts.to_vec(),
        })
    });
    groups.collect()
}

fn tensor(vectors: &[Vec<f32>]) -> Option<Tensor> {
    let rows = u32::try_from(vectors.len()).ok()?;
    let dimensions = u32::try_from(vectors.first()?.len()).ok()?;
    let data = vectors.iter().flatten().flat_map(|x| x.to_le_bytes());
    Tensor::new(DType::F32, vec![rows, dimensions], data.collect()).ok()
}
