//! `shoal routes`: every route of the binary, and what each asks for.

use crate::http::{NODE_ROUTES, NodeRoute};
use serde::Serialize;

/// Prints the route table.
#[derive(Debug, clap::Args)]
pub(super) struct Routes {
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    listener: &'static str,
    method: String,
    path: String,
    key: &'static str,
}

impl Routes {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let own = NODE_ROUTES.iter().map(|route| {
            let NodeRoute {
                listener,
                method,
                path,
                key,
            } = *route;
            Row {
                listener,
                method: method.to_owned(),
                path: path.to_owned(),
                key,
            }
        });
        let api = crate::api::table().into_iter().map(|(method, path)| Row {
            listener: "admin_listen",
            method: method.to_string(),
            key: if path.starts_with("/v1/organization/") {
                "admin"
            } else {
                "project or admin"
            },
            path,
        });
        let rows: Vec<Row> = own.chain(api).collect();
        if self.json {
            println!("{}", serde_json::to_string(&rows)?);
            return Ok(());
        }
        for row in rows {
            println!(
                "{:<13} {:<7} {:<18} {}",
                row.listener, row.method, row.key, row.path
            );
        }
        Ok(())
    }
}
