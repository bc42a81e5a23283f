//! `shoal deploy`: a component, or what a project is built to, becomes a function's live version.

use super::build::build;
use super::client::{Client, InProject, block_on};
use super::manifest::Manifest;
use super::table::Output;
use crate::egress::HostRule;
use anyhow::{Context as _, ensure};
use http::Method;
use serde_json::Value;
use shoal_inference::Class;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

/// Deploys a function project, or a component; it is live when this is done.
#[derive(Debug, clap::Args)]
pub(super) struct Deploy {
    /// A project's folder, which is built first, or a component
    #[arg(value_name = "PATH|FILE.wasm", default_value = ".")]
    path: PathBuf,
    /// The function. Default: the project's, or the file's name
    #[arg(long)]
    name: Option<String>,
    /// Models it may use. Default: the project's
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    models: Vec<String>,
    /// Hosts it may send requests to, like api.example.com, api.example.com:8443 or *.example.com. Default: the project's
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    egress: Vec<HostRule>,
    /// Let anybody call it without a key; the project pays
    #[arg(long)]
    public: bool,
    /// Let one sandbox serve so many calls, one after the other, each of which sees what those before left in its memory.
    /// Default: the project's, or a fresh one for each
    #[arg(long, value_name = "CALLS")]
    reuse: Option<NonZeroU32>,
    /// How urgent its model calls are: priority (where the project's limits allow it), default, or flex, which runs when
    /// devices are idle. Default: the project's
    #[arg(long, value_name = "CLASS", value_parser = class)]
    class: Option<Class>,
    /// Put it on trial beside the live version, with so many percent of the calls; taken away by itself if it fails
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99))]
    canary: Option<u8>,
    #[command(flatten)]
    project: InProject,
    #[command(flatten)]
    output: Output,
}

/// What is deployed, and with which grants.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) name: String,
    pub(super) models: Vec<String>,
    pub(super) egress: Vec<HostRule>,
    pub(super) public: bool,
    pub(super) reuse: Option<NonZeroU32>,
    pub(super) class: Class,
    pub(super) component: PathBuf,
}

impl Deploy {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let version = self.version()?;
        block_on(async {
            let (client, project) = self.project.resolve().await?;
            let function = version.deploy(&client, &project, self.canary).await?;
            let at = client.functions_url().await?;
            self.output.one(&function, |function| {
                let path = function["path"].as_str().unwrap_or_default();
                let (name, canary) = (&version.name, &function["canary"]);
                match self.canary {
                    Some(percent) => format!(
                        "{name}: version {} gets {percent} % of the calls of {at}{path}",
                        canary["version"]["version"]
                    ),
                    None => format!(
                        "{name}: version {} is live at {at}{path}",
                        function["live"]["version"]
                    ),
                }
            });
            Ok(())
        })
    }

    /// What stands on the command line takes the place of what the project says of itself; what is public there is so here.
    fn version(&self) -> anyhow::Result<Version> {
        let mut version = if self.path.is_dir() {
            Version::of_project(&self.path)?
        } else {
            Version::of_file(&self.path)
        };
        if let Some(name) = &self.name {
            version.name.clone_from(name);
        }
        if !self.models.is_empty() {
            version.models.clone_from(&self.models);
        }
        if !self.egress.is_empty() {
            version.egress.clone_from(&self.egress);
        }
        version.public |= self.public;
        version.reuse = self.reuse.or(version.reuse);
        version.class = self.class.unwrap_or(version.class);
        Ok(version)
    }
}

impl Version {
    /// Builds a project.
    ///
    /// # Errors
    /// See [`Manifest::read`] and [`build`].
    pub(super) fn of_project(folder: &Path) -> anyhow::Result<Self> {
        let manifest = Manifest::read(folder)?;
        let component = build(folder, &manifest)?;
        Ok(Self {
            name: manifest.name,
            models: manifest.models,
            egress: manifest.egress,
            public: manifest.public,
            reuse: manifest.reuse,
            class: manifest.class,
            component,
        })
    }

    fn of_file(file: &Path) -> Self {
        let stem = file.file_stem().unwrap_or_default();
        Self {
            name: stem.to_string_lossy().into_owned(),
            models: Vec::new(),
            egress: Vec::new(),
            public: false,
            reuse: None,
            class: Class::Default,
            component: file.to_owned(),
        }
    }

    /// Deploys it, live or with so many percent of the calls; the function as the node describes it.
    ///
    /// # Errors
    /// The component cannot be read, or the node refuses.
    pub(super) async fn deploy(
        &self,
        client: &Client,
        project: &str,
        canary: Option<u8>,
    ) -> anyhow::Result<Value> {
        let file = self.component.display();
        let wasm = std::fs::read(&self.component).with_context(|| format!("reading {file}"))?;
        ensure!(!wasm.is_empty(), "{file} is empty");
        let hosts: Vec<String> = self.egress.iter().map(HostRule::to_string).collect();
        let canary = canary.map_or_else(String::new, |percent| format!("&canary={percent}"));
        let reuse = self
            .reuse
            .map_or_else(String::new, |calls| format!("&reuse={calls}"));
        let path = format!(
            "/api/v1/projects/{project}/functions/{}/versions?models={}&egress={}&public={}&class={}{reuse}{canary}",
            self.name,
            self.models.join(","),
            hosts.join(","),
            self.public,
            self.class.name()
        );
        let wasm = wasm.into();
        client
            .upload(Method::POST, &path, "application/wasm", wasm, "compiling")
            .await
    }
}

/// A class by its name.
fn class(name: &str) -> Result<Class, String> {
    [Class::Priority, Class::Default, Class::Flex]
        .into_iter()
        .find(|class| class.name() == name)
        .ok_or_else(|| "must be priority, default or flex".to_owned())
}
