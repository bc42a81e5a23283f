//! `shoal:inference/embeddings`: texts to vectors, with the tokenizer that the model was added with.

use crate::many::bindings::shoal::inference::embeddings;
use crate::nn::{Answer, HasNn, NnView, WithNn, error_code, open_code};
use shoal_inference::Tensor;
use wasmtime::component::Linker;

/// Links the interface.
///
/// # Errors
/// If it is linked already.
pub fn add_to_linker<T: WithNn>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    embeddings::add_to_linker::<T, HasNn>(linker, T::nn)
}

impl embeddings::Host for NnView<'_> {
    async fn embed(&mut self, model: String, texts: Vec<String>) -> Answer<Vec<Vec<f32>>> {
        let host = self.host();
        let model = match host.open(model.clone()).await {
            Ok(model) => model,
            Err(why) => return self.refuse(open_code(why), why.of(&model)),
        };
        match host.embed(model, texts).await {
            Ok(vectors) => Ok(Ok(rows(&vectors))),
            Err(why) => self.refuse(error_code(&why), why),
        }
    }
}

/// The rows of an F32 tensor.
fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    let dimensions = tensor.dims().last().map_or(1, |dim| (*dim as usize).max(1));
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of four"));
    tensor
        .data()
        .chunks_exact(dimensions * size_of::<f32>())
        .map(|row| row.chunks_exact(size_of::<f32>()).map(number).collect())
        .collect()
}
