//! `shoal functions`: what is deployed.

use super::client::{InProject, block_on};
use super::table::{Column, Output, data, text, time};
use clap::Subcommand;
use serde_json::json;

/// Lists, shows, rolls back and deletes functions.
#[derive(Debug, clap::Args)]
pub(super) struct Functions {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every function of the project
    List(Of),
    /// One function
    Show(Named),
    /// The versions that are kept of a function
    Versions(Named),
    /// Make another version live: by default the newest that is older
    Rollback {
        #[command(flatten)]
        named: Named,
        /// Which version
        #[arg(long)]
        version: Option<u32>,
    },
    /// Delete a function and all its versions
    Delete(Named),
}

#[derive(Debug, clap::Args)]
struct Of {
    #[command(flatten)]
    project: InProject,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The function
    name: String,
    #[command(flatten)]
    of: Of,
}

const FUNCTION: [Column; 6] = [
    ("NAME", |row| text(&row["name"])),
    ("VERSION", |row| text(&row["live"]["version"])),
    ("MODELS", |row| text(&row["live"]["models"])),
    ("PUBLIC", |row| text(&row["live"]["public"])),
    ("DEPLOYED", |row| time(&row["live"]["created_at"])),
    ("PATH", |row| text(&row["path"])),
];

const VERSION: [Column; 6] = [
    ("VERSION", |row| text(&row["version"])),
    ("MODELS", |row| text(&row["models"])),
    ("PUBLIC", |row| text(&row["public"])),
    ("BYTES", |row| text(&row["bytes"])),
    ("DEPLOYED", |row| time(&row["created_at"])),
    ("BY", |row| text(&row["created_by"])),
];

impl Functions {
    pub(super) fn run(self) -> anyhow::Result<()> {
        block_on(self.command.run())
    }
}

impl Command {
    async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List(of) => {
                let (client, project) = of.project.resolve().await?;
                let functions = client
                    .get(&format!("/api/v1/projects/{project}/functions"))
                    .await?;
                of.output.rows(&functions, data(&functions), &FUNCTION);
            }
            Self::Show(Named { name, of }) => {
                let (client, project) = of.project.resolve().await?;
                let function = client.get(&at(&project, &name)).await?;
                of.output
                    .rows(&function, std::slice::from_ref(&function), &FUNCTION);
            }
            Self::Versions(Named { name, of }) => {
                let (client, project) = of.project.resolve().await?;
                let versions = client
                    .get(&format!("{}/versions", at(&project, &name)))
                    .await?;
                of.output.rows(&versions, data(&versions), &VERSION);
            }
            Self::Rollback { named, version } => {
                let Named { name, of } = named;
                let (client, project) = of.project.resolve().await?;
                let path = format!("{}/rollback", at(&project, &name));
                let function = client.post(&path, &json!({ "version": version })).await?;
                of.output.one(&function, |function| {
                    format!("{name}: version {} is live", function["live"]["version"])
                });
            }
            Self::Delete(Named { name, of }) => {
                let (client, project) = of.project.resolve().await?;
                let deleted = client.delete(&at(&project, &name)).await?;
                of.output.one(&deleted, |_| format!("{name}: deleted"));
            }
        }
        Ok(())
    }
}

fn at(project: &str, name: &str) -> String {
    format!("/api/v1/projects/{project}/functions/{name}")
}
