//! Commands on models: they are checked in a child process, copied into the content store, and loaded on every device.

use super::error::Thing;
use super::garbage::Unnamed;
use super::rows::{ModelRow, decode, encode, model_key};
use super::{Control, ControlError};
use crate::models::{self, ModelFiles};
use crate::sandbox::check_name;
use crate::store::{Check, Kind, Listing, OPERATOR, Op, Store as _};
use crate::wall_clock::unix_seconds;

impl Control {
    /// Adds a model. The same files under the same name again change nothing; others are refused.
    pub(crate) async fn add_model(
        &self,
        name: &str,
        files: ModelFiles,
    ) -> Result<ModelRow, ControlError> {
        check_name("model", name)?;
        let report = models::check(&self.config, &files).await?;
        let bytes = files.onnx.len() as u64;
        let unnamed = Unnamed::of(self);
        let _writer = self.writer(OPERATOR).await;
        let _putting = self.putting.read().await;
        let file = self.blobs.put(files.onnx).await?;
        let tokenizer = match files.tokenizer {
            Some(tokenizer) => Some(self.blobs.put(tokenizer).await?),
            None => None,
        };
        let exists = || ControlError::Exists {
            what: "model",
            name: name.to_owned(),
        };
        match self.read_model(name).await? {
            Some(row) if (row.file, row.tokenizer) == (file, tokenizer) => {
                unnamed.named();
                return Ok(row);
            }
            Some(_) => return Err(exists()),
            None => {}
        }
        let limit = self.config.models_max;
        if self.models().await?.len() >= limit {
            return Err(ControlError::Limit {
                what: "models",
                limit,
                key: "models_max",
            });
        }
        let row = ModelRow {
            file,
            bytes,
            tokenizer,
            report,
            created_at: unix_seconds(),
        };
        let key = model_key(name);
        self.commit(
            vec![Check::Absent(key.clone())],
            vec![Op::Put(key.clone(), encode(&row))],
        )
        .await?;
        if self.inference.model(name).is_none() {
            // Its check ran it, so this is a device's want of room: nobody must find half a model.
            self.commit(Vec::new(), vec![Op::Delete(key)]).await?;
            return Err(ControlError::ModelLoad);
        }
        unnamed.named();
        Ok(row)
    }

    /// Removes a model that no function is granted, by its live version or by one on trial. Requests that run now are answered.
    pub(crate) async fn remove_model(&self, name: &str) -> Result<(), ControlError> {
        let _writer = self.writer(OPERATOR).await;
        self.model(name).await?;
        let mut users = self.registry.all();
        users.retain(|function| function.grants.models.contains(name));
        users.dedup_by(|a, b| (&a.project, &a.name) == (&b.project, &b.name));
        if let Some(function) = users.first() {
            return Err(ControlError::ModelInUse {
                model: name.to_owned(),
                functions: users.len(),
                function: format!("{}/{}", function.project, function.name),
            });
        }
        self.commit(Vec::new(), vec![Op::Delete(model_key(name))])
            .await
    }

    /// Every model, by name.
    pub(crate) async fn models(&self) -> Result<Vec<(String, ModelRow)>, ControlError> {
        let listing = Listing {
            kind: Kind::Model,
            tenant: Some(OPERATOR),
            after: None,
            limit: self.config.models_max,
        };
        let rows = self.store.list(listing).await?;
        Ok(rows
            .iter()
            .filter_map(|row| Some((row.key.name.clone(), decode(row)?)))
            .collect())
    }

    /// One model.
    pub(crate) async fn model(&self, name: &str) -> Result<ModelRow, ControlError> {
        let row = self.read_model(name).await?;
        row.ok_or(ControlError::Unknown(Thing::Model))
    }

    async fn read_model(&self, name: &str) -> Result<Option<ModelRow>, ControlError> {
        let row = self.store.get(model_key(name)).await?;
        Ok(row.as_ref().and_then(decode))
    }
}
