//! What the rows of the store hold: JSON, one type for each kind. A field that is added later needs a default, so that rows
//! written before are still read.

use crate::sandbox::{Findings, Grants};
use crate::store::{Digest, Kind, OPERATOR, Row, RowKey};
use crate::tenancy::{KeyHash, KeyId, ProjectLimits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shoal_inference::{ModelReport, TenantId};

/// A project; the row's name is the project's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProjectRow {
    pub(crate) tenant: TenantId,
    /// Unix seconds.
    pub(crate) created_at: u64,
    /// What the operator set for it.
    #[serde(default)]
    pub(crate) limits: ProjectLimits,
}

/// A key that is valid; the row's name is its id. A revoked key has no row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeyRow {
    pub(crate) name: String,
    /// `None`: the operator's.
    pub(crate) project: Option<TenantId>,
    pub(crate) hash: KeyHash,
    /// Unix seconds.
    pub(crate) created_at: u64,
}

/// A function; the row's name is the function's. Holds its live version whole, so that a node starts from these rows alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FunctionRow {
    pub(crate) live: VersionRow,
    /// The highest number given to a version so far; none is given twice.
    pub(crate) latest: u32,
    /// Unix seconds.
    pub(crate) created_at: u64,
    /// The version on trial beside the live one.
    #[serde(default)]
    pub(crate) canary: Option<CanaryRow>,
    /// The last version whose trial failed, until another is deployed.
    #[serde(default)]
    pub(crate) rolled_back: Option<RolledBack>,
}

/// A version on trial.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CanaryRow {
    pub(crate) version: VersionRow,
    /// Its share of the calls, 1 to 99.
    pub(crate) percent: u8,
}

/// A version whose trial failed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct RolledBack {
    pub(crate) number: u32,
    pub(crate) findings: Findings,
    /// Unix seconds.
    pub(crate) at: u64,
}

/// One version of a function: what was deployed, and with which grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VersionRow {
    pub(crate) number: u32,
    /// The component as it was uploaded.
    pub(crate) component: Digest,
    /// Its size.
    pub(crate) bytes: u64,
    #[serde(flatten)]
    pub(crate) grants: Grants,
    /// Unix seconds.
    pub(crate) created_at: u64,
    /// Who deployed it; `None` where the node asks for no key.
    pub(crate) created_by: Option<KeyId>,
    /// Deployed to be tried, and never live: nothing to go back to but by its number.
    #[serde(default)]
    pub(crate) untried: bool,
}

/// A model of the node; the row's name is the model's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ModelRow {
    /// The file as it was uploaded.
    pub(crate) file: Digest,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its tokenizer as it was uploaded, if it has one.
    #[serde(default)]
    pub(crate) tokenizer: Option<Digest>,
    /// What the check found.
    pub(crate) report: ModelReport,
    /// Unix seconds.
    pub(crate) created_at: u64,
}

pub(crate) fn project_key(name: &str) -> RowKey {
    operators(Kind::Project, name)
}

pub(crate) fn key_key(id: &KeyId) -> RowKey {
    operators(Kind::Key, id.as_str())
}

pub(crate) fn model_key(name: &str) -> RowKey {
    operators(Kind::Model, name)
}

pub(crate) fn function_key(tenant: TenantId, function: &str) -> RowKey {
    RowKey {
        tenant,
        kind: Kind::Function,
        name: function.to_owned(),
    }
}

/// Versions of one function stand together, in the order of their numbers.
pub(crate) fn version_key(tenant: TenantId, function: &str, number: u32) -> RowKey {
    RowKey {
        tenant,
        kind: Kind::Version,
        name: format!("{function}@{number:010}"),
    }
}

fn operators(kind: Kind, name: &str) -> RowKey {
    RowKey {
        tenant: OPERATOR,
        kind,
        name: name.to_owned(),
    }
}

/// A row's value as it is stored.
pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("rows have text keys only, so they can be written as JSON")
}

/// A row that cannot be read was written by a newer node, or its file is damaged: it is left out and said so, rather than
/// keeping every other row from being served.
pub(crate) fn decode<T: DeserializeOwned>(row: &Row) -> Option<T> {
    serde_json::from_slice(&row.value)
        .inspect_err(|error| {
            tracing::error!(kind = ?row.key.kind, name = row.key.name, %error, "a row cannot be read");
        })
        .ok()
}
