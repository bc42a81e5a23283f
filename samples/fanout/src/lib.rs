//! Many requests to a model in one call (`infer-many`): each picture by itself, all at once. They share batches, with each other
//! and with whoever else asks, and one that fails keeps no other from its answer.
//!
//! `curl --data @samples/models/digits/fixture.json http://127.0.0.1:8080/f/acme/fanout/`

use serde::{Deserialize, Serialize};
use shoal_sdk::{Error, Model, ModelError, Outputs, Request, Response, Tensor, context};

shoal_sdk::http!(handle);

/// Pictures of one request.
const PICTURES_MAX: usize = 1_000;

/// Each has 64 numbers: 8 rows of 8, from 0 (dark) to 1 (ink).
#[derive(Deserialize)]
struct Pictures {
    images: Vec<Vec<f32>>,
}

#[derive(Serialize)]
struct Answers {
    /// For whom this was done.
    project: String,
    answers: Vec<Answer>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Digit(usize),
    Error(String),
}

fn handle(request: Request) -> Result<Response, Error> {
    let Pictures { images } = request.json(4 << 20)?;
    if images.len() > PICTURES_MAX {
        let message = format!(
            "images: expected at most {PICTURES_MAX}, got {}",
            images.len()
        );
        return Err(Error::bad_field("images", message));
    }
    let tensors = images
        .into_iter()
        .map(|image| Tensor::f32([1, image.len() as u32], image));
    let tensors: Vec<Tensor> = tensors.collect::<Result<_, _>>()?;
    let requests = tensors.into_iter().map(|tensor| [("image", tensor)]);
    let outcomes = Model::open("digits")?.run_many(requests)?.into_iter();
    let answers = outcomes.map(|outcome| match outcome.and_then(most_likely) {
        Ok(digit) => Answer::Digit(digit),
        Err(error) => Answer::Error(error.to_string()),
    });
    Response::json(&Answers {
        project: context().project,
        answers: answers.collect(),
    })
}

fn most_likely(outputs: Outputs) -> Result<usize, ModelError> {
    let confidences = outputs.f32("probabilities")?;
    let digits = confidences.iter().enumerate();
    let best = digits.max_by(|a, b| a.1.total_cmp(b.1));
    Ok(best.map_or(0, |(digit, _)| digit))
}
