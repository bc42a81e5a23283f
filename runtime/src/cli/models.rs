//! `shoal models`: what a node can run.

use super::client::{Target, block_on};
use super::table::{Column, Output, data, text, time};
use anyhow::Context as _;
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
    /// Check an ONNX file, copy it to the node and load it (needs an admin key)
    Add {
        /// The ONNX file
        file: PathBuf,
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

const MODEL: [Column; 6] = [
    ("NAME", |row| text(&row["name"])),
    ("BYTES", |row| text(&row["bytes"])),
    ("MEMORY", |row| text(&row["memory_bytes"])),
    ("BATCHES", |row| text(&row["batchable"])),
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
            Self::Add { file, name, at } => {
                let onnx =
                    std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
                let path = format!("/api/v1/models/{name}");
                let model = at
                    .target
                    .client()
                    .call(Method::PUT, &path, onnx.into())
                    .await?;
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
