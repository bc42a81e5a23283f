//! Functions that can be called: `project/name` to what a request needs to know. A row here is small: code is mapped by
//! `components` when somebody calls.

use super::engine::Sandbox;
use super::guest::Tenant;
use super::logs::{LogRing, Logs};
use super::messages::ComponentId;
use crate::egress::{Egress, HostRule, Reach};
use bytes::Bytes;
use dashmap::{DashMap, Entry};
use serde::{Deserialize, Serialize};
use shoal_host::nn::BoxFuture;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Longest name of a project, a function or a model.
pub const NAME_LEN_MAX: usize = 63;

/// Has a component's bytes brought again: asked where its compiled code is missing or damaged.
pub type Fetch = Arc<dyn Fn() -> BoxFuture<anyhow::Result<Bytes>> + Send + Sync>;

/// A function as it comes from outside.
#[derive(Clone, Debug)]
pub struct FunctionSource {
    /// The project it belongs to, and that pays for it.
    pub project: String,
    /// Its name within the project.
    pub name: String,
    /// The component.
    pub wasm: Arc<[u8]>,
    /// What it may do.
    pub grants: Grants,
}

/// What its owner allowed a version of a function when it was deployed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Names of the models it may use.
    pub models: BTreeSet<String>,
    /// Hosts it may send requests to.
    #[serde(default)]
    pub egress: BTreeSet<HostRule>,
    /// Whether it is called without a key.
    pub public: bool,
}

/// A version of a function that [`super::Components::prepare`] took.
#[derive(Clone)]
pub struct FunctionVersion {
    /// The project it belongs to.
    pub project: Arc<str>,
    /// Its name within the project.
    pub name: Arc<str>,
    /// The project as the one who pays.
    pub tenant: Arc<Tenant>,
    /// Which component it is.
    pub component: ComponentId,
    /// What it may do.
    pub grants: Grants,
    /// Where the component is kept.
    pub wasm: Fetch,
}

/// A function that can be called. A request keeps the one it found, whatever is deployed meanwhile.
pub struct Function {
    /// The project it belongs to.
    pub project: Arc<str>,
    /// Its name within the project.
    pub name: Arc<str>,
    /// Which component it is.
    pub component: ComponentId,
    /// What its guests write, of this version and those before.
    pub log: Arc<LogRing>,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) models: BTreeSet<String>,
    pub(crate) public: bool,
    pub(super) reach: Arc<Reach>,
    pub(super) wasm: Fetch,
}

/// A name that could not stand in a URL and in a host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {name:?} must be 1 to {NAME_LEN_MAX} of a-z, 0-9 and -, and begin and end with a letter or digit"
)]
pub struct NameError {
    what: &'static str,
    name: String,
}

/// All functions of this process, by `project/name`.
pub struct Registry {
    functions: DashMap<Box<str>, Arc<Function>>,
    logs: Arc<Logs>,
    egress: Egress,
}

impl Registry {
    /// Without functions, for a sandbox that runs them.
    pub fn new(sandbox: &Sandbox) -> Self {
        Self {
            functions: DashMap::new(),
            logs: sandbox.logs.clone(),
            egress: sandbox.egress.clone(),
        }
    }

    /// Puts a version in the place of the one before it, if there is one. Each request sees one or the other.
    pub fn put(&self, version: FunctionVersion) {
        let key = format!("{}/{}", version.project, version.name);
        let entry = self.functions.entry(key.into());
        let log = match &entry {
            Entry::Occupied(old) => old.get().log.clone(),
            Entry::Vacant(_) => self.logs.ring(),
        };
        entry.insert(Arc::new(Function {
            project: version.project,
            name: version.name,
            component: version.component,
            log,
            tenant: version.tenant,
            models: version.grants.models,
            public: version.grants.public,
            reach: Arc::new(self.egress.reach(version.grants.egress)),
            wasm: version.wasm,
        }));
    }

    /// Takes a function away, by `project/name`. Requests that found it before go on.
    pub fn remove(&self, key: &str) {
        self.functions.remove(key);
    }

    /// Finds a function by `project/name`.
    pub fn get(&self, key: &str) -> Option<Arc<Function>> {
        self.functions.get(key).map(|function| function.clone())
    }

    /// Every function, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Function>> {
        let all = self.functions.iter();
        all.map(|function| function.value().clone()).collect()
    }
}

/// Whether `name` is fit for a `what`.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), NameError> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty()
        || name.len() > NAME_LEN_MAX
        || name.starts_with('-')
        || name.ends_with('-')
        || !name.bytes().all(fine)
    {
        return Err(NameError {
            what,
            name: name.to_owned(),
        });
    }
    Ok(())
}
