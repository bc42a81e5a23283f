//! `shoal projects` and `shoal keys`: who may use a node. Both need an admin key.

use super::client::{Client, Target, block_on};
use super::table::{Column, Output, data, text, time};
use clap::Subcommand;
use serde_json::{Value, json};

/// Creates and lists projects.
#[derive(Debug, clap::Args)]
pub(super) struct Projects {
    #[command(subcommand)]
    command: ProjectsCommand,
}

#[derive(Debug, Subcommand)]
enum ProjectsCommand {
    /// A new project
    Create {
        /// Its name: part of its functions' addresses
        name: String,
        #[command(flatten)]
        at: At,
    },
    /// Every project of the node
    List(At),
}

/// Creates, lists and revokes keys.
#[derive(Debug, clap::Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// A new key, shown this once
    Create {
        /// What it is for
        #[arg(default_value = "default")]
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Every key, without its secret
    List(Of),
    /// Refuse a key from now on
    Revoke {
        /// Its id: key_...
        id: String,
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, clap::Args)]
struct At {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct Of {
    /// The project the key is of
    #[arg(long, value_name = "NAME", required_unless_present = "admin")]
    project: Option<String>,
    /// The operator's keys instead of a project's
    #[arg(long, conflicts_with = "project")]
    admin: bool,
    #[command(flatten)]
    at: At,
}

const PROJECT: [Column; 3] = [
    ("NAME", |row| text(&row["name"])),
    ("ID", |row| text(&row["id"])),
    ("CREATED", |row| time(&row["created_at"])),
];

const KEY: [Column; 4] = [
    ("ID", |row| text(&row["id"])),
    ("NAME", |row| text(&row["name"])),
    ("KEY", |row| text(&row["redacted_value"])),
    ("CREATED", |row| time(&row["created_at"])),
];

const PROJECTS: &str = "/v1/organization/projects";
const ADMIN_KEYS: &str = "/v1/organization/admin_api_keys";

impl Projects {
    pub(super) fn run(self) -> anyhow::Result<()> {
        block_on(async {
            match self.command {
                ProjectsCommand::Create { name, at } => {
                    let project = at
                        .target
                        .client()
                        .post(PROJECTS, &json!({ "name": name }))
                        .await?;
                    at.output.one(&project, |project| {
                        format!("{name}: created ({})", text(&project["id"]))
                    });
                }
                ProjectsCommand::List(at) => {
                    let projects = all(&at.target.client(), PROJECTS).await?;
                    at.output.rows(&projects, data(&projects), &PROJECT);
                }
            }
            Ok(())
        })
    }
}

impl Keys {
    pub(super) fn run(self) -> anyhow::Result<()> {
        block_on(async {
            match self.command {
                KeysCommand::Create { name, of } => {
                    let client = of.at.target.client();
                    let created = client
                        .post(&of.accounts(), &json!({ "name": name }))
                        .await?;
                    of.at
                        .output
                        .one(&created, |created| match &created["value"] {
                            Value::Null => text(&created["api_key"]["value"]),
                            value => text(value),
                        });
                }
                KeysCommand::List(of) => {
                    let keys = all(&of.at.target.client(), &of.keys()).await?;
                    of.at.output.rows(&keys, data(&keys), &KEY);
                }
                KeysCommand::Revoke { id, of } => {
                    let client = of.at.target.client();
                    let revoked = client.delete(&format!("{}/{id}", of.keys())).await?;
                    of.at.output.one(&revoked, |_| format!("{id}: revoked"));
                }
            }
            Ok(())
        })
    }
}

impl Of {
    fn keys(&self) -> String {
        match &self.project {
            Some(project) => format!("{PROJECTS}/{project}/api_keys"),
            None => ADMIN_KEYS.to_owned(),
        }
    }

    fn accounts(&self) -> String {
        match &self.project {
            Some(project) => format!("{PROJECTS}/{project}/service_accounts"),
            None => ADMIN_KEYS.to_owned(),
        }
    }
}

/// Every page of a list, as one.
async fn all(client: &Client, path: &str) -> anyhow::Result<Value> {
    let mut rows = Vec::new();
    let mut after = String::new();
    loop {
        let page = client.get(&format!("{path}?limit=100{after}")).await?;
        rows.extend_from_slice(data(&page));
        if page["has_more"] != true {
            return Ok(json!({ "object": "list", "data": rows }));
        }
        after = format!("&after={}", text(&page["last_id"]));
    }
}
