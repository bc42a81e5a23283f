//! A model of texts that anybody can follow: each word is a direction, a text the mean of its words.

use super::onnx_file::{FLOAT, Graph, INT64, node, tensor};

/// Words are these; every other is `[UNK]`, and so is what rows are padded with.
const WORDS: [(&str, [f32; 2]); 5] = [
    // Would show in every mean, if it was taken over the padding too.
    ("[UNK]", [100.0, -700.0]),
    ("east", [2.0, 0.0]),
    ("north", [0.0, 2.0]),
    ("west", [-2.0, 0.0]),
    ("far", [1.0, 1.0]),
];

/// The words' vectors by token: what exporters call the last hidden state.
pub(crate) fn onnx() -> Vec<u8> {
    let table = WORDS.iter().flat_map(|(_, vector)| vector);
    let table: Vec<u8> = table.flat_map(|x| x.to_le_bytes()).collect();
    Graph::new()
        .input("input_ids", INT64, "batch tokens")
        .output("last_hidden_state", FLOAT, "batch tokens 2")
        .initializer(tensor("table", FLOAT, &[WORDS.len() as u64, 2], &table))
        .node(node(
            "Gather",
            &["table", "input_ids"],
            &["last_hidden_state"],
        ))
        .file()
}

/// Its words, of which a text may have `tokens_max`.
pub(crate) fn tokenizer(tokens_max: usize) -> Vec<u8> {
    tokenizer_with(tokens_max, "null")
}

/// The same, that puts a word before each text and one behind it.
#[allow(dead_code, reason = "the runtime's tests have no use for it")]
pub(crate) fn tokenizer_of_sentences(tokens_max: usize) -> Vec<u8> {
    let processor = r#"{"type": "BertProcessing", "sep": ["far", 4], "cls": ["far", 4]}"#;
    tokenizer_with(tokens_max, processor)
}

fn tokenizer_with(tokens_max: usize, processor: &str) -> Vec<u8> {
    let words = WORDS.iter().enumerate();
    let vocabulary: Vec<String> = words
        .map(|(id, (word, _))| format!("\"{word}\": {id}"))
        .collect();
    format!(
        r#"{{
            "version": "1.0",
            "truncation": {{"direction": "Right", "max_length": {tokens_max}, "strategy": "LongestFirst", "stride": 0}},
            "padding": {{"strategy": {{"Fixed": 128}}, "direction": "Right", "pad_to_multiple_of": null,
                        "pad_id": 0, "pad_type_id": 0, "pad_token": "[UNK]"}},
            "added_tokens": [], "normalizer": null, "pre_tokenizer": {{"type": "WhitespaceSplit"}},
            "post_processor": {processor}, "decoder": null,
            "model": {{"type": "WordLevel", "vocab": {{{}}}, "unk_token": "[UNK]"}}
        }}"#,
        vocabulary.join(", ")
    )
    .into_bytes()
}
