//! Which digit is it? A picture in, a model in the middle, JSON out.
//!
//! `curl --data-binary @samples/models/digits/seven.png -H 'content-type: image/png' http://127.0.0.1:8080/f/acme/digits/`
//!
//! Or without a picture: JSON, `{"image": …}` with 64 numbers from 0 (dark) to 1 (ink), or 8 rows of 8.

mod grid;
mod picture;

use serde::Serialize;
use shoal_sdk::{Error, Model, Request, Response, Tensor};

const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Serialize)]
struct Answer {
    digit: usize,
    confidences: Vec<f32>,
}

shoal_sdk::http!(handle);

fn handle(request: Request) -> Result<Response, Error> {
    let image = Tensor::f32([1, 64], read_image(&request)?)?;
    let outputs = Model::open("digits")?.run([("image", image)])?;
    let confidences = outputs.f32("probabilities")?;
    let digit = (0..confidences.len())
        .max_by(|&a, &b| confidences[a].total_cmp(&confidences[b]))
        .unwrap_or_default();
    Response::json(&Answer { digit, confidences })
}

fn read_image(request: &Request) -> Result<Vec<f32>, Error> {
    let content_type = request.header("content-type").unwrap_or_default();
    if content_type.starts_with("image/png") {
        return picture::shrink(&request.body_bytes(BODY_BYTES_MAX)?);
    }
    request.json::<grid::Grid>(BODY_BYTES_MAX)?.intensities()
}
