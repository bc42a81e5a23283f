//! Texts to vectors: the host splits texts into tokens, and the rows of all functions share batches.
//!
//! `curl --json '{"texts": ["a small boat", "a little ship"]}' http://127.0.0.1:8080/f/acme/embed/`

use serde::{Deserialize, Serialize};
use shoal_sdk::{Error, Request, Response, embed};

shoal_sdk::http!(handle);

#[derive(Deserialize)]
struct Texts {
    texts: Vec<String>,
}

#[derive(Serialize)]
struct Vectors {
    /// One for each text, of length 1.
    vectors: Vec<Vec<f32>>,
}

fn handle(request: Request) -> Result<Response, Error> {
    let Texts { texts } = request.json(1 << 20)?;
    let vectors = embed("minilm", &texts)?;
    Response::json(&Vectors { vectors })
}
