//! Reads handwritten digits: asks the model `digits`, which is granted in `shoal.toml`.

use serde::{Deserialize, Serialize};
use shoal_sdk::{Error, Model, Request, Response, Tensor};

shoal_sdk::http!(handle);

/// What a client sends: 8 rows of 8, from 0 (dark) to 1 (ink), in one list.
#[derive(Deserialize)]
struct Picture {
    image: Vec<f32>,
}

#[derive(Serialize)]
struct Digit {
    digit: usize,
    confidence: f32,
}

/// A GET shows what it does with the seven below; a POST brings a picture of its own.
fn handle(request: Request) -> Result<Response, Error> {
    let image = match request.method().as_str() {
        "GET" => SEVEN.to_vec(),
        _ => request.json::<Picture>(16 * 1024)?.image,
    };
    if image.len() != 64 {
        let message = format!("image: expected 64 numbers, got {}", image.len());
        return Err(Error::bad_field("image", message));
    }
    let outputs = Model::open("digits")?.run([("image", Tensor::f32([1, 64], image)?)])?;
    let confidences = outputs.f32("probabilities")?;
    let best = confidences.iter().copied().enumerate();
    let (digit, confidence) = best
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .ok_or_else(|| Error::Internal("the model answered nothing".to_owned()))?;
    Response::json(&Digit { digit, confidence })
}

#[rustfmt::skip]
const SEVEN: [f32; 64] = [
    0.0, 0.0, 0.4, 1.0, 1.0, 1.0, 0.8, 0.0,
    0.0, 0.0, 0.5, 0.6, 0.5, 0.9, 0.9, 0.0,
    0.0, 0.0, 0.0, 0.0, 0.2, 1.0, 0.4, 0.0,
    0.0, 0.0, 0.2, 0.5, 0.8, 1.0, 0.3, 0.0,
    0.0, 0.2, 1.0, 1.0, 1.0, 0.9, 0.4, 0.0,
    0.0, 0.0, 0.2, 0.5, 1.0, 0.2, 0.0, 0.0,
    0.0, 0.0, 0.0, 0.9, 0.8, 0.0, 0.0, 0.0,
    0.0, 0.0, 0.4, 1.0, 0.2, 0.0, 0.0, 0.0,
];
