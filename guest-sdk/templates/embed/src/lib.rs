//! Finds the texts that say what a question asks: asks the model `minilm`, which is granted in `shoal.toml`, for a vector of
//! each, and compares them.

use serde::{Deserialize, Serialize};
use shoal_sdk::{Error, Request, Response, embed};

shoal_sdk::http!(handle);

/// What a client sends.
#[derive(Deserialize)]
struct Search {
    question: String,
    texts: Vec<String>,
}

#[derive(Serialize)]
struct Found {
    text: String,
    /// From -1 to 1: how alike it is to the question.
    score: f32,
}

/// A GET shows what it does with the texts below; a POST brings its own.
fn handle(request: Request) -> Result<Response, Error> {
    let search = match request.method().as_str() {
        "GET" => example(),
        _ => request.json::<Search>(1 << 20)?,
    };
    let mut vectors = embed("minilm", &[&search.texts[..], &[search.question]].concat())?;
    let question = vectors.pop().unwrap_or_default();
    let scores = vectors.iter().map(|vector| product(vector, &question));
    let mut found: Vec<Found> = search
        .texts
        .into_iter()
        .zip(scores)
        .map(|(text, score)| Found { text, score })
        .collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    Response::json(&found)
}

/// Of vectors of length 1: the cosine of the angle between them.
fn product(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn example() -> Search {
    let texts = [
        "The ferry leaves at nine.",
        "Bread needs flour, water and time.",
        "Ships sail in the morning.",
    ];
    Search {
        question: "When does the boat go?".to_owned(),
        texts: texts.map(str::to_owned).to_vec(),
    }
}
