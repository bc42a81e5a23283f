//! `shoal serve`: what a node was told survives a restart and a kill; who may not come in stays out.

use crate::support::{Client, Served, component, root, served, served_with};
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;

const FUNCTIONS: &str = "/api/v1/projects/acme/functions";

fn versions(function: &str) -> String {
    format!("{FUNCTIONS}/{function}/versions")
}

/// A node with the project `acme` and its key.
fn with_acme(data: &std::path::Path) -> (Served, String, String) {
    let node = served(data, &[]);
    let admin = node.admin_key.clone().unwrap();
    let key = node.project(&admin, "acme");
    (node, admin, key)
}

#[test]
fn what_was_deployed_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (node, admin, key) = with_acme(&data);
    node.add_digits(&admin);
    let deploy = format!("{}?models=digits&public=true", versions("hello"));
    let deployed = node.ok("POST", &deploy, &key, &component("hello"));
    assert_eq!(deployed["live"]["version"], 1);
    assert_eq!(node.call("/f/acme/hello/", None).status, 200);
    node.kill();

    let node = served(&data, &[]);
    assert_eq!(node.admin_key, None, "the first key is made once");
    assert_eq!(node.call("/f/acme/hello/", None).status, 200);
    let shown = node.ok("GET", &format!("{FUNCTIONS}/hello"), &key, b"");
    assert_eq!(shown, deployed);
    let models = node.ok("GET", "/api/v1/models", &key, b"");
    assert_eq!(models["data"][0]["name"], "digits");
    assert_eq!(models["data"][0]["loaded"], true);
    node.stop();
    let node = served(&data, &["--new-admin-key"]);
    let another = node.admin_key.clone().unwrap();
    let keys = node.ok("GET", "/v1/organization/admin_api_keys", &another, b"");
    assert_eq!(keys["data"].as_array().unwrap().len(), 2);
}

#[test]
fn what_was_deleted_leaves_the_disk_and_what_is_kept_stays() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let collect = [("SHOAL_COLLECT_INTERVAL", "50ms")];
    let node = served_with(&data, &[], &collect);
    let admin = node.admin_key.clone().unwrap();
    let key = node.project(&admin, "acme");
    node.add_digits(&admin);
    for name in ["hello", "echo"] {
        let deploy = format!("{}?public=true", versions(name));
        node.ok("POST", &deploy, &key, &component(name));
    }
    // Two components and a model; the code of two components.
    assert_eq!((blobs(&data), code(&data)), (3, 2));
    // Another file under a name that is taken is kept before it is refused: the same model by another producer.
    let mut other = std::fs::read(root().join("samples/models/digits/digits.onnx")).unwrap();
    other.extend(b"\x12\x01x");
    let refused = node.api("PUT", "/api/v1/models/digits", &admin, &other);
    assert_eq!(
        (refused.status, &*refused.error_code()),
        (409, "already_exists")
    );
    let began = tokio::time::Instant::now();
    while blobs(&data) != 3 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    node.ok("DELETE", &format!("{FUNCTIONS}/echo"), &key, b"");
    node.ok("DELETE", "/api/v1/models/digits", &admin, b"");
    while blobs(&data) != 1 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    while code(&data) != 1 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(node.call("/f/acme/hello/", None).status, 200);
    node.stop();
    let node = served_with(&data, &[], &collect);
    assert_eq!((blobs(&data), code(&data)), (1, 1));
    assert_eq!(node.call("/f/acme/hello/", None).status, 200);
}

fn blobs(data: &std::path::Path) -> usize {
    let folders = std::fs::read_dir(data.join("blobs")).unwrap();
    let files = |folder: std::fs::DirEntry| std::fs::read_dir(folder.path()).unwrap().count();
    folders.map(|folder| files(folder.unwrap())).sum()
}

fn code(data: &std::path::Path) -> usize {
    let files = std::fs::read_dir(data.join("code")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".code")).count()
}

#[test]
fn one_node_has_a_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let _node = served(&data, &[]);
    let second = Served::refused(&data, &[]);
    assert_eq!(second.status.code(), Some(1));
    let words = String::from_utf8(second.stderr).unwrap();
    assert!(words.contains("open in another process"), "{words}");
}

#[test]
fn a_wrong_configuration_is_named_and_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("node.toml"));
    for (text, words) in [
        (
            "guest_max = 1",
            "unknown key guest_max; did you mean guests_max?",
        ),
        (
            "guest_handles_max = 0",
            "guest_handles_max must be 16 to 1000000, got 0",
        ),
        (
            "guest_handles_max = \"many\"",
            "guest_handles_max must be a whole number",
        ),
        (
            "admin_listen = \"127.0.0.1:9\"\nlisten =",
            "not a TOML file",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let config = ["--config", file.to_str().unwrap()];
        let output = Served::refused(&data, &config);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
    assert!(
        !data.exists(),
        "nothing is made before the configuration is read"
    );
}

#[test]
fn a_function_asks_for_its_projects_key_unless_it_is_public() {
    let folder = tempfile::tempdir().unwrap();
    let (node, admin, key) = with_acme(&folder.path().join("data"));
    let foreign = node.project(&admin, "birch");
    node.ok("POST", &versions("private"), &key, &component("hello"));
    let public = format!("{}?public=true", versions("public"));
    node.ok("POST", &public, &key, &component("hello"));
    let unknown = format!("{key}0");
    for (path, caller, status, code) in [
        ("/f/acme/public/", None, 200, ""),
        ("/f/acme/public/", Some(&foreign), 200, ""),
        ("/f/acme/private/", Some(&key), 200, ""),
        ("/f/acme/private/", None, 401, "missing_api_key"),
        ("/f/acme/absent/", None, 401, "missing_api_key"),
        ("/f/acme/private/", Some(&unknown), 401, "invalid_api_key"),
        (
            "/f/acme/private/",
            Some(&foreign),
            404,
            "function_not_found",
        ),
        ("/f/acme/absent/", Some(&foreign), 404, "function_not_found"),
        ("/f/acme/absent/", Some(&key), 404, "function_not_found"),
        (
            "/f/acme/private/",
            Some(&admin),
            403,
            "project_key_required",
        ),
    ] {
        let reply = node.call(path, caller.map(String::as_str));
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        if status != 200 {
            assert_eq!(reply.error_code(), code, "{path}");
        }
        assert_eq!(
            reply.header("www-authenticate"),
            (status == 401).then_some("Bearer")
        );
    }
    // Foreign and absent are one answer, byte for byte.
    let bodies: HashSet<Vec<u8>> = ["/f/acme/private/", "/f/acme/absent/"]
        .map(|path| node.call(path, Some(&foreign)).body)
        .into();
    assert_eq!(bodies.len(), 1);
}

#[test]
fn a_revoked_key_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (node, admin, key) = with_acme(&folder.path().join("data"));
    node.ok("POST", &versions("hello"), &key, &component("hello"));
    assert_eq!(node.call("/f/acme/hello/", Some(&key)).status, 200);
    let keys = "/v1/organization/projects/acme/api_keys";
    let listed = node.ok("GET", keys, &admin, b"");
    let id = listed["data"][0]["id"].as_str().unwrap();
    assert!(!listed.to_string().contains(&key[key.len() - 64..]));
    let revoked = node.ok("DELETE", &format!("{keys}/{id}"), &admin, b"");
    assert_eq!(revoked["deleted"], true);
    assert_eq!(
        node.call("/f/acme/hello/", Some(&key)).error_code(),
        "invalid_api_key"
    );
    assert_eq!(
        node.api("GET", FUNCTIONS, &key, b"").error_code(),
        "invalid_api_key"
    );
    let last = node.ok("GET", "/v1/organization/admin_api_keys", &admin, b"");
    let last = last["data"][0]["id"].as_str().unwrap();
    let reply = node.api(
        "DELETE",
        &format!("/v1/organization/admin_api_keys/{last}"),
        &admin,
        b"",
    );
    assert_eq!(
        (reply.status, reply.error_code().as_str()),
        (409, "last_admin_key")
    );
}

#[test]
fn every_route_but_the_declared_ones_asks_for_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let node = served(&folder.path().join("data"), &[]);
    let table = node.shoal("", &["routes", "--json"]).stdout;
    let table: serde_json::Value = serde_json::from_slice(&table).unwrap();
    let mut asked = 0;
    for row in table.as_array().unwrap() {
        let (listener, path) = (
            row["listener"].as_str().unwrap(),
            row["path"].as_str().unwrap(),
        );
        let method = if row["method"] == "any" {
            "GET"
        } else {
            row["method"].as_str().unwrap()
        };
        let open = row["key"] == "none";
        assert_eq!(open, ["/healthz", "/readyz"].contains(&path), "{path}");
        let path = path
            .replace("{function}.{project}.<domain>", "")
            .replace(['{', '}'], "");
        for (key, address) in [("listen", node.functions), ("admin_listen", node.admin)] {
            if listener != key && listener != "both" {
                continue;
            }
            for caller in [
                None,
                Some("sk-shoal-0123456789abcdef-0123"),
                Some("sk-other"),
            ] {
                let mut client = Client::new(address);
                let reply = if row["path"].as_str().unwrap().starts_with('{') {
                    client.send(b"GET /x HTTP/1.1\r\nhost: f.p.localhost\r\n\r\n");
                    client.reply()
                } else {
                    client.request(method, &path, caller, b"")
                };
                assert_eq!(
                    reply.status == 401,
                    !open,
                    "{method} {path}: {}",
                    reply.text()
                );
                asked += 1;
            }
        }
    }
    assert!(asked > 60, "{asked}");
    assert_eq!(
        node.api("GET", "/api/v1/absent", "sk-other", b"").status,
        401
    );
}

#[test]
fn the_command_line_deploys_calls_rolls_back_and_deletes() {
    let folder = tempfile::tempdir().unwrap();
    let (node, admin, key) = with_acme(&folder.path().join("data"));
    let components = crate::support::root().join("samples/components");
    let file = |name: &str| components.join(name).display().to_string();
    let run = |key: &str, arguments: &[&str]| run(&node, key, arguments);
    let onnx = crate::support::root().join("samples/models/digits/digits.onnx");
    let said = run(
        &admin,
        &["models", "add", onnx.to_str().unwrap(), "--name", "digits"],
    );
    assert_eq!(said, "digits: loaded\n");
    let said = run(&key, &["deploy", &file("hello.wasm")]);
    let at = format!("http://{}/f/acme/hello/", node.functions);
    assert_eq!(said, format!("hello: version 1 is live at {at}\n"));
    assert_eq!(run(&key, &["invoke", "hello"]), "Hello from Shoal\n");
    run(
        &key,
        &[
            "deploy",
            &file("digits.wasm"),
            "--name",
            "hello",
            "--models",
            "digits",
        ],
    );
    let listed = run(&key, &["functions", "list"]);
    assert!(
        listed
            .lines()
            .any(|line| line.starts_with("hello  2        digits")),
        "{listed}"
    );
    let seven = crate::support::root().join("samples/models/digits/seven.png");
    let seven = format!("@{}", seven.display());
    let call = [
        "invoke",
        "hello",
        "--content-type",
        "image/png",
        "--data",
        &seven,
    ];
    let said = run(&key, &call);
    assert!(said.contains("\"digit\":7"), "{said}");
    assert_eq!(
        run(&key, &["functions", "rollback", "hello"]),
        "hello: version 1 is live\n"
    );
    assert_eq!(run(&key, &["invoke", "hello"]), "Hello from Shoal\n");
    let versions: serde_json::Value =
        serde_json::from_str(&run(&key, &["functions", "versions", "hello", "--json"])).unwrap();
    assert_eq!(
        (
            &versions["live"],
            versions["data"].as_array().unwrap().len()
        ),
        (&json!(1), 2)
    );
    assert_eq!(
        run(&key, &["functions", "delete", "hello"]),
        "hello: deleted\n"
    );
    let gone = node.shoal(&key, &["invoke", "hello"]);
    assert_eq!(gone.status.code(), Some(1));
    let wrong = node.shoal("sk-shoal-wrong", &["functions", "list"]);
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(said.contains("wrong or was revoked"), "{said}");
}

/// Runs a command that must work; what it prints.
fn run(node: &Served, key: &str, arguments: &[&str]) -> String {
    let output = node.shoal(key, arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_command_line_makes_and_lists_projects_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (node, admin, _) = with_acme(&folder.path().join("data"));
    let run = |key: &str, arguments: &[&str]| run(&node, key, arguments);
    let created = run(&admin, &["keys", "create", "ci", "--project", "acme"]);
    assert!(created.starts_with("sk-shoal-"));
    assert!(run(&admin, &["keys", "list", "--project", "acme"]).contains("ci"));
    assert!(run(&admin, &["projects", "list"]).contains("acme"));
}
