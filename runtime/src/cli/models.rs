//! `shoal models`: what a node can run.

use super::client::{Target, block_on};
use super::model_files;
use super::table::{Column, Output, data, text, time};
use clap::Subcommand;
use http::Method;
use std::path::PathBuf;

/// Adds, lists, shows and removes models.
#[derive(Debug, clap::Args)]
pub(super) struct Models {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a model, copy it to the node and load it (needs an admin key)
    Add {
        /// An ONNX file, or a folder with model.onnx and, for texts, tokenizer.json
        #[arg(value_name = "DIR|FILE")]
        path: PathBuf,
        /// Its tokenizer, where that is not in the folder
        #[arg(long, value_name = "FILE")]
        tokenizer: Option<PathBuf>,
        /// What functions call it
        #[arg(long)]
        name: String,
        #[command(flatten)]
        at: At,
    },
    /// Every model of the node
    List(At),
    /// One model
    Show(Named),
    /// Remove a model that no function is granted (needs an admin key)
    Remove(Named),
}

#[derive(Debug, clap::Args)]
struct At {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The model
    name: String,
    #[command(flatten)]
    at: At,
}

const MODEL: [Column; 7] = [
    ("NAME", |row| text(&row["name"])),
    ("BYTES", |row| text(&row["bytes"])),
    ("MEMORY", |row| text(&row["memory_bytes"])),
    ("BATCHES", |row| text(&row["batchable"])),
    ("TEXTS", |row| (!row["tokenizer"].is_null()).to_string()),
    ("LOADED", |row| text(&row["loaded"])),
    ("ADDED", |row| time(&row["created_at"])),
];

impl Models {
    pub(super) fn run(self) -> anyhow::Result<()> {
        block_on(self.command.run())
    }
}

impl Command {
    async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Add {
                path,
                tokenizer,
                name,
                at,
            } => {
                let source = model_files::read(&name, &path, tokenizer.as_deref())?;
                let (kind, body) = model_files::body(&source);
                let path = format!("/api/v1/models/{name}");
                let client = at.target.client();
                let then = "checking and loading";
                let model = client.upload(Method::PUT, &path, &kind, body, then);
                let model = model.await?;
                at.output.one(&model, |_| format!("{name}: loaded"));
            }
            Self::List(at) => {
                let models = at.target.client().get("/api/v1/models").await?;
                at.output.rows(&models, data(&models), &MODEL);
            }
            Self::Show(Named { name, at }) => {
                let model = at
                    .target
                    .client()
                    .get(&format!("/api/v1/models/{name}"))
                    .await?;
                at.output.rows(&model, std::slice::from_ref(&model), &MODEL);
            }
            Self::Remove(Named { name, at }) => {
                let removed = at
                    .target
                    .client()
                    .delete(&format!("/api/v1/models/{name}"))
                    .await?;
                at.output.one(&removed, |_| format!("{name}: removed"));
            }
        }
        Ok(())
    }
}
