//! `/api/v1/projects/{project}/limits`.

use super::extract::{Admin, InProject, Json};
use super::{ApiError, ApiState, json};
use crate::tenancy::{Project, ProjectLimits};
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What holds for one project.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Limits {
    /// Device time it gets beside others that wait too, in proportion. 0: only what is idle.
    weight: u32,
    /// Whether its functions may use the class `priority`.
    priority: bool,
    /// Rows that it may queue.
    rows_max: u64,
    /// Bytes that it may queue.
    bytes_max: u64,
    /// Requests that may wait for their answer.
    requests_max: u64,
    /// Which of these were set for this project; the others are as for all.
    own: Vec<&'static str>,
}

/// What is to hold for one project; what is left out, or null, is as for all.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetLimits {
    #[schema(minimum = 0, maximum = 1000)]
    weight: Option<u32>,
    priority: Option<bool>,
    #[schema(minimum = 1, maximum = 1099511627776_u64)]
    rows_max: Option<u64>,
    #[schema(minimum = 1, maximum = 1099511627776_u64)]
    bytes_max: Option<u64>,
    #[schema(minimum = 1, maximum = 1099511627776_u64)]
    requests_max: Option<u64>,
}

impl Limits {
    fn of(project: &Project, state: &ApiState) -> Self {
        let control = &state.control;
        let limits = control.directory.limits(project.tenant.id);
        let terms = limits.terms(&control.config.inference);
        let own = [
            ("weight", limits.weight.is_some()),
            ("priority", limits.priority.is_some()),
            ("rows_max", limits.rows_max.is_some()),
            ("bytes_max", limits.bytes_max.is_some()),
            ("requests_max", limits.requests_max.is_some()),
        ];
        Self {
            weight: terms.weight,
            priority: terms.priority,
            rows_max: terms.rows_max,
            bytes_max: terms.bytes_max,
            requests_max: terms.requests_max,
            own: own
                .into_iter()
                .filter_map(|(name, is_set)| is_set.then_some(name))
                .collect(),
        }
    }
}

/// What holds for a project: its part of the devices, and what it may queue there.
#[utoipa::path(get, path = "/api/v1/projects/{project}/limits", tag = "Projects",
    params(("project" = String, Path)), responses((status = 200, body = Limits)))]
pub(super) async fn show(
    State(state): State<ApiState>,
    InProject(project): InProject,
) -> Result<Response, ApiError> {
    Ok(json(&Limits::of(&project, &state)))
}

/// Sets all of it, by the operator. Requests that are queued keep their class.
#[utoipa::path(put, path = "/api/v1/projects/{project}/limits", tag = "Projects",
    params(("project" = String, Path)), request_body = SetLimits, responses((status = 200, body = Limits)))]
pub(super) async fn set(
    _: Admin,
    State(state): State<ApiState>,
    InProject(project): InProject,
    Json(wanted): Json<SetLimits>,
) -> Result<Response, ApiError> {
    let limits = ProjectLimits {
        weight: wanted.weight,
        priority: wanted.priority,
        rows_max: wanted.rows_max,
        bytes_max: wanted.bytes_max,
        requests_max: wanted.requests_max,
    };
    state.control.set_limits(&project, limits).await?;
    Ok(json(&Limits::of(&project, &state)))
}
