//! Texts to vectors.

use crate::ModelError;
use crate::bindings::shoal::inference::embeddings;

/// One vector for each text, in their order, each of length 1 (0 for a text of which the model knows nothing): how alike two texts are is the sum of the products of their
/// vectors' numbers.
///
/// `model` is one that was added with its tokenizer and granted to this function. All texts share batches, with each other and
/// with those of other functions. Of a text, what is beyond the most tokens the model takes is cut off.
///
/// ```no_run
/// # fn main() -> Result<(), shoal_sdk::ModelError> {
/// let vectors = shoal_sdk::embed("minilm", &["a small boat", "a little ship", "tax law"])?;
/// let alike = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
/// assert!(alike(&vectors[0], &vectors[1]) > alike(&vectors[0], &vectors[2]));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The model is not there or not granted, or takes tensors only; there is no text, there are too many, or one is too long;
/// and what a request to a model may fail by.
pub fn embed<T: AsRef<str>>(model: &str, texts: &[T]) -> Result<Vec<Vec<f32>>, ModelError> {
    let texts: Vec<String> = texts.iter().map(|text| text.as_ref().to_owned()).collect();
    Ok(embeddings::embed(model, &texts)?)
}
