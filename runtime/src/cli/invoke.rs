//! `shoal invoke`: one call of a function.

use super::client::{InProject, block_on};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use std::io::Write as _;
use tokio::time::Instant;

/// Calls a function: its answer's body goes to stdout.
#[derive(Debug, clap::Args)]
pub(super) struct Invoke {
    /// The function
    name: String,
    /// What to POST: a text, or @FILE; without it, a GET
    #[arg(long, value_name = "D|@FILE")]
    data: Option<String>,
    /// Its type
    #[arg(long, value_name = "TYPE", default_value = "application/json")]
    content_type: String,
    /// Path and query as the function sees them
    #[arg(long, default_value = "/")]
    path: String,
    /// Show status and timing on stderr
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    project: InProject,
}

impl Invoke {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let body = match &self.data {
            None => None,
            Some(data) => Some(match data.strip_prefix('@') {
                Some(file) => {
                    Bytes::from(std::fs::read(file).with_context(|| format!("reading {file}"))?)
                }
                None => Bytes::from(data.clone()),
            }),
        };
        block_on(async {
            let (client, project) = self.project.resolve().await?;
            let at = client.functions_url().await?;
            let path = self.path.trim_start_matches('/');
            let url = format!("{at}/f/{project}/{}/{path}", self.name);
            let method = if body.is_some() {
                Method::POST
            } else {
                Method::GET
            };
            let began = Instant::now();
            let response = client
                .send(method, &url, &self.content_type, body.unwrap_or_default())
                .await?;
            let status = response.status();
            if self.verbose {
                let timing = response.headers().get("server-timing");
                let timing = timing
                    .and_then(|timing| timing.to_str().ok())
                    .unwrap_or_default();
                eprintln!(
                    "{status} after {:.1} ms; {timing}",
                    began.elapsed().as_secs_f64() * 1e3
                );
            }
            let mut body = response.into_body();
            let mut stdout = std::io::stdout().lock();
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame.context("reading the answer")?.into_data() {
                    stdout.write_all(&data)?;
                    stdout.flush()?;
                }
            }
            if !status.is_success() {
                bail!("{} answered {status}", self.name);
            }
            Ok(())
        })
    }
}
