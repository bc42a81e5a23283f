//! Functions that can be called: `project/name` to what a request needs to know. A row here is small: code is mapped by
//! `components` when somebody calls.

use super::canary::{Failing, Findings, Seat, Side, Trial, TrialRule, Who};
use super::engine::Sandbox;
use super::guest::Tenant;
use super::kept::Kept;
use super::logs::{LogRing, Logs};
use super::messages::ComponentId;
use crate::config::Config;
use crate::egress::{Egress, HostRule, Reach};
use bytes::Bytes;
use dashmap::{DashMap, Entry};
use serde::{Deserialize, Serialize};
use shoal_host::nn::BoxFuture;
use shoal_inference::Class;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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
    /// Calls that one sandbox may serve, one after the other; `None`: a fresh one for each.
    #[serde(default)]
    pub reuse: Option<NonZeroU32>,
    /// How urgent its model calls are.
    #[serde(default)]
    pub class: Class,
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
    /// Which version it is; no other of this function has its number.
    pub number: u32,
    /// Which component it is.
    pub component: ComponentId,
    /// What it may do.
    pub grants: Grants,
    /// Where the component is kept.
    pub wasm: Fetch,
}

/// A version of a function that can be called. A request keeps the one it found, whatever is deployed meanwhile.
pub struct Function {
    /// The project it belongs to.
    pub project: Arc<str>,
    /// Its name within the project.
    pub name: Arc<str>,
    /// Which version it is.
    pub number: u32,
    /// Which component it is.
    pub component: ComponentId,
    /// What its guests write, of this version and those before.
    pub log: Arc<LogRing>,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) grants: Grants,
    /// Whether it is called no more, by any request that is to come.
    retired: AtomicBool,
    pub(super) reach: Arc<Reach>,
    pub(super) wasm: Fetch,
}

/// What is called by one name: the live version, and maybe one on trial beside it.
#[derive(Clone)]
pub(crate) struct Serving {
    live: Arc<Function>,
    /// The trial, and its share of the calls in percent.
    trial: Option<(Arc<Trial>, u8)>,
}

/// The version that a call goes to, and where the call is counted.
pub(crate) struct Chosen {
    pub(crate) function: Arc<Function>,
    pub(crate) seat: Option<Seat>,
}

/// A canary that failed its trial.
pub(crate) struct FailedCanary {
    pub(crate) function: Arc<Function>,
    pub(crate) findings: Findings,
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
    functions: DashMap<Box<str>, Serving>,
    logs: Arc<Logs>,
    egress: Egress,
    rule: TrialRule,
    failing: Arc<Failing>,
    kept: Arc<Kept>,
}

impl Serving {
    /// The version that is live, whose owner says who may call.
    pub(crate) fn live(&self) -> &Arc<Function> {
        &self.live
    }

    /// The trial of another version, if there is one.
    pub(crate) fn trial(&self) -> Option<&Trial> {
        self.trial.as_ref().map(|(trial, _)| &**trial)
    }

    /// Every version that is called.
    fn functions(&self) -> impl Iterator<Item = Arc<Function>> + use<> {
        let canary = self.trial().map(|trial| trial.canary.clone());
        std::iter::once(self.live.clone()).chain(canary)
    }

    /// The version that this caller gets.
    pub(crate) fn choose(self, who: Who<'_>) -> Chosen {
        let Some((trial, percent)) = self.trial else {
            return Chosen {
                function: self.live,
                seat: None,
            };
        };
        let (function, side) = if trial.takes(percent, who) {
            (trial.canary.clone(), Side::Canary)
        } else {
            (self.live, Side::Live)
        };
        Chosen {
            function,
            seat: Some(Seat { trial, side }),
        }
    }
}

impl Function {
    /// Whether no request that is to come finds it.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Whether it is this version and none of the same number, of a function that had the same name.
    fn is(&self, version: &FunctionVersion) -> bool {
        self.number == version.number
            && self.component == version.component
            && self.grants == version.grants
            && Arc::ptr_eq(&self.tenant, &version.tenant)
    }
}

impl Registry {
    /// Without functions, for a sandbox that runs them.
    pub fn new(sandbox: &Sandbox, config: &Config) -> Self {
        Self {
            functions: DashMap::new(),
            logs: sandbox.logs.clone(),
            egress: sandbox.egress.clone(),
            rule: TrialRule {
                calls: config.canary_calls,
                points_max: config.canary_error_points_max,
            },
            failing: Arc::default(),
            kept: sandbox.kept.clone(),
        }
    }

    /// Puts a version in the place of the one before it, if there is one. Each request sees one or the other.
    pub fn put(&self, live: FunctionVersion) {
        self.put_with(live, None);
    }

    /// The same, with another version on trial that gets so many percent of the calls.
    pub(crate) fn put_with(&self, live: FunctionVersion, canary: Option<(FunctionVersion, u8)>) {
        let key = format!("{}/{}", live.project, live.name);
        let entry = self.functions.entry(key.into());
        let before = match &entry {
            Entry::Occupied(before) => Some(before.get().clone()),
            Entry::Vacant(_) => None,
        };
        let log = match &before {
            Some(before) => before.live.log.clone(),
            None => self.logs.ring(),
        };
        // Whose sandboxes may wait for another call.
        let stays = before.as_ref().filter(|before| before.live.is(&live));
        let live = match stays {
            Some(before) => before.live.clone(),
            None => self.function(live, &log),
        };
        let trial = canary.map(|(canary, percent)| {
            let goes_on = before.as_ref().and_then(|before| before.trial.as_ref());
            let goes_on = goes_on.map(|(trial, _)| trial.clone());
            let goes_on = goes_on.filter(|trial| trial.is_of(&live, &canary));
            let trial = goes_on.unwrap_or_else(|| {
                let canary = self.function(canary, &log);
                Arc::new(Trial::new(
                    live.number,
                    canary,
                    self.rule,
                    self.failing.clone(),
                ))
            });
            (trial, percent)
        });
        let serving = Serving { live, trial };
        // The entry is locked for as long as it is there.
        drop(entry.insert(serving.clone()));
        if let Some(before) = before {
            let stays = |function: &Arc<Function>| {
                let mut now = serving.functions();
                now.any(|now| Arc::ptr_eq(&now, function))
            };
            self.retire(before.functions().filter(|function| !stays(function)));
        }
    }

    /// No request that is to come finds these.
    fn retire(&self, functions: impl Iterator<Item = Arc<Function>>) {
        for function in functions {
            function.retired.store(true, Relaxed);
        }
        self.kept.forget_retired();
    }

    fn function(&self, version: FunctionVersion, log: &Arc<LogRing>) -> Arc<Function> {
        Arc::new(Function {
            project: version.project,
            name: version.name,
            number: version.number,
            component: version.component,
            log: log.clone(),
            tenant: version.tenant,
            retired: AtomicBool::new(false),
            reach: Arc::new(self.egress.reach(version.grants.egress.clone())),
            grants: version.grants,
            wasm: version.wasm,
        })
    }

    /// Takes a function away, by `project/name`. Requests that found it before go on.
    pub fn remove(&self, key: &str) {
        if let Some((_, serving)) = self.functions.remove(key) {
            self.retire(serving.functions());
        }
    }

    /// The live version of a function, by `project/name`.
    pub fn get(&self, key: &str) -> Option<Arc<Function>> {
        self.functions.get(key).map(|serving| serving.live.clone())
    }

    /// All that is called by `project/name`.
    pub(crate) fn serving(&self, key: &str) -> Option<Serving> {
        self.functions.get(key).map(|serving| serving.clone())
    }

    /// Every version that is called, in no order but that those of one function follow each other.
    pub(crate) fn all(&self) -> Vec<Arc<Function>> {
        let versions = self.functions.iter();
        versions.flat_map(|serving| serving.functions()).collect()
    }

    /// Waits until a canary fails.
    pub(crate) async fn canary_fails(&self) {
        self.failing.notify.notified().await;
    }

    /// Canaries that failed so far.
    pub(crate) fn canaries_failed(&self) -> u64 {
        self.failing.count.load(Relaxed)
    }

    /// Every canary that failed and has still its place.
    pub(crate) fn failed_canaries(&self) -> Vec<FailedCanary> {
        let failed = self.functions.iter().filter_map(|serving| {
            let trial = serving.trial()?;
            Some(FailedCanary {
                findings: trial.failed()?,
                function: trial.canary.clone(),
            })
        });
        failed.collect()
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
