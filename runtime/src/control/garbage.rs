//! Throwing away blobs and compiled code that no version and no model names: what is left of deploys that did not come to
//! their end, of old versions, and of what was deleted.
//!
//! A command puts its blob before its row, and holds [`Control::putting`] in between; the search has it alone. So what looks
//! like garbage is.

use super::Control;
use super::rows::{FunctionRow, ModelRow, VersionRow, decode};
use crate::sandbox::ComponentId;
use crate::store::{Digest, Kind, Op, StoreError};
use serde::de::DeserializeOwned;
use shoal_inference::TenantId;
use std::collections::HashSet;
use std::sync::Arc;

/// Searches whenever something was removed or given up, and not again for a while.
pub(crate) async fn collect(control: Arc<Control>) {
    loop {
        control.garbage.notified().await;
        tokio::time::sleep(control.config.collect_interval).await;
        if let Err(error) = control.collect_garbage().await {
            tracing::warn!(%error, "blobs and code that nothing names could not be removed");
        }
    }
}

/// Held by a command from before it leaves anything until what it left has its row. If it does not come so far, there is
/// something to look for.
pub(super) struct Unnamed<'a>(Option<&'a Control>);

impl<'a> Unnamed<'a> {
    pub(super) fn of(control: &'a Control) -> Self {
        Self(Some(control))
    }

    /// It has its row.
    pub(super) fn named(mut self) {
        self.0 = None;
    }
}

impl Drop for Unnamed<'_> {
    fn drop(&mut self) {
        if let Some(control) = self.0 {
            control.garbage.notify_one();
        }
    }
}

/// Whether it removes something that names blobs.
pub(super) fn is_left_by(op: &Op) -> bool {
    match op {
        Op::Delete(key) => [Kind::Version, Kind::Model].contains(&key.kind),
        Op::Put(..) => false,
    }
}

impl Control {
    /// Throws away what no row names. Commands that put something wait meanwhile.
    pub(crate) async fn collect_garbage(&self) -> anyhow::Result<()> {
        let _alone = self.putting.write().await;
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
        let called = functions.into_iter().flat_map(|(tenant, function)| {
            let canary = function.canary.map(|canary| canary.version);
            let versions = std::iter::once(function.live).chain(canary);
            versions.map(move |version| (tenant, version))
        });
        for (tenant, version) in versions.into_iter().chain(called) {
            blobs.insert(version.component);
            code.insert((tenant, version.component.into()));
        }
        for (_, model) in &models {
            blobs.insert(model.file);
            blobs.extend(model.tokenizer);
        }
        let removed = self.blobs.keep_only(&blobs).await?;
        if removed > 0 {
            tracing::info!(removed, "threw away blobs that nothing names");
        }
        let components = self.components.clone();
        tokio::task::spawn_blocking(move || components.forget_others(&code)).await?
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
