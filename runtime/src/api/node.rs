//! What a node says of itself to whoever manages it.

use super::{ApiState, json};
use crate::tenancy::Caller;
use axum::extract::State;
use axum::response::Response;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use utoipa::ToSchema;

/// A node, as the holder of a key sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Node {
    version: &'static str,
    /// Where functions are called, as the node listens; a proxy before it has its own address.
    functions_url: String,
    /// The project of the key that asks; null for an admin key.
    project: Option<String>,
}

/// The node.
#[utoipa::path(get, path = "/api/v1/node", tag = "Node", responses((status = 200, body = Node)))]
pub(super) async fn node(State(state): State<ApiState>, caller: Caller) -> Response {
    json(&Node {
        version: env!("CARGO_PKG_VERSION"),
        functions_url: format!("http://{}", state.functions_at),
        project: match caller {
            Caller::Admin { .. } => None,
            Caller::Project { project, .. } => Some(project.name.to_string()),
        },
    })
}

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "Node", responses((status = 200, body = serde_json::Value)))]
pub(super) async fn openapi(State(state): State<ApiState>) -> Response {
    let mut response = Response::new(state.description.to_string().into());
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
