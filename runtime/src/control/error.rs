//! Why a command was refused. Its words go to whoever gave the command; `api/error` gives each its status.

use super::keys::KEY_NAME_LEN_MAX;
use crate::models::AdmitError;
use crate::sandbox::{CompileError, NameError};
use crate::store::{BlobError, CommitError, StoreError};
use std::fmt;
use std::sync::Arc;

/// What may be asked for and not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thing {
    Project,
    Function,
    Version,
    Canary,
    Model,
    Key,
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Project => "project",
            Self::Function => "function",
            Self::Version => "version",
            Self::Canary => "canary",
            Self::Model => "model",
            Self::Key => "key",
        })
    }
}

/// See the module's description.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// A name that could not stand in a URL or a host name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A key's name.
    #[error(
        "name of a key must be 1 to {KEY_NAME_LEN_MAX} characters and hold no control characters"
    )]
    KeyName,
    /// Over a limit on how many there may be.
    #[error("there are {limit} {what} already, the most there may be ({key})")]
    Limit {
        what: &'static str,
        limit: usize,
        key: &'static str,
    },
    /// Nothing of this name, or nothing the caller may know of.
    #[error("no such {0}")]
    Unknown(Thing),
    /// There is one of this name.
    #[error("{what} {name:?} exists already")]
    Exists { what: &'static str, name: String },
    /// More hosts than a function may be granted.
    #[error("egress: at most {limit} hosts can be granted (function_egress_hosts_max)")]
    EgressLimit { limit: usize },
    /// More calls than one sandbox may serve.
    #[error("reuse: a sandbox can serve at most {limit} calls (function_reuse_max)")]
    ReuseLimit { limit: u32 },
    /// A limit of a project out of its range.
    #[error("{what} must be {} to {}", range.start(), range.end())]
    ProjectLimit {
        what: &'static str,
        range: std::ops::RangeInclusive<u64>,
    },
    /// A class that the project has no right to.
    #[error(
        "class: the functions of this project may not use priority: its operator can allow it (shoal limits --priority true)"
    )]
    NoPriority,
    /// A canary without a live version.
    #[error("canary: function has no live version that it could run beside: deploy without it")]
    CanaryAlone,
    /// A grant of a model that the node does not have.
    #[error("models: no model {0:?} on this node")]
    UnknownModel(String),
    /// A model that functions are granted.
    #[error(
        "model {model:?} is granted to {functions} live functions, function {function:?} first: deploy them without it"
    )]
    ModelInUse {
        model: String,
        functions: usize,
        function: String,
    },
    /// The node could never be managed again.
    #[error("the last admin key cannot be revoked: create another first")]
    LastAdminKey,
    /// The component was refused.
    #[error(transparent)]
    Component(#[from] Arc<CompileError>),
    /// The model was refused.
    #[error(transparent)]
    Model(#[from] AdmitError),
    /// The model was admitted, and a device of this node cannot load it.
    #[error("model cannot be loaded on this node's devices")]
    ModelLoad,
    /// Somebody else changed it at the same time.
    #[error("it was changed by somebody else at the same time: try again")]
    Conflict,
    /// No room.
    #[error("the node's disk is full: nothing was changed")]
    Full,
    /// The node's fault.
    #[error("the node cannot keep this now")]
    Store,
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::Full,
            StoreError::TooLarge(_) | StoreError::Stopped(_) => {
                tracing::error!(%error, "the store refused");
                Self::Store
            }
        }
    }
}

impl From<CommitError> for ControlError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict(_) => Self::Conflict,
            CommitError::Store(error) => error.into(),
        }
    }
}

impl From<BlobError> for ControlError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Full => Self::Full,
            error => {
                tracing::error!(%error, "the blobs refused");
                Self::Store
            }
        }
    }
}
