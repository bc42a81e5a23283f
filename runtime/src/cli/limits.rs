//! `shoal limits`: what holds for a project on the node's devices.

use super::client::{Target, block_on};
use super::table::Output;
use serde_json::{Value, json};

/// Shows what a project may use of the node's devices; with an admin key, changes it
#[derive(Debug, clap::Args)]
pub(super) struct Limits {
    /// The project
    #[arg(value_name = "PROJECT")]
    project: String,
    /// Device time it gets beside others that wait too, in proportion; 0: only what is idle
    #[arg(long, value_name = "0-1000")]
    weight: Option<u32>,
    /// Whether its functions may use the class priority
    #[arg(long, value_name = "true|false")]
    priority: Option<bool>,
    /// Rows that it may queue
    #[arg(long, value_name = "N")]
    rows_max: Option<u64>,
    /// Bytes that it may queue
    #[arg(long, value_name = "N")]
    bytes_max: Option<u64>,
    /// Requests that may wait for their answer
    #[arg(long, value_name = "N")]
    requests_max: Option<u64>,
    /// Make everything that is not set here as it is for all projects
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

const NAMES: [&str; 5] = [
    "weight",
    "priority",
    "rows_max",
    "bytes_max",
    "requests_max",
];

impl Limits {
    pub(super) fn run(self) -> anyhow::Result<()> {
        block_on(async {
            let client = self.target.client();
            let path = format!("/api/v1/projects/{}/limits", self.project);
            let now = client.get(&path).await?;
            let limits = match self.wanted(&now) {
                Some(wanted) => client.put(&path, &wanted).await?,
                None => now,
            };
            self.output.one(&limits, |limits| {
                let line = |name: &&str| {
                    let own = limits["own"]
                        .as_array()
                        .is_some_and(|own| own.contains(&json!(name)));
                    let whose = if own { "" } else { " (as for all)" };
                    format!("{name}: {}{whose}", limits[*name])
                };
                NAMES.iter().map(line).collect::<Vec<_>>().join("\n")
            });
            Ok(())
        })
    }

    /// What was set before, and what is set now; `None` if nothing is.
    fn wanted(&self, now: &Value) -> Option<Value> {
        let given = [
            self.weight.map(Value::from),
            self.priority.map(Value::from),
            self.rows_max.map(Value::from),
            self.bytes_max.map(Value::from),
            self.requests_max.map(Value::from),
        ];
        if !self.reset && given.iter().all(Option::is_none) {
            return None;
        }
        let own = now["own"].as_array();
        let mut wanted = serde_json::Map::new();
        for (name, given) in NAMES.iter().zip(given) {
            let kept = own.is_some_and(|own| own.contains(&json!(name))) && !self.reset;
            let value = given.or_else(|| kept.then(|| now[*name].clone()));
            wanted.extend(value.map(|value| ((*name).to_owned(), value)));
        }
        Some(wanted.into())
    }
}
