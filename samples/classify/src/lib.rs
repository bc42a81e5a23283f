//! Many pictures of digits in one request to the model: a tensor with a row for each.
//!
//! `curl --data @samples/models/digits/fixture.json http://127.0.0.1:8080/f/acme/classify/`

use serde::{Deserialize, Serialize};
use shoal_sdk::{Error, Model, Request, Response, Tensor};

shoal_sdk::http!(handle);

/// Numbers of a picture: 8 rows of 8, from 0 (dark) to 1 (ink).
const PIXELS: usize = 64;
/// Pictures of one request: the rows of one batch.
const PICTURES_MAX: usize = 64;

#[derive(Deserialize)]
struct Pictures {
    images: Vec<Vec<f32>>,
}

#[derive(Serialize)]
struct Digits {
    digits: Vec<usize>,
}

fn handle(request: Request) -> Result<Response, Error> {
    let Pictures { images } = request.json(1 << 20)?;
    if !(1..=PICTURES_MAX).contains(&images.len()) {
        let message = format!("images: expected 1 to {PICTURES_MAX}, got {}", images.len());
        return Err(Error::bad_field("images", message));
    }
    if let Some(odd) = images.iter().find(|image| image.len() != PIXELS) {
        let message = format!(
            "images: expected {PIXELS} numbers in each, got {}",
            odd.len()
        );
        return Err(Error::bad_field("images", message));
    }
    let rows = images.len();
    let tensor = Tensor::f32([rows as u32, PIXELS as u32], images.concat())?;
    let outputs = Model::open("digits")?.run([("image", tensor)])?;
    let confidences = outputs.f32("probabilities")?;
    let digits = confidences
        .chunks(confidences.len() / rows)
        .map(most_likely);
    Response::json(&Digits {
        digits: digits.collect(),
    })
}

fn most_likely(confidences: &[f32]) -> usize {
    let digits = confidences.iter().enumerate();
    let best = digits.max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(digit, _)| digit)
}
