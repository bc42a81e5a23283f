//! From the store's rows to what a node serves: all of them at start, then each commit as it happens, in order.

use super::Control;
use super::rows::{FunctionRow, KeyRow, ModelRow, ProjectRow, VersionRow, decode};
use crate::sandbox::FunctionVersion;
use crate::store::{
    Change, Event, Kind, Resync, Revision, Row, RowKey, Store as _, StoreError, Watch,
};
use crate::tenancy::{KeyId, Project};
use anyhow::Context as _;
use shoal_inference::ModelSource;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::watch;

/// Applies what is committed. Runs until the store is closed.
pub(crate) struct Applier {
    control: Arc<Control>,
    watch: Watch,
    applied: watch::Sender<Revision>,
}

impl Applier {
    /// Applies all there is.
    pub(super) async fn start(
        control: Arc<Control>,
        applied: watch::Sender<Revision>,
    ) -> anyhow::Result<Self> {
        let from = control.store.revision().await?;
        apply_all(&control).await?;
        applied.send_replace(from);
        Ok(Self {
            watch: control.store.watch(from),
            control,
            applied,
        })
    }

    /// Applies each commit. Cancel it at will: the next start applies all there is.
    pub(crate) async fn run(mut self) {
        while let Some(next) = self.watch.next().await {
            match next {
                Ok(Event { revision, changes }) => {
                    for change in changes {
                        apply(&self.control, change).await;
                    }
                    self.applied.send_replace(revision);
                }
                Err(Resync) => {
                    if let Err(error) = self.resync().await {
                        tracing::error!(%error, "commits are no longer applied");
                        return;
                    }
                }
            }
        }
    }

    /// Commits were missed: what they made of the rows is read instead.
    async fn resync(&mut self) -> Result<(), StoreError> {
        let from = self.control.store.revision().await?;
        apply_all(&self.control).await?;
        self.watch = self.control.store.watch(from);
        self.applied.send_replace(from);
        Ok(())
    }
}

/// Applies every row, and forgets what has none. Projects come before what belongs to them, models before who is granted
/// them.
async fn apply_all(control: &Control) -> Result<(), StoreError> {
    for kind in [Kind::Project, Kind::Key, Kind::Model, Kind::Function] {
        let mut seen = HashSet::new();
        for row in control.rows(kind).await? {
            seen.insert(row.key.clone());
            put(control, row).await;
        }
        forget_others(control, kind, &seen).await;
    }
    Ok(())
}

async fn apply(control: &Control, change: Change) {
    match change.row {
        Some(row) => put(control, row).await,
        None => remove(control, &change.key).await,
    }
}

async fn put(control: &Control, row: Row) {
    let RowKey { tenant, kind, name } = &row.key;
    match kind {
        Kind::Project => {
            if let Some(project) = decode::<ProjectRow>(&row) {
                put_project(control, name, project).await;
            }
        }
        Kind::Key => {
            if let (Some(key), Some(id)) = (decode::<KeyRow>(&row), KeyId::parse(name)) {
                control.directory.put_key(id, key.into());
            }
        }
        Kind::Function => {
            let project = control.directory.project(*tenant);
            if let (Some(function), Some(project)) = (decode::<FunctionRow>(&row), project) {
                put_function(control, &project, name, function);
            }
        }
        Kind::Model => {
            if let Some(model) = decode::<ModelRow>(&row) {
                put_model(control, name, model).await;
            }
        }
        // Read when somebody asks for them.
        Kind::Version => {}
    }
}

async fn put_project(control: &Control, name: &str, row: ProjectRow) {
    let (tenant, directory) = (row.tenant, &control.directory);
    directory.put_project(name, tenant, row.created_at);
    if !directory.put_limits(tenant, row.limits) {
        return;
    }
    let terms = row.limits.terms(&control.config.inference);
    if let Err(error) = control.inference.set_terms(tenant, Some(terms)).await {
        tracing::error!(name, %error, "a project's limits are not applied");
    }
}

fn put_function(control: &Control, project: &Project, name: &str, function: FunctionRow) {
    let canary = function.canary.map(|canary| {
        let version = function_version(control, project, name, canary.version);
        (version, canary.percent)
    });
    let live = function_version(control, project, name, function.live);
    control.registry.put_with(live, canary);
}

fn function_version(
    control: &Control,
    project: &Project,
    name: &str,
    version: VersionRow,
) -> FunctionVersion {
    let (blobs, component) = (control.blobs.clone(), version.component);
    FunctionVersion {
        project: project.name.clone(),
        name: name.into(),
        tenant: project.tenant.clone(),
        number: version.number,
        component: component.into(),
        grants: version.grants,
        wasm: Arc::new(move || {
            let blobs = blobs.clone();
            Box::pin(async move {
                let wasm = blobs.get(&component).await?;
                wasm.context("a component is not among the blobs")
            })
        }),
    }
}

/// Loads a model that is not loaded. One that cannot be is left out: calls of it are answered, and the node serves the rest.
async fn put_model(control: &Control, name: &str, model: ModelRow) {
    if control.inference.model(name).is_some() {
        return;
    }
    let source = match model_source(control, name, &model).await {
        Ok(source) => source,
        Err(error) => {
            return tracing::error!(name, error = format!("{error:#}"), "a model cannot be read");
        }
    };
    if let Err(error) = control.inference.load(source).await {
        tracing::error!(name, %error, "a model cannot be loaded");
    }
}

async fn model_source(
    control: &Control,
    name: &str,
    model: &ModelRow,
) -> anyhow::Result<ModelSource> {
    let onnx = control.blobs.get(&model.file).await?;
    let onnx = onnx.context("its file is not among the blobs")?;
    let tokenizer = match &model.tokenizer {
        Some(tokenizer) => {
            let tokenizer = control.blobs.get(tokenizer).await?;
            Some(tokenizer.context("its tokenizer is not among the blobs")?)
        }
        None => None,
    };
    Ok(ModelSource {
        name: name.to_owned(),
        onnx: Arc::from(&*onnx),
        tokenizer: tokenizer.map(|tokenizer| Arc::from(&*tokenizer)),
        dry_runs: model.report.cost(),
    })
}

async fn remove(control: &Control, key: &RowKey) {
    match key.kind {
        // Projects are archived, not removed, once there is a way to.
        Kind::Project => {}
        Kind::Key => {
            if let Some(id) = KeyId::parse(&key.name) {
                control.directory.remove_key(&id);
            }
        }
        Kind::Function => {
            if let Some(project) = control.directory.project(key.tenant) {
                control
                    .registry
                    .remove(&format!("{}/{}", project.name, key.name));
            }
        }
        Kind::Model => {
            // One that could not be loaded is not there to be unloaded.
            let _ = control.inference.unload(&key.name).await;
        }
        Kind::Version => {}
    }
}

/// What is served but has no row any more.
async fn forget_others(control: &Control, kind: Kind, seen: &HashSet<RowKey>) {
    let gone: Vec<RowKey> = served(control, kind)
        .into_iter()
        .filter(|key| !seen.contains(key))
        .collect();
    for key in gone {
        remove(control, &key).await;
    }
}

fn served(control: &Control, kind: Kind) -> Vec<RowKey> {
    use super::rows::{function_key, key_key, model_key};
    match kind {
        Kind::Project | Kind::Version => Vec::new(),
        Kind::Key => control.directory.key_ids().iter().map(key_key).collect(),
        Kind::Function => control
            .registry
            .all()
            .iter()
            .map(|function| function_key(function.tenant.id, &function.name))
            .collect(),
        Kind::Model => control
            .inference
            .models()
            .iter()
            .map(|model| model_key(&model.name))
            .collect(),
    }
}
