//! What is asked of the `digits` sample: held-out pictures as committed beside the model, and the digit in each.

use crate::random::draw;
use anyhow::Context as _;
use bytes::Bytes;
use serde::Deserialize;

pub(crate) const DIGITS_ONNX: &[u8] = include_bytes!("../../samples/models/digits/digits.onnx");
const FIXTURE: &str = include_str!("../../samples/models/digits/fixture.json");

#[derive(Deserialize)]
struct Fixture {
    images: Vec<Vec<f32>>,
    labels: Vec<u32>,
}

/// A request's body and the answer it must get.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Question {
    pub(crate) body: Bytes,
    pub(crate) digit: u32,
}

#[derive(Deserialize)]
struct Answer {
    digit: u32,
}

impl Question {
    pub(crate) fn is_answered_by(&self, body: &[u8]) -> bool {
        serde_json::from_slice::<Answer>(body).is_ok_and(|answer| answer.digit == self.digit)
    }
}

/// All pictures there are.
pub(crate) struct Pictures(Vec<Question>);

impl Pictures {
    pub(crate) fn read() -> anyhow::Result<Self> {
        let fixture = fixture()?;
        let questions = fixture.images.iter().zip(fixture.labels);
        let questions: Vec<Question> = questions
            .map(|(image, digit)| Question {
                body: serde_json::json!({ "image": image }).to_string().into(),
                digit,
            })
            .collect();
        anyhow::ensure!(!questions.is_empty(), "the fixture has no pictures");
        Ok(Self(questions))
    }

    /// What the model is given: 64 numbers each.
    pub(crate) fn images() -> anyhow::Result<Vec<Vec<f32>>> {
        Ok(fixture()?.images)
    }

    /// `n` of them in an order that follows from `seed`; neighbours mostly differ.
    pub(crate) fn pick(&self, n: usize, seed: u64) -> Vec<Question> {
        (0..n as u64)
            .map(|at| {
                let drawn = draw(seed, at) % self.0.len() as u64;
                self.0[drawn as usize].clone()
            })
            .collect()
    }
}

fn fixture() -> anyhow::Result<Fixture> {
    serde_json::from_str(FIXTURE).context("reading the fixture")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_asks_the_same() {
        let pictures = Pictures::read().unwrap();
        assert_eq!(pictures.pick(100, 7), pictures.pick(100, 7));
        assert_ne!(pictures.pick(100, 7), pictures.pick(100, 8));
    }

    #[test]
    fn only_the_right_digit_is_an_answer() {
        let question = Question {
            body: Bytes::new(),
            digit: 7,
        };
        assert!(question.is_answered_by(br#"{"digit":7,"confidences":[]}"#));
        assert!(!question.is_answered_by(br#"{"digit":1,"confidences":[]}"#));
        assert!(!question.is_answered_by(b"7"));
    }
}
