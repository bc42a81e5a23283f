//! `/api/v1/projects/{project}/functions`.

use super::extract::{File, InProject, Json, Named, Parameters, read_body};
use super::{ApiError, ApiState, json};
use crate::control::{Deploy, Deployed, VersionRow};
use crate::egress::HostRuleError;
use crate::sandbox::Grants;
use crate::tenancy::Caller;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
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
}

/// Where to go back to.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    /// Which version. Default: the newest that is older than the live one.
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
        })
    }
}

/// What stands between commas.
fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

impl Function {
    fn of(project: &str, deployed: Deployed) -> Self {
        Self {
            path: format!("/f/{project}/{}/", deployed.name),
            name: deployed.name,
            project: project.to_owned(),
            created_at: deployed.row.created_at,
            live: deployed.row.live.into(),
        }
    }
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
    let data = data.map(|deployed| Function::of(&project.name, deployed));
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
    Ok(json(&Function::of(&project.name, deployed)))
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

/// Deploys a new version, live when this answers. The body is the component.
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
    let deploy = Deploy {
        project: project.clone(),
        function,
        wasm,
        grants,
        by: caller.key().cloned(),
    };
    let deployed = state.control.deploy(deploy).await?;
    Ok(json(&Function::of(&project.name, deployed)))
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
    Ok(json(&Function::of(&project.name, deployed)))
}
