//! What a node does with its data before it serves: its first admin key, and what it is given to begin with.

use super::{Control, ControlError, Deploy};
use crate::models::ModelFiles;
use crate::sandbox::FunctionSource;
use crate::tenancy::Project;
use bytes::Bytes;
use shoal_inference::{ModelSource, TenantId};
use std::sync::Arc;

/// What a node is given to begin with, besides what is in its data.
#[derive(Debug, Default)]
pub struct Seed {
    /// Models it has from its start on.
    pub models: Vec<ModelSource>,
    /// Functions it has from its start on; their projects are made.
    pub functions: Vec<FunctionSource>,
}

impl Control {
    /// A key of the operator's, if there is none yet, or if another is wanted.
    pub(crate) async fn admin_key_at_start(
        &self,
        another: bool,
    ) -> Result<Option<String>, ControlError> {
        if !another && !self.directory.keys(None).is_empty() {
            return Ok(None);
        }
        let (key, _) = self.create_key(None, "made at start").await?;
        Ok(Some(key.reveal()))
    }

    /// Adds what a node is given to begin with, by the same commands as anybody's.
    ///
    /// # Errors
    /// The first model or function that is refused, by name.
    pub(crate) async fn sow(&self, seed: Seed) -> anyhow::Result<()> {
        for model in seed.models {
            let files = ModelFiles {
                onnx: Bytes::from_owner(model.onnx),
                tokenizer: model.tokenizer.map(Bytes::from_owner),
            };
            let added = self.add_model(&model.name, files).await;
            added.map_err(|error| {
                anyhow::Error::from(error).context(format!("model {}", model.name))
            })?;
        }
        for source in seed.functions {
            let function = format!("function {}/{}", source.project, source.name);
            let deployed = self.deploy_source(source).await;
            deployed.map_err(|error| anyhow::Error::from(error).context(function))?;
        }
        Ok(())
    }

    async fn deploy_source(&self, source: FunctionSource) -> Result<(), ControlError> {
        let deploy = Deploy {
            project: self.project_named(&source.project).await?,
            function: source.name,
            wasm: Bytes::from_owner(source.wasm),
            grants: source.grants,
            canary: None,
            by: None,
        };
        self.deploy(deploy).await.map(drop)
    }

    /// The project of this name. One that is made has the same tenant on every node, so that nodes that share a folder of
    /// compiled code find in it what others compiled.
    async fn project_named(&self, name: &str) -> Result<Arc<Project>, ControlError> {
        if let Some(project) = self.directory.find(name) {
            return Ok(project);
        }
        let hash = blake3::hash(name.as_bytes());
        let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        let tenant = TenantId(u64::from_be_bytes(*first) >> 1);
        self.create_project_as(name, tenant).await
    }
}
