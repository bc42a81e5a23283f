//! Texts to vectors: encoded, grouped by length, run as rows of shared batches, and the mean taken over what is text.

use crate::support::{compass, onnx_file};
use onnx_file::{FLOAT, Graph, INT64, node};
use shoal_inference::{
    Class, Config, CpuDevice, EmbedReply, EmbedRequest, Error, Inference, LoadError, ModelSource,
    TenantId, start_thread,
};
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::time::Instant;

fn source(onnx: Vec<u8>, tokenizer: Option<Vec<u8>>) -> ModelSource {
    ModelSource {
        name: "compass".to_owned(),
        onnx: onnx.into(),
        tokenizer: tokenizer.map(Into::into),
        dry_runs: Vec::new(),
    }
}

fn inference(config: Config) -> Inference {
    let device = CpuDevice::new(NonZeroUsize::MIN).unwrap();
    let (inference, engine) = Inference::new(config, vec![device]).unwrap();
    start_thread(engine).unwrap();
    inference
}

async fn compass(config: Config, tokens_max: usize) -> Inference {
    let inference = inference(config);
    let source = source(compass::onnx(), Some(compass::tokenizer(tokens_max)));
    inference.load(source).await.unwrap();
    inference
}

async fn embed(inference: &Inference, texts: &[&str]) -> Result<EmbedReply, Error> {
    let request = EmbedRequest {
        tenant: TenantId(1),
        model: inference.model("compass").unwrap().id,
        class: Class::Default,
        deadline: Instant::now() + Duration::from_secs(10),
        texts: texts.iter().map(|text| (*text).to_owned()).collect(),
    };
    inference.embed(request).await
}

fn vectors(reply: &EmbedReply) -> Vec<[f32; 2]> {
    assert_eq!(reply.vectors.dims()[1], 2);
    let numbers = reply.vectors.data().chunks_exact(4);
    let numbers: Vec<f32> = numbers
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    numbers.chunks_exact(2).map(|v| [v[0], v[1]]).collect()
}

fn near(actual: &[[f32; 2]], expected: &[[f32; 2]]) {
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        for (a, b) in actual.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{actual:?}, expected {expected:?}");
        }
    }
}

#[tokio::test]
async fn a_vector_is_the_mean_of_a_texts_own_tokens_with_length_one() {
    let inference = compass(Config::default(), 512).await;
    let half = 0.5_f32.sqrt();
    let texts = ["east", "north", "east north", "west west west north", "far"];
    let reply = embed(&inference, &texts).await.unwrap();
    let slant = 10.0_f32.sqrt();
    near(
        &vectors(&reply),
        &[
            [1.0, 0.0],
            [0.0, 1.0],
            [half, half],
            [-3.0 / slant, 1.0 / slant],
            [half, half],
        ],
    );
    assert_eq!(reply.tokens, 9);
    // Of one padded length: one request.
    assert_eq!(reply.explanations.len(), 1);
    assert_eq!(reply.explanations[0].rows, 5);
}

#[tokio::test]
async fn texts_of_any_length_keep_their_order() {
    let config = Config {
        rows_max: 3,
        ..Config::default()
    };
    let inference = compass(config, 512).await;
    let words = [1, 300, 17, 2, 64, 65, 511, 3, 4, 512, 5, 6];
    let directions = [
        ("east", [1.0, 0.0]),
        ("north", [0.0, 1.0]),
        ("west", [-1.0, 0.0]),
    ];
    let (mut texts, mut expected) = (Vec::new(), Vec::new());
    for (n, words) in words.iter().enumerate() {
        let (word, vector) = directions[n % 3];
        texts.push(vec![word; *words].join(" "));
        expected.push(vector);
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let reply = embed(&inference, &texts).await.unwrap();
    near(&vectors(&reply), &expected);
    let rows: u32 = reply.explanations.iter().map(|of| of.rows).sum();
    assert_eq!(rows, 12);
    assert!(reply.explanations.iter().all(|of| of.rows <= 3));
}

#[tokio::test]
async fn what_is_beyond_the_tokens_is_cut_off() {
    let inference = compass(Config::default(), 3).await;
    let reply = embed(&inference, &["east east east north north", ""])
        .await
        .unwrap();
    assert_eq!(reply.tokens, 3);
    let vectors = vectors(&reply);
    near(&vectors[..1], &[[1.0, 0.0]]);
    // Nothing was said: no direction, and no number that is none.
    near(&vectors[1..], &[[0.0, 0.0]]);
}

#[tokio::test]
async fn what_a_tokenizer_adds_counts() {
    let inference = inference(Config::default());
    let tokenizer = compass::tokenizer_of_sentences(3);
    let source = source(compass::onnx(), Some(tokenizer));
    inference.load(source).await.unwrap();
    // far, west, far: what is beyond three is cut off between them.
    let reply = embed(&inference, &["west north north"]).await.unwrap();
    assert_eq!(reply.tokens, 3);
    near(&vectors(&reply), &[[0.0, 1.0]]);
}

#[tokio::test]
async fn limits_hold_at_their_value() {
    let config = Config {
        texts_max: 2,
        text_bytes_max: 9,
        ..Config::default()
    };
    let inference = compass(config, 512).await;
    assert!(embed(&inference, &["east east", "far"]).await.is_ok());
    for (texts, words) in [
        (
            &["far"; 3][..],
            "3 texts, at most 2 are allowed (texts_max)",
        ),
        (
            &["far", "east west!"],
            "text 1 has 10 bytes, at most 9 are allowed (text_bytes_max)",
        ),
    ] {
        let refused = embed(&inference, texts).await.unwrap_err();
        assert_eq!(refused, Error::TooMuchText(words.to_owned()));
    }
    let empty = embed(&inference, &[]).await.unwrap_err();
    assert_eq!(empty, Error::Invalid("texts is empty".to_owned()));
    let refused = inference.stats().refused;
    assert_eq!((refused["texts_max"], refused["text_bytes_max"]), (1, 1));
}

#[tokio::test]
async fn without_a_tokenizer_a_model_takes_no_texts() {
    let inference = inference(Config::default());
    inference.load(source(compass::onnx(), None)).await.unwrap();
    let refused = embed(&inference, &["east"]).await.unwrap_err();
    assert!(
        refused.to_string().contains("has no tokenizer"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_tokenizer_that_does_not_fit_is_refused_by_name_and_leaves_nothing() {
    let inference = inference(Config::default());
    let pictures = Graph::new()
        .input("image", FLOAT, "batch 3")
        .output("y", FLOAT, "batch 3")
        .node(node("Identity", &["image"], &["y"]));
    let numbers = Graph::new()
        .input("input_ids", INT64, "batch tokens")
        .output("y", INT64, "batch tokens")
        .node(node("Identity", &["input_ids"], &["y"]));
    let tokenizer = compass::tokenizer(512);
    for (onnx, tokenizer, words) in [
        (compass::onnx(), b"{}".to_vec(), "tokenizer cannot be read"),
        (
            compass::onnx(),
            compass::tokenizer(0),
            "truncation.max_length is 0, expected 1 to 8192",
        ),
        (
            compass::onnx(),
            compass::tokenizer(8193),
            "truncation.max_length is 8193",
        ),
        (
            compass::onnx(),
            compass::tokenizer_of_sentences(2),
            "truncation.max_length is 2, expected 3 to 8192",
        ),
        (
            pictures.file(),
            tokenizer.clone(),
            "input \"image\" is none that a text can be put in",
        ),
        (
            numbers.file(),
            tokenizer,
            "output \"y\" is I64 [?, ?], expected F32",
        ),
    ] {
        let refused = inference
            .load(source(onnx, Some(tokenizer)))
            .await
            .unwrap_err();
        let LoadError::Tokenizer { reason, .. } = refused else {
            panic!("{refused}");
        };
        assert!(reason.contains(words), "{reason}");
        assert!(inference.model("compass").is_none());
    }
    let good = source(compass::onnx(), Some(compass::tokenizer(512)));
    inference.load(good).await.unwrap();
}
