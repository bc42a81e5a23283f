//! `/v1/organization/projects/{project}/api_keys`, and the service accounts they are made for. A service account has one key
//! here, and lives as long as it.

use super::extract::{Admin, InProject, Json, OfKey, Parameters};
use super::page::{Cursor, Page};
use super::{ApiError, ApiState, json};
use crate::control::{ControlError, Thing};
use crate::tenancy::{KeyId, KnownKey};
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A key of a project, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProjectApiKey {
    /// `organization.project.api_key`.
    object: &'static str,
    id: String,
    redacted_value: String,
    name: String,
    /// Unix seconds.
    created_at: u64,
    /// Not recorded: null.
    last_used_at: Option<u64>,
    owner_project_access: &'static str,
    owner: Owner,
}

/// Who a key belongs to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Owner {
    r#type: &'static str,
    service_account: ServiceAccount,
}

/// A service account.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ServiceAccount {
    id: String,
    name: String,
    created_at: u64,
    role: &'static str,
}

/// A new service account and its key, shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedServiceAccount {
    /// `organization.project.service_account`.
    object: &'static str,
    #[serde(flatten)]
    account: ServiceAccount,
    api_key: CreatedKey,
}

/// A new key.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedKey {
    /// `organization.project.service_account.api_key`.
    object: &'static str,
    /// The key itself.
    value: String,
    name: String,
    created_at: u64,
    id: String,
}

/// What to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateServiceAccount {
    /// What it is for.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]+$"
    )]
    name: String,
}

/// A key that is no more.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeletedKey {
    pub(super) object: &'static str,
    pub(super) id: String,
    pub(super) deleted: bool,
}

fn account(id: &KeyId, key: &KnownKey) -> ServiceAccount {
    ServiceAccount {
        id: id.as_str().replacen("key_", "svc_acct_", 1),
        name: key.name.to_string(),
        created_at: key.created_at,
        role: "member",
    }
}

fn shown(id: &KeyId, key: &KnownKey) -> ProjectApiKey {
    ProjectApiKey {
        object: "organization.project.api_key",
        id: id.to_string(),
        redacted_value: id.redacted(),
        name: key.name.to_string(),
        created_at: key.created_at,
        last_used_at: None,
        owner_project_access: "active",
        owner: Owner {
            r#type: "service_account",
            service_account: account(id, key),
        },
    }
}

/// Reads an id; one that no key has is as unknown as one that is none.
pub(super) fn key_id(text: &str) -> Result<KeyId, ApiError> {
    KeyId::parse(text).ok_or(ControlError::Unknown(Thing::Key).into())
}

/// Keys of a project.
#[utoipa::path(get, path = "/v1/organization/projects/{project}/api_keys", tag = "Projects",
    operation_id = "list-project-api-keys", params(("project" = String, Path), Cursor),
    responses((status = 200, body = Page<ProjectApiKey>)))]
pub(super) async fn list(
    _: Admin,
    State(state): State<ApiState>,
    InProject(project): InProject,
    Parameters(cursor): Parameters<Cursor>,
) -> Result<Response, ApiError> {
    let keys = state.control.directory.keys(Some(project.tenant.id));
    let all = keys.iter().map(|(id, key)| shown(id, key)).collect();
    Ok(json(
        &cursor.page(all, |key: &ProjectApiKey| key.id.clone())?,
    ))
}

/// One key.
#[utoipa::path(get, path = "/v1/organization/projects/{project}/api_keys/{key_id}", tag = "Projects",
    operation_id = "retrieve-project-api-key", params(("project" = String, Path), ("key_id" = String, Path)),
    responses((status = 200, body = ProjectApiKey)))]
pub(super) async fn show(
    _: Admin,
    State(state): State<ApiState>,
    InProject(project): InProject,
    OfKey(id): OfKey,
) -> Result<Response, ApiError> {
    let id = key_id(&id)?;
    let key = state.control.directory.key(&id);
    let own = key.filter(|key| key.project == Some(project.tenant.id));
    let own = own.ok_or(ControlError::Unknown(Thing::Key))?;
    Ok(json(&shown(&id, &own)))
}

/// Revokes a key.
#[utoipa::path(delete, path = "/v1/organization/projects/{project}/api_keys/{key_id}", tag = "Projects",
    operation_id = "delete-project-api-key", params(("project" = String, Path), ("key_id" = String, Path)),
    responses((status = 200, body = DeletedKey)))]
pub(super) async fn revoke(
    _: Admin,
    State(state): State<ApiState>,
    InProject(project): InProject,
    OfKey(id): OfKey,
) -> Result<Response, ApiError> {
    let id = key_id(&id)?;
    state
        .control
        .revoke_key(Some(project.tenant.id), &id)
        .await?;
    Ok(json(&DeletedKey {
        object: "organization.project.api_key.deleted",
        id: id.to_string(),
        deleted: true,
    }))
}

/// A new service account and its key.
#[utoipa::path(post, path = "/v1/organization/projects/{project}/service_accounts", tag = "Projects",
    operation_id = "create-project-service-account", params(("project" = String, Path)),
    request_body = CreateServiceAccount, responses((status = 200, body = CreatedServiceAccount)))]
pub(super) async fn create(
    _: Admin,
    State(state): State<ApiState>,
    InProject(project): InProject,
    Json(wanted): Json<CreateServiceAccount>,
) -> Result<Response, ApiError> {
    let tenant = Some(project.tenant.id);
    let (key, known) = state.control.create_key(tenant, &wanted.name).await?;
    Ok(json(&CreatedServiceAccount {
        object: "organization.project.service_account",
        account: account(key.id(), &known),
        api_key: CreatedKey {
            object: "organization.project.service_account.api_key",
            value: key.reveal(),
            name: known.name.to_string(),
            created_at: known.created_at,
            id: key.id().to_string(),
        },
    }))
}
