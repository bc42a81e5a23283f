//! `/v1/organization/projects`.

use super::extract::{Admin, InProject, Json, Parameters};
use super::page::{Cursor, Page};
use super::{ApiError, ApiState, json};
use crate::tenancy;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A project: a tenant of this node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Project {
    id: String,
    /// `organization.project`.
    object: &'static str,
    /// Also the part of its functions' addresses.
    name: String,
    /// Unix seconds.
    created_at: u64,
    archived_at: Option<u64>,
    status: &'static str,
}

impl Project {
    fn of(project: &tenancy::Project) -> Self {
        Self {
            id: project.id(),
            object: "organization.project",
            name: project.name.to_string(),
            created_at: project.created_at,
            archived_at: None,
            status: "active",
        }
    }
}

/// What to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateProject {
    /// 1 to 63 of a-z, 0-9 and -.
    #[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    name: String,
}

/// Every project of the node.
#[utoipa::path(get, path = "/v1/organization/projects", tag = "Projects", operation_id = "list-projects",
    params(Cursor), responses((status = 200, body = Page<Project>)))]
pub(super) async fn list(
    _: Admin,
    State(state): State<ApiState>,
    Parameters(cursor): Parameters<Cursor>,
) -> Result<Response, ApiError> {
    let projects = state.control.directory.projects();
    let all = projects
        .iter()
        .map(|project| Project::of(project))
        .collect();
    Ok(json(
        &cursor.page(all, |project: &Project| project.id.clone())?,
    ))
}

/// A new project.
#[utoipa::path(post, path = "/v1/organization/projects", tag = "Projects", operation_id = "create-project",
    request_body = CreateProject, responses((status = 200, body = Project)))]
pub(super) async fn create(
    _: Admin,
    State(state): State<ApiState>,
    Json(wanted): Json<CreateProject>,
) -> Result<Response, ApiError> {
    let project = state.control.create_project(&wanted.name).await?;
    Ok(json(&Project::of(&project)))
}

/// One project, by id or name.
#[utoipa::path(get, path = "/v1/organization/projects/{project}", tag = "Projects", operation_id = "retrieve-project",
    params(("project" = String, Path)), responses((status = 200, body = Project)))]
pub(super) async fn show(_: Admin, InProject(project): InProject) -> Result<Response, ApiError> {
    Ok(json(&Project::of(&project)))
}
