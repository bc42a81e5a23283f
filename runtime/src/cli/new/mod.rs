//! `shoal new`: a function project that builds as it stands.

mod files;

use crate::sandbox::check_name;
use anyhow::{Context as _, ensure};
use std::fs::{self, DirBuilder};
use std::path::{Path, PathBuf};

/// Packages that a project is made of.
const TAKEN: [&str; 6] = ["alloc", "core", "serde", "shoal-sdk", "std", "test"];

/// Makes a function project.
#[derive(Debug, clap::Args)]
pub(super) struct New {
    /// The function, and its folder
    #[arg(value_name = "NAME")]
    path: PathBuf,
    /// What it is written in
    #[arg(long, value_enum, default_value_t)]
    lang: Language,
    /// What it begins with
    #[arg(long, value_enum, default_value_t)]
    template: Template,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Language {
    /// Rust, for wasm32-wasip2
    #[default]
    Rust,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Template {
    /// An HTTP request in, a model called, JSON out
    #[default]
    Http,
    /// Texts in, those that answer a question first: a model of texts called
    Embed,
}

impl Template {
    fn files(self) -> &'static [files::File] {
        match self {
            Self::Http => files::HTTP,
            Self::Embed => files::EMBED,
        }
    }

    /// What `shoal dev` needs beside the project.
    fn dev(self) -> &'static str {
        match self {
            Self::Http => "",
            Self::Embed => " --model minilm=DIR",
        }
    }
}

impl New {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let name = self.path.file_name().and_then(|name| name.to_str());
        let name = name.context("NAME must be that of a folder to be made")?;
        check_name("function", name)?;
        ensure!(
            name.starts_with(|first: char| first.is_ascii_lowercase()) && !TAKEN.contains(&name),
            "cargo makes no package of the name {name:?}: choose one that begins with a letter and is no other package's"
        );
        let Language::Rust = self.lang;
        DirBuilder::new()
            .create(&self.path)
            .with_context(|| format!("making the folder {}", self.path.display()))?;
        for (path, text) in self.template.files() {
            write(&self.path.join(path), &text.replace("{{name}}", name))?;
        }
        for (path, text) in files::SDK {
            write(&self.path.join("shoal-sdk").join(path), text)?;
        }
        let path = self.path.display();
        println!(
            "{path}: a function in Rust, its SDK beside it\n\n  shoal dev {path}{}      runs it here, again after each change\n  shoal deploy {path}   puts it on a node",
            self.template.dev()
        );
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().context("a file is in a folder")?;
    let what = || format!("writing {}", path.display());
    fs::create_dir_all(folder).with_context(what)?;
    ensure!(!path.exists(), "{} is there already", path.display());
    fs::write(path, text).with_context(what)
}
