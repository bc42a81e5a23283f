//! Models of texts: added with their tokenizer, called by the sample `embed`.

use crate::compass;
use crate::support::{Node, Reply, component, config, parts, served};
use serde_json::{Value, json};
use shoal::Config;

const MODEL: &str = "/api/v1/models/minilm";

fn node(config: Config) -> Node {
    let node = Node::run(parts(config, Vec::new()));
    node.post("/v1/organization/projects", b"{\"name\":\"acme\"}");
    node
}

/// A form with these fields.
fn form(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, content) in fields {
        let head = format!(
            "--line\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"x\"\r\n\r\n"
        );
        body.extend(head.as_bytes());
        body.extend(*content);
        body.extend(b"\r\n");
    }
    body.extend(b"--line--\r\n");
    body
}

fn add(node: &Node, form: &[u8]) -> Reply {
    let mut client = node.connect();
    let head = format!(
        "PUT {MODEL} HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=line\r\ncontent-length: {}\r\n\r\n",
        form.len()
    );
    client.send(head.as_bytes());
    client.send(form);
    client.reply()
}

fn both() -> Vec<u8> {
    form(&[
        ("model", &compass::onnx()),
        ("tokenizer", &compass::tokenizer(512)),
    ])
}

fn deploy(node: &Node, query: &str) {
    let path = format!("/api/v1/projects/acme/functions/embed/versions{query}");
    let deployed = node.post(&path, &component("embed"));
    assert_eq!(deployed.status, 200, "{}", deployed.text());
}

fn embed(node: &Node, texts: &Value) -> Reply {
    let body = json!({ "texts": texts }).to_string();
    node.post("/f/acme/embed/", body.as_bytes())
}

#[test]
fn a_function_gets_vectors_of_texts_and_sees_what_they_cost() {
    let node = node(config());
    let added = add(&node, &both());
    assert_eq!(added.status, 200, "{}", added.text());
    assert!(added.json()["tokenizer"].is_string());
    // The same again changes nothing; without its tokenizer it is another.
    assert_eq!(add(&node, &both()).json(), added.json());
    let alone = add(&node, &form(&[("model", &compass::onnx())]));
    assert_eq!(alone.error_code(), "already_exists");
    deploy(&node, "?models=minilm");
    let long = vec!["north"; 40].join(" ");
    let reply = embed(&node, &json!(["east", "west", long]));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let expected = json!({ "vectors": [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]] });
    assert_eq!(reply.json(), expected);
    let timing = reply.header("server-timing").unwrap();
    assert!(timing.contains("batch;desc=\"3 of "), "{timing}");
    // As many texts as one may bring, of which the tokens take turns to be found.
    let many = embed(&node, &json!(vec!["far north"; 256]));
    assert_eq!(many.json()["vectors"].as_array().unwrap().len(), 256);
}

#[test]
fn what_a_function_may_not_embed_it_is_told() {
    let node = node(config());
    add(&node, &both());
    let digits = std::fs::read(crate::support::root().join("samples/models/digits/digits.onnx"));
    let plain = node
        .connect()
        .request("PUT", "/api/v1/models/plain", None, &digits.unwrap());
    assert_eq!(plain.json()["tokenizer"], Value::Null);
    deploy(&node, "");
    let refused = embed(&node, &json!(["east"]));
    assert_eq!(refused.error_code(), "model_not_granted");
    deploy(&node, "?models=minilm");
    for (texts, code, words) in [
        (json!([]), "model_invalid_argument", "texts is empty"),
        (
            json!(vec!["far"; 257]),
            "model_too_large",
            "257 texts, at most 256",
        ),
        (
            json!(["x".repeat(8_193)]),
            "model_too_large",
            "text 0 has 8193 bytes, at most 8192 are allowed (text_bytes_max)",
        ),
    ] {
        let refused = embed(&node, &texts);
        assert_eq!(refused.error_code(), code);
        assert!(refused.text().contains(words), "{}", refused.text());
    }
}

#[test]
fn a_form_that_is_wrong_is_refused_by_field() {
    let (onnx, tokenizer) = (compass::onnx(), compass::tokenizer(512));
    let node = node(Config {
        model_bytes_max: 100_000,
        tokenizer_bytes_max: tokenizer.len() as u64,
        ..config()
    });
    let larger = |file: &[u8]| [file, b" "].concat();
    let large = vec![0; 100_001];
    for (fields, status, words) in [
        (
            vec![("tokenizer", tokenizer.clone())],
            400,
            "model: is missing from the form",
        ),
        (
            vec![("model", onnx.clone()), ("model", onnx.clone())],
            400,
            "model: is in the form twice",
        ),
        (
            vec![("model", onnx.clone()), ("extra", Vec::new())],
            400,
            "extra",
        ),
        (vec![("model", large)], 413, "(model_bytes_max)"),
        (
            vec![("model", onnx.clone()), ("tokenizer", larger(&tokenizer))],
            413,
            "(tokenizer_bytes_max)",
        ),
        (
            vec![("model", onnx.clone()), ("tokenizer", b"{}".to_vec())],
            400,
            "tokenizer cannot be read",
        ),
    ] {
        let fields: Vec<(&str, &[u8])> =
            fields.iter().map(|(name, file)| (*name, &**file)).collect();
        let refused = add(&node, &form(&fields));
        let message = refused.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(refused.status, status, "{message}");
        assert!(message.contains(words), "{message}");
    }
    let torn = &both()[..200];
    assert_eq!(add(&node, torn).status, 400);
    assert_eq!(add(&node, &both()).status, 200);
}

#[test]
fn the_command_line_adds_a_folder_and_a_restart_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("model.onnx"), compass::onnx()).unwrap();
    std::fs::write(model.join("tokenizer.json"), compass::tokenizer(512)).unwrap();
    let node = served(&data, &[]);
    let admin = node.admin_key.clone().unwrap();
    let key = node.project(&admin, "acme");
    let path = model.to_str().unwrap();
    let added = node.shoal(&admin, &["models", "add", path, "--name", "minilm"]);
    assert!(added.status.success(), "{added:?}");
    let deploy = "/api/v1/projects/acme/functions/embed/versions?models=minilm";
    node.ok("POST", deploy, &key, &component("embed"));
    node.kill();
    let node = served(&data, &[]);
    let body = json!({ "texts": ["north"] }).to_string();
    let reply = crate::support::Client::new(node.functions).request(
        "POST",
        "/f/acme/embed/",
        Some(&key),
        body.as_bytes(),
    );
    assert_eq!(reply.json(), json!({ "vectors": [[0.0, 1.0]] }));
}
