//! What a new project is made of, as it stands in this repository: the template, and the SDK with the interfaces that it is
//! made from. In this binary, so that a project builds wherever cargo does.

/// A path in the project, and its text.
pub(super) type File = (&'static str, &'static str);

macro_rules! files {
    ($name:ident, $folder:literal, [$($path:literal $(as $as:literal)?),+ $(,)?]) => {
        pub(super) const $name: &[File] = &[$((
            files!(@path $path $($as)?),
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-sdk/", $folder, $path)),
        )),+];
    };
    (@path $path:literal) => { $path };
    (@path $path:literal $as:literal) => { $as };
}

files!(HTTP, "templates/http/", [
    "Cargo.toml",
    "shoal.toml",
    // Under its own name it would be followed here.
    "gitignore" as ".gitignore",
    "src/lib.rs",
]);

files!(EMBED, "templates/embed/", [
    "Cargo.toml",
    "shoal.toml",
    "gitignore" as ".gitignore",
    "src/lib.rs",
]);

files!(
    SDK,
    "rust/",
    [
        "Cargo.toml",
        "src/bindings.rs",
        "src/body.rs",
        "src/context.rs",
        "src/embeddings.rs",
        "src/error.rs",
        "src/fetch.rs",
        "src/lib.rs",
        "src/log.rs",
        "src/model.rs",
        "src/request.rs",
        "src/response.rs",
        "src/tensor.rs",
        "wit/function.wit",
        "wit/deps/cli.wit",
        "wit/deps/clocks.wit",
        "wit/deps/filesystem.wit",
        "wit/deps/http.wit",
        "wit/deps/inference.wit",
        "wit/deps/io.wit",
        "wit/deps/logging/logging.wit",
        "wit/deps/logging/world.wit",
        "wit/deps/nn.wit",
        "wit/deps/random.wit",
        "wit/deps/sockets.wit",
    ]
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn within(folder: &Path, root: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if path.is_dir() {
                within(&path, root, found);
            } else if name.ends_with(".rs") || name.ends_with(".wit") {
                found.insert(name);
            }
        }
    }

    #[test]
    fn every_file_of_the_sdk_is_in_a_new_project() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sdk/rust");
        let mut there = BTreeSet::from(["Cargo.toml".to_owned()]);
        for folder in ["src", "wit"] {
            within(&root.join(folder), &root, &mut there);
        }
        let listed: BTreeSet<String> = SDK.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(listed, there);
    }
}
