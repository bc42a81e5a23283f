//! `/api/v1/projects/{project}/functions/{name}/logs`: what a function wrote, one JSON object a line.

use super::extract::{InProject, Named, Parameters};
use super::{ApiError, ApiState};
use crate::control::{ControlError, Thing};
use crate::sandbox::{Follower, Line};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use utoipa::IntoParams;

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogParameters {
    /// Only lines of a higher number (`seq`). Default: all that are left.
    #[serde(default)]
    after: u64,
    /// Go on with the lines that come, until the client leaves, the function is deleted or the node stops.
    #[serde(default)]
    follow: bool,
}

/// What a function wrote to stdout, stderr and `wasi:logging`: JSON objects, one a line, the oldest first. A number that is
/// missing is a line that made room for newer ones.
#[utoipa::path(get, path = "/api/v1/projects/{project}/functions/{name}/logs", tag = "Functions",
    params(("project" = String, Path), ("name" = String, Path, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"), LogParameters),
    responses((status = 200, body = String, content_type = "application/x-ndjson")))]
pub(super) async fn logs(
    State(state): State<ApiState>,
    InProject(project): InProject,
    Named(name): Named,
    Parameters(parameters): Parameters<LogParameters>,
) -> Result<Response, ApiError> {
    let function = state
        .control
        .registry
        .get(&format!("{}/{name}", project.name));
    let function = function.ok_or(ControlError::Unknown(Thing::Function))?;
    let body = if parameters.follow {
        let follower = function.log.follow(parameters.after);
        // Only the log is held: the function may go meanwhile.
        following(follower, state)
    } else {
        Body::from(written(&function.log.after(parameters.after)))
    };
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

fn following(follower: Follower, state: ApiState) -> Body {
    let lines = stream::unfold(
        (follower, state.shutdown),
        |(mut follower, mut shutdown)| async {
            let lines = tokio::select! {
                lines = follower.next() => lines?,
                () = shutdown.draining() => return None,
            };
            let written = Ok::<Bytes, Infallible>(written(&lines));
            Some((written, (follower, shutdown)))
        },
    );
    Body::from_stream(lines)
}

fn written(lines: &[Arc<Line>]) -> Bytes {
    let mut text = Vec::new();
    for line in lines {
        // Lines have text keys only, and a vector takes all that is written.
        let _ = serde_json::to_writer(&mut text, &**line);
        text.push(b'\n');
    }
    text.into()
}
