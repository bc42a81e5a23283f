//! `shoal functions`: what is deployed.

use super::client::{InProject, block_on};
use super::table::{Column, Output, data, text, time};
use clap::Subcommand;
use serde_json::{Value, json};

/// Lists, shows, promotes, rolls back and deletes functions.
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
    /// Give the version on trial more of the calls: by default all, which makes it live
    Promote {
        #[command(flatten)]
        named: Named,
        /// Percent of the calls
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100), default_value_t = 100)]
        percent: u8,
    },
    /// Make another version live: by default the newest that is older; while one is on trial, end the trial
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

const FUNCTION: [Column; 7] = [
    ("NAME", |row| text(&row["name"])),
    ("VERSION", |row| text(&row["live"]["version"])),
    ("MODELS", |row| text(&row["live"]["models"])),
    ("PUBLIC", |row| text(&row["live"]["public"])),
    ("DEPLOYED", |row| time(&row["live"]["created_at"])),
    ("CANARY", canary),
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
            Self::Promote { named, percent } => {
                let Named { name, of } = named;
                let (client, project) = of.project.resolve().await?;
                let path = format!("{}/promote", at(&project, &name));
                let function = client.post(&path, &json!({ "percent": percent })).await?;
                of.output.one(&function, |function| match percent {
                    100 => format!("{name}: version {} is live", function["live"]["version"]),
                    _ => format!(
                        "{name}: version {} gets {percent} % of the calls",
                        function["canary"]["version"]["version"]
                    ),
                });
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

/// Which version is on trial and how it goes, or which one failed.
fn canary(function: &Value) -> String {
    let of = |seen: &Value| {
        format!(
            "{} of {} failed, live {} of {}",
            seen["failed"], seen["calls"], seen["live_failed"], seen["live_calls"]
        )
    };
    let (canary, failed) = (&function["canary"], &function["rolled_back"]);
    if !canary.is_null() {
        let (version, percent) = (&canary["version"]["version"], &canary["percent"]);
        format!("{version} at {percent} %: {}", of(canary))
    } else if !failed.is_null() {
        format!("{} rolled back: {}", failed["version"], of(failed))
    } else {
        String::new()
    }
}

fn at(project: &str, name: &str) -> String {
    format!("/api/v1/projects/{project}/functions/{name}")
}
