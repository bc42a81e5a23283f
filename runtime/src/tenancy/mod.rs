//! Who somebody is: projects (a tenant each), their keys, and the admin's. Knows no HTTP and no store: rows come in through
//! [`Directory`], which is asked on the path of every request.

mod directory;
mod key;
mod limits;

pub(crate) use directory::{Directory, KnownKey, Project};
pub(crate) use key::{ApiKey, KEY_PREFIX, KeyHash, KeyId, fill_random};
pub(crate) use limits::ProjectLimits;

use shoal_inference::TenantId;
use std::sync::Arc;

/// Whether a node asks who somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every call needs a key, but for public functions and a declared list of paths.
    Keys,
    /// Nobody is asked; for throwaway nodes that listen on loopback.
    Open,
}

/// Who makes a request.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// The operator, or anybody where the node does not ask.
    Admin {
        /// For the record; none where the node does not ask.
        key: Option<KeyId>,
    },
    /// A project.
    Project {
        /// Which.
        project: Arc<Project>,
        /// For the record.
        key: KeyId,
    },
}

impl Caller {
    /// Whether rows of this tenant are the caller's own.
    pub(crate) fn may_act_for(&self, tenant: TenantId) -> bool {
        match self {
            Caller::Admin { .. } => true,
            Caller::Project { project, .. } => project.tenant.id == tenant,
        }
    }

    /// Which key it was.
    pub(crate) fn key(&self) -> Option<&KeyId> {
        match self {
            Caller::Admin { key } => key.as_ref(),
            Caller::Project { key, .. } => Some(key),
        }
    }
}
