//! What a node does with its data before it serves: its first admin key, what it is given to begin with, and throwing away
//! what nothing names any more.

use super::rows::{FunctionRow, ModelRow, VersionRow, decode};
use super::{Control, ControlError, Deploy};
use crate::sandbox::{ComponentId, FunctionSource};
use crate::store::{Digest, Kind, StoreError};
use crate::tenancy::Project;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use shoal_inference::{ModelSource, TenantId};
use std::collections::HashSet;
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
            let added = self
                .add_model(&model.name, Bytes::from_owner(model.onnx))
                .await;
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
            models: source.models,
            public: source.public,
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

    /// Throws away blobs and compiled code that no version and no model names: what was left by a deploy that did not come to
    /// its end, and of functions that were deleted. Only before the node serves: a deploy keeps its blob before its row.
    pub(crate) async fn collect_garbage(&self) -> anyhow::Result<()> {
        let mut blobs: HashSet<Digest> = HashSet::new();
        let mut code: HashSet<(TenantId, ComponentId)> = HashSet::new();
        let all = (
            self.every::<VersionRow>(Kind::Version).await?,
            self.every::<FunctionRow>(Kind::Function).await?,
            self.every::<ModelRow>(Kind::Model).await?,
        );
        let (Some(versions), Some(functions), Some(models)) = all else {
            // A row that cannot be read may name what looks like garbage.
            return Ok(());
        };
        let lives = functions
            .into_iter()
            .map(|(tenant, function)| (tenant, function.live));
        for (tenant, version) in versions.into_iter().chain(lives) {
            blobs.insert(version.component);
            code.insert((tenant, version.component.into()));
        }
        blobs.extend(models.iter().map(|(_, model)| model.file));
        let removed = self.blobs.keep_only(&blobs).await?;
        if removed > 0 {
            tracing::info!(removed, "threw away blobs that nothing names");
        }
        let components = self.components.clone();
        tokio::task::spawn_blocking(move || components.cache().keep_only(&code)).await?
    }

    /// Every row of a kind, read; `None` if one cannot be.
    async fn every<T: DeserializeOwned>(
        &self,
        kind: Kind,
    ) -> Result<Option<Vec<(TenantId, T)>>, StoreError> {
        let rows = self.rows(kind).await?;
        let read = rows.iter().map(|row| Some((row.key.tenant, decode(row)?)));
        Ok(read.collect())
    }
}
