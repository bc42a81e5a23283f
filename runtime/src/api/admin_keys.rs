//! `/v1/organization/admin_api_keys`: the operator's own.

use super::extract::{Admin, Json, OfKey, Parameters};
use super::page::{Cursor, Page};
use super::project_keys::{DeletedKey, key_id};
use super::{ApiError, ApiState, json};
use crate::control::{ControlError, Thing};
use crate::tenancy::{KeyId, KnownKey};
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An admin key; with its `value` only in the answer that made it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AdminApiKey {
    /// `organization.admin_api_key`.
    object: &'static str,
    id: String,
    name: String,
    redacted_value: String,
    /// Unix seconds.
    created_at: u64,
    /// Admin keys do not expire: null.
    expires_at: Option<u64>,
    /// Not recorded: null.
    last_used_at: Option<u64>,
    owner: Owner,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

/// The node's operator.
#[derive(Debug, Serialize, ToSchema)]
// A key of a project has an owner of another kind.
#[schema(as = AdminApiKeyOwner)]
pub(super) struct Owner {
    r#type: &'static str,
    object: &'static str,
    id: &'static str,
    name: &'static str,
    created_at: u64,
    role: &'static str,
}

/// What to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateAdminKey {
    /// Whose it is.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]+$"
    )]
    name: String,
}

fn shown(id: &KeyId, key: &KnownKey, value: Option<String>) -> AdminApiKey {
    AdminApiKey {
        object: "organization.admin_api_key",
        id: id.to_string(),
        name: key.name.to_string(),
        redacted_value: id.redacted(),
        created_at: key.created_at,
        expires_at: None,
        last_used_at: None,
        owner: Owner {
            r#type: "user",
            object: "organization.user",
            id: "user_operator",
            name: "operator",
            created_at: key.created_at,
            role: "owner",
        },
        value,
    }
}

/// Every admin key.
#[utoipa::path(get, path = "/v1/organization/admin_api_keys", tag = "Admin keys", operation_id = "admin-api-keys-list",
    params(Cursor), responses((status = 200, body = Page<AdminApiKey>)))]
pub(super) async fn list(
    _: Admin,
    State(state): State<ApiState>,
    Parameters(cursor): Parameters<Cursor>,
) -> Result<Response, ApiError> {
    let keys = state.control.directory.keys(None);
    let all = keys.iter().map(|(id, key)| shown(id, key, None)).collect();
    Ok(json(&cursor.page(all, |key: &AdminApiKey| key.id.clone())?))
}

/// A new admin key.
#[utoipa::path(post, path = "/v1/organization/admin_api_keys", tag = "Admin keys", operation_id = "admin-api-keys-create",
    request_body = CreateAdminKey, responses((status = 200, body = AdminApiKey)))]
pub(super) async fn create(
    _: Admin,
    State(state): State<ApiState>,
    Json(wanted): Json<CreateAdminKey>,
) -> Result<Response, ApiError> {
    let (key, known) = state.control.create_key(None, &wanted.name).await?;
    Ok(json(&shown(key.id(), &known, Some(key.reveal()))))
}

/// One admin key.
#[utoipa::path(get, path = "/v1/organization/admin_api_keys/{key_id}", tag = "Admin keys", operation_id = "admin-api-keys-get",
    params(("key_id" = String, Path)), responses((status = 200, body = AdminApiKey)))]
pub(super) async fn show(
    _: Admin,
    State(state): State<ApiState>,
    OfKey(id): OfKey,
) -> Result<Response, ApiError> {
    let id = key_id(&id)?;
    let key = state.control.directory.key(&id);
    let own = key.filter(|key| key.project.is_none());
    let own = own.ok_or(ControlError::Unknown(Thing::Key))?;
    Ok(json(&shown(&id, &own, None)))
}

/// Revokes an admin key; the last one cannot be.
#[utoipa::path(delete, path = "/v1/organization/admin_api_keys/{key_id}", tag = "Admin keys",
    operation_id = "admin-api-keys-delete", params(("key_id" = String, Path)), responses((status = 200, body = DeletedKey)))]
pub(super) async fn revoke(
    _: Admin,
    State(state): State<ApiState>,
    OfKey(id): OfKey,
) -> Result<Response, ApiError> {
    let id = key_id(&id)?;
    state.control.revoke_key(None, &id).await?;
    Ok(json(&DeletedKey {
        object: "organization.admin_api_key.deleted",
        id: id.to_string(),
        deleted: true,
    }))
}
