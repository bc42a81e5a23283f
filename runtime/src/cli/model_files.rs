//! A model's files on this machine: an ONNX file, or a folder with one and its tokenizer, as Hugging Face's exporters make it.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use shoal_inference::ModelSource;
use std::path::Path;
use std::sync::Arc;

/// What a folder's files are called.
const MODEL: &str = "model.onnx";
const TOKENIZER: &str = "tokenizer.json";

/// Reads them.
///
/// # Errors
/// The file that is not there, or cannot be read.
pub(super) fn read(
    name: &str,
    path: &Path,
    tokenizer: Option<&Path>,
) -> anyhow::Result<ModelSource> {
    let (onnx, beside) = if path.is_dir() {
        let beside = path.join(TOKENIZER);
        (path.join(MODEL), beside.exists().then_some(beside))
    } else {
        (path.to_owned(), None)
    };
    let tokenizer = tokenizer.map(Path::to_owned).or(beside);
    Ok(ModelSource {
        name: name.to_owned(),
        onnx: file(&onnx)?,
        tokenizer: tokenizer.as_deref().map(file).transpose()?,
        dry_runs: Vec::new(),
    })
}

fn file(path: &Path) -> anyhow::Result<Arc<[u8]>> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    ensure!(!bytes.is_empty(), "{} is empty", path.display());
    Ok(bytes.into())
}

/// The body that adds a model, and its content type: the file alone, or a form with both.
pub(super) fn body(source: &ModelSource) -> (String, Bytes) {
    let Some(tokenizer) = &source.tokenizer else {
        let kind = "application/octet-stream".to_owned();
        return (kind, Bytes::from_owner(source.onnx.clone()));
    };
    // In no file, but one that was made for it.
    let boundary = blake3::hash(&source.onnx).to_hex();
    let mut body = Vec::with_capacity(source.onnx.len() + tokenizer.len() + 1_000);
    for (name, file) in [("model", &source.onnx), ("tokenizer", tokenizer)] {
        let head = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\r\n"
        );
        body.extend(head.as_bytes());
        body.extend_from_slice(file);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{boundary}--\r\n").as_bytes());
    let kind = format!("multipart/form-data; boundary={boundary}");
    (kind, body.into())
}
