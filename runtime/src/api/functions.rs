//! `/api/v1/projects/{project}/functions`.

use super::extract::{File, InProject, Json, Named, Parameters, read_body};
use super::{ApiError, ApiState, json};
use crate::control::{CanaryRow, Deploy, Deployed, RolledBack, VersionRow};
use crate::egress::HostRuleError;
use crate::sandbox::{Findings, Grants};
use crate::tenancy::Caller;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use shoal_inference::Class;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use utoipa::{IntoParams, ToSchema};

/// A function and its live version.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Function {
    name: String,
    project: String,
    /// Where it is called, from the node's address for functions.
    path: String,
    /// Unix seconds.
    created_at: u64,
    live: Version,
    /// The version on trial, which gets a part of the calls.
    canary: Option<Canary>,
    /// The last version that was taken away because its trial failed, until another is deployed.
    rolled_back: Option<Failed>,
}

/// A version on trial.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Canary {
    /// Its share of the calls. A caller stays with one version: by key, or where none is asked for, by address.
    #[schema(minimum = 1, maximum = 99)]
    percent: u8,
    version: Version,
    /// What this node has seen of it.
    #[serde(flatten)]
    seen: Seen,
}

/// A version whose trial failed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Failed {
    version: u32,
    /// What it failed by.
    #[serde(flatten)]
    seen: Seen,
    /// Unix seconds.
    at: u64,
}

/// The newest calls of a version on trial and of the live one.
#[derive(Debug, Serialize, ToSchema)]
struct Seen {
    /// Calls of the version on trial.
    calls: u32,
    /// Of those, the ones answered with 5xx, or not to their end.
    failed: u32,
    /// Calls of the live version.
    live_calls: u32,
    /// Of those, the ones that failed.
    live_failed: u32,
}

/// One version of a function.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Version {
    /// Counts from 1 for each function; none is given twice.
    version: u32,
    /// blake3 of the component as it was uploaded.
    component: String,
    bytes: u64,
    /// Models it may use.
    models: Vec<String>,
    /// Hosts it may send requests to.
    egress: Vec<String>,
    /// Whether it is called without a key.
    public: bool,
    /// Calls that one sandbox may serve, one after the other. Without it each call has a fresh one.
    reuse: Option<u32>,
    /// How urgent its model calls are: `priority`, `default` or `flex`.
    class: &'static str,
    /// Unix seconds.
    created_at: u64,
    /// Id of the key that deployed it.
    created_by: Option<String>,
}

/// Every function of a project.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Functions {
    data: Vec<Function>,
}

/// Every version that is kept of a function, the oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Versions {
    /// Number of the live one.
    live: u32,
    data: Vec<Version>,
}

/// How to deploy.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeployParameters {
    /// Names of the models it may use, separated by commas.
    #[serde(default)]
    models: String,
    /// Hosts it may send requests to, like `api.example.com`, `api.example.com:8443` or `*.example.com`, separated by commas.
    #[serde(default)]
    egress: String,
    /// Whether anybody may call it, without a key; its project pays.
    #[serde(default)]
    public: bool,
    /// Calls that one sandbox may serve, one after the other; they see what those before left in its memory. Default: each call
    /// has a fresh one.
    #[param(minimum = 1)]
    reuse: Option<u32>,
    /// How urgent its model calls are: `priority` (where the project's limits allow it), `default` or `flex`, which runs when
    /// devices are idle.
    #[serde(default)]
    #[param(inline)]
    class: ServiceClass,
    /// Percent of the calls that it gets beside the live version, on trial. Default: it is live, and gets all.
    #[param(minimum = 1, maximum = 99)]
    canary: Option<u8>,
}

/// As a word of a query.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ServiceClass {
    Priority,
    #[default]
    Default,
    Flex,
}

/// What to give the version on trial.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Promotion {
    /// Percent of the calls. Default: all, which makes it live.
    #[schema(minimum = 1, maximum = 100)]
    percent: Option<u8>,
}

/// Where to go back to.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    /// Which version. Default: while one is on trial, the live one; else the newest that is older than the live one.
    version: Option<u32>,
}

/// A function that is no more.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Deleted {
    pub(super) name: String,
    pub(super) deleted: bool,
}

impl DeployParameters {
    fn grants(&self) -> Result<Grants, ApiError> {
        let hosts: Result<_, HostRuleError> = listed(&self.egress).map(str::parse).collect();
        let invalid = |why: HostRuleError| ApiError::Invalid {
            param: "egress",
            why: why.to_string(),
        };
        Ok(Grants {
            models: listed(&self.models).map(str::to_owned).collect(),
            egress: hosts.map_err(invalid)?,
            public: self.public,
            reuse: self.reuse.map(reuse).transpose()?,
            class: match self.class {
                ServiceClass::Priority => Class::Priority,
                ServiceClass::Default => Class::Default,
                ServiceClass::Flex => Class::Flex,
            },
        })
    }
}

fn reuse(calls: u32) -> Result<NonZeroU32, ApiError> {
    NonZeroU32::new(calls).ok_or_else(|| ApiError::Invalid {
        param: "reuse",
        why: "must be the number of calls that a sandbox may serve, 1 or more".to_owned(),
    })
}

/// What stands between commas.
fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

impl Function {
    fn of(project: &str, deployed: Deployed, state: &ApiState) -> Self {
        let Deployed { name, row } = deployed;
        let registry = &state.control.registry;
        let seen = || {
            let serving = registry.serving(&format!("{project}/{name}"));
            serving.and_then(|serving| Some(serving.trial()?.findings()))
        };
        Self {
            path: format!("/f/{project}/{name}/"),
            project: project.to_owned(),
            created_at: row.created_at,
            live: row.live.into(),
            canary: row
                .canary
                .map(|canary| Canary::of(canary, seen().unwrap_or_default())),
            rolled_back: row.rolled_back.map(Failed::from),
            name,
        }
    }
}

impl Canary {
    fn of(row: CanaryRow, seen: Findings) -> Self {
        Self {
            percent: row.percent,
            version: row.version.into(),
            seen: seen.into(),
        }
    }
}

impl From<RolledBack> for Failed {
    fn from(row: RolledBack) -> Self {
        Self {
            version: row.number,
            seen: row.findings.into(),
            at: row.at,
        }
    }
}

impl From<Findings> for Seen {
    fn from(findings: Findings) -> Self {
        let Findings {
            calls,
            failed,
            live_calls,
            live_failed,
        } = findings;
        Self {
            calls,
            failed,
            live_calls,
            live_failed,
        }
    }
}

/// A share of the calls, if there can be one.
fn percent(
    value: Option<u8>,
    allowed: RangeInclusive<u8>,
    param: &'static str,
) -> Result<Option<u8>, ApiError> {
    if value.is_none_or(|value| allowed.contains(&value)) {
        return Ok(value);
    }
    let (first, last) = allowed.into_inner();
    Err(ApiError::Invalid {
        param,
        why: format!("must be {first} to {last} percent of the calls"),
    })
}

impl From<VersionRow> for Version {
    fn from(row: VersionRow) -> Self {
        Self {
            version: row.number,
            component: row.component.to_string(),
            bytes: row.bytes,
            models: row.grants.models.into_iter().collect(),
            egress: row.grants.egress.into_iter().map(String::from).collect(),
            public: row.grants.public,
            reuse: row.grants.reuse.map(NonZeroU32::get),
            class: row.grants.class.name(),
            created_at: row.created_at,
            created_by: row.created_by.map(|key| key.to_string()),
        }
    }
}

/// Every function of a project.
#[utoipa::path(get, path = "/api/v1/projects/{project}/functions", tag = "Functions",
    params(("project" = String, Path)), responses((status = 200, body = Functions)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    InProject(project): InProject,
) -> Result<Response, ApiError> {
    let functions = state.control.functions(project.tenant.id).await?;
    let data = functions.into_iter();
    let data = data.map(|deployed| Function::of(&project.name, deployed, &state));
    Ok(json(&Functions {
        data: data.collect(),
    }))
}

/// One function.
#[utoipa::path(get, path = "/api/v1/projects/{project}/functions/{name}", tag = "Functions",
    params(("project" = String, Path), ("name" = String, Path, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")), responses((status = 200, body = Function)))]
pub(super) async fn show(
    State(state): State<ApiState>,
    InProject(project): InProject,
    Named(name): Named,
) -> Result<Response, ApiError> {
    let deployed = state.control.function(project.tenant.id, &name).await?;
    Ok(json(&Function::of(&project.name, deployed, &state)))
}

/// Deletes a function and all its versions. Calls that run now are answered.
#[utoipa::path(delete, path = "/api/v1/projects/{project}/functions/{name}", tag = "Functions",
    params(("project" = String, Path), ("name" = String, Path, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")), responses((status = 200, body = Deleted)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    InProject(project): InProject,
    Named(name): Named,
) -> Result<Response, ApiError> {
    state.control.delete(project.tenant.id, &name).await?;
    Ok(json(&Deleted {
        name,
        deleted: true,
    }))
}

/// The versions that are kept of a function.
#[utoipa::path(get, path = "/api/v1/projects/{project}/functions/{name}/versions", tag = "Functions",
    params(("project" = String, Path), ("name" = String, Path, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")), responses((status = 200, body = Versions)))]
pub(super) async fn versions(
    State(state): State<ApiState>,
    InProject(project): InProject,
    Named(name): Named,
) -> Result<Response, ApiError> {
    let live = state.control.function(project.tenant.id, &name).await?;
    let rows = state.control.versions(project.tenant.id, &name).await?;
    Ok(json(&Versions {
        live: live.row.live.number,
        data: rows.into_iter().map(Version::from).collect(),
    }))
}

/// Deploys a new version, live (or on trial) when this answers. The body is the component.
#[utoipa::path(post, path = "/api/v1/projects/{project}/functions/{name}/versions", tag = "Functions",
    params(("project" = String, Path), ("name" = String, Path, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"), DeployParameters),
    request_body(content = File, content_type = "application/wasm"), responses((status = 200, body = Function)))]
pub(super) async fn deploy(
    State(state): State<ApiState>,
    InProject(project): InProject,
    Named(function): Named,
    Parameters(parameters): Parameters<DeployParameters>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let limit = state.control.config.component_bytes_max;
    let wasm = read_body(request, limit, "component_bytes_max").await?;
    let grants = parameters.grants()?;
    let canary = percent(parameters.canary, 1..=99, "canary")?;
    let deploy = Deploy {
        project: project.clone(),
        function,
        wasm,
        grants,
        canary,
        by: caller.key().cloned(),
    };
    let deployed = state.control.deploy(deploy).await?;
    Ok(json(&Function::of(&project.name, deployed, &state)))
}

/// Makes another version live.
#[utoipa::path(post, path = "/api/v1/projects/{project}/functions/{name}/rollback", tag = "Functions",
    params(("project" = String, Path), ("name" = String, Path, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")), request_body = Rollback,
    responses((status = 200, body = Function)))]
pub(super) async fn rollback(
    State(state): State<ApiState>,
    InProject(project): InProject,
    Named(name): Named,
    Json(wanted): Json<Rollback>,
) -> Result<Response, ApiError> {
    let tenant = project.tenant.id;
    let deployed = state
        .control
        .rollback(tenant, &name, wanted.version)
        .await?;
    Ok(json(&Function::of(&project.name, deployed, &state)))
}

/// Gives the version on trial more of the calls, or fewer; with all of them it is live.
#[utoipa::path(post, path = "/api/v1/projects/{project}/functions/{name}/promote", tag = "Functions",
    params(("project" = String, Path), ("name" = String, Path, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")), request_body = Promotion,
    responses((status = 200, body = Function)))]
pub(super) async fn promote(
    State(state): State<ApiState>,
    InProject(project): InProject,
    Named(name): Named,
    Json(wanted): Json<Promotion>,
) -> Result<Response, ApiError> {
    let tenant = project.tenant.id;
    let percent = percent(wanted.percent, 1..=100, "percent")?.unwrap_or(100);
    let deployed = state.control.promote(tenant, &name, percent).await?;
    Ok(json(&Function::of(&project.name, deployed, &state)))
}
