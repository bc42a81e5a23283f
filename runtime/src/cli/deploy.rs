//! `shoal deploy`: a component becomes a function's live version.

use super::client::{InProject, block_on};
use super::table::Output;
use crate::egress::HostRule;
use anyhow::{Context as _, ensure};
use http::Method;
use std::path::PathBuf;

/// Deploys a component; it is live when this is done.
#[derive(Debug, clap::Args)]
pub(super) struct Deploy {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// The function. Default: the file's name
    #[arg(long)]
    name: Option<String>,
    /// Models it may use
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    models: Vec<String>,
    /// Hosts it may send requests to, like api.example.com, api.example.com:8443 or *.example.com
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    egress: Vec<HostRule>,
    /// Let anybody call it without a key; the project pays
    #[arg(long)]
    public: bool,
    #[command(flatten)]
    project: InProject,
    #[command(flatten)]
    output: Output,
}

impl Deploy {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let wasm = std::fs::read(&self.file)
            .with_context(|| format!("reading {}", self.file.display()))?;
        ensure!(!wasm.is_empty(), "{} is empty", self.file.display());
        let stem = self
            .file
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        let name = self.name.clone().or(stem).context("--name is missing")?;
        block_on(async {
            let (client, project) = self.project.resolve().await?;
            let hosts: Vec<String> = self.egress.iter().map(HostRule::to_string).collect();
            let path = format!(
                "/api/v1/projects/{project}/functions/{name}/versions?models={}&egress={}&public={}",
                self.models.join(","),
                hosts.join(","),
                self.public
            );
            let function = client.call(Method::POST, &path, wasm.into()).await?;
            let at = client.functions_url().await?;
            self.output.one(&function, |function| {
                let path = function["path"].as_str().unwrap_or_default();
                format!(
                    "{name}: version {} is live at {at}{path}",
                    function["live"]["version"]
                )
            });
            Ok(())
        })
    }
}
