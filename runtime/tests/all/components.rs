//! The built samples belong to the sources beside them.

use crate::support::root;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Every file under `folder` whose name ends so.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// As `samples/build.sh` defines it.
fn inputs_sha256(name: &str) -> String {
    let root = root();
    let mut folder = root.join("samples").join(name);
    if !folder.exists() {
        folder = root.join("samples/fixtures").join(name);
    }
    let mut paths = vec![
        root.join("samples/Cargo.toml"),
        root.join("samples/Cargo.lock"),
        root.join("guest-sdk/rust/Cargo.toml"),
        folder.join("Cargo.toml"),
    ];
    files(&root.join("guest-sdk/rust/src"), ".rs", &mut paths);
    files(&root.join("wit"), ".wit", &mut paths);
    files(&folder.join("src"), ".rs", &mut paths);
    let mut named: Vec<(String, PathBuf)> = paths
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            (name.to_owned(), path)
        })
        .collect();
    named.sort();
    let lines: String = named
        .into_iter()
        .map(|(name, path)| format!("{}  {name}\n", sha256(&std::fs::read(path).unwrap())))
        .collect();
    sha256(lines.as_bytes())
}

#[test]
fn every_built_component_is_of_the_sources_beside_it() {
    let components = root().join("samples/components");
    let manifest = std::fs::read_to_string(components.join("MANIFEST")).unwrap();
    let lines: Vec<Vec<&str>> = manifest
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert!(lines.len() >= 4);
    for line in lines {
        let [inputs, built, file] = line[..] else {
            panic!("{line:?} is not two hashes and a name");
        };
        let name = file.strip_suffix(".wasm").unwrap();
        let component = std::fs::read(components.join(file)).unwrap();
        assert_eq!(
            sha256(&component),
            built,
            "{file} is not what the manifest names"
        );
        assert_eq!(
            inputs_sha256(name),
            inputs,
            "{file} is older than its sources: run samples/build.sh"
        );
    }
}
