//! `/api/v1/models`: the models of the node. Everybody with a key may look; adding and removing is the operator's.

use super::extract::{Admin, File, Form, Named, read_body, read_files};
use super::functions::Deleted;
use super::{ApiError, ApiState, json};
use crate::control::ModelRow;
use crate::models::ModelFiles;
use crate::tenancy::Caller;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;
use shoal_inference::{DryRun, Port};
use utoipa::ToSchema;

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Model {
    name: String,
    /// blake3 of its file as it was uploaded.
    file: String,
    /// Size of the file.
    bytes: u64,
    /// blake3 of its tokenizer, where texts can be put to it.
    tokenizer: Option<String>,
    /// Memory that its check took to load it and to run the largest batch of `measured`.
    memory_bytes: u64,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    /// Whether requests share batches.
    batchable: bool,
    /// What runs of some sizes took when it was checked.
    measured: Vec<Run>,
    /// Unix seconds.
    created_at: u64,
    /// Whether it is loaded.
    loaded: bool,
}

/// An input or output.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tensor {
    name: String,
    dtype: String,
    /// null where any size is taken.
    dims: Vec<Option<u32>>,
}

/// A run of the check.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Run {
    rows: u32,
    device_ns: u64,
}

/// Every model of the node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Models {
    data: Vec<Model>,
}

fn shown(state: &ApiState, name: String, row: ModelRow) -> Model {
    let tensors = |ports: &[Port]| ports.iter().map(tensor).collect();
    let run = |timed: &DryRun| Run {
        rows: timed.rows,
        device_ns: timed.device_ns,
    };
    Model {
        loaded: state.control.inference.model(&name).is_some(),
        name,
        file: row.file.to_string(),
        bytes: row.bytes,
        tokenizer: row.tokenizer.map(|tokenizer| tokenizer.to_string()),
        memory_bytes: row.report.memory_bytes,
        inputs: tensors(&row.report.spec.inputs),
        outputs: tensors(&row.report.spec.outputs),
        batchable: row.report.spec.batchable,
        measured: row.report.runs.iter().map(run).collect(),
        created_at: row.created_at,
    }
}

fn tensor(port: &Port) -> Tensor {
    Tensor {
        name: port.name.clone(),
        dtype: format!("{:?}", port.dtype).to_lowercase(),
        dims: port.dims.clone(),
    }
}

/// A model's files.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the description: they are read as they come")]
pub(super) struct Files {
    /// An ONNX file.
    model: File,
    /// A `tokenizer.json`, so that texts can be put to it.
    tokenizer: Option<File>,
}

/// Every model of the node.
#[utoipa::path(get, path = "/api/v1/models", tag = "Models", responses((status = 200, body = Models)))]
pub(super) async fn list(_: Caller, State(state): State<ApiState>) -> Result<Response, ApiError> {
    let rows = state.control.models().await?;
    let data = rows.into_iter().map(|(name, row)| shown(&state, name, row));
    Ok(json(&Models {
        data: data.collect(),
    }))
}

/// One model.
#[utoipa::path(get, path = "/api/v1/models/{name}", tag = "Models", params(("name" = String, Path, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")),
    responses((status = 200, body = Model)))]
pub(super) async fn show(
    _: Caller,
    State(state): State<ApiState>,
    Named(name): Named,
) -> Result<Response, ApiError> {
    let row = state.control.model(&name).await?;
    Ok(json(&shown(&state, name, row)))
}

/// Adds a model; the body is an ONNX file, or a form with that and its tokenizer. It is checked first, in a process of its own, and copied.
#[utoipa::path(put, path = "/api/v1/models/{name}", tag = "Models", params(("name" = String, Path, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")),
    request_body(content((File = "application/octet-stream"), (Files = "multipart/form-data"))),
    responses((status = 200, body = Model)))]
pub(super) async fn add(
    _: Admin,
    State(state): State<ApiState>,
    Named(name): Named,
    request: Request,
) -> Result<Response, ApiError> {
    let config = &state.control.config;
    let limits = [
        ("model", config.model_bytes_max, "model_bytes_max"),
        (
            "tokenizer",
            config.tokenizer_bytes_max,
            "tokenizer_bytes_max",
        ),
    ];
    let files = match read_files(request, limits).await? {
        Form::Fields([Some(onnx), tokenizer]) => ModelFiles { onnx, tokenizer },
        Form::Fields([None, _]) => {
            return Err(ApiError::Invalid {
                param: "model",
                why: "is missing from the form".to_owned(),
            });
        }
        Form::Not(request) => {
            let limit = usize::try_from(config.model_bytes_max).unwrap_or(usize::MAX);
            ModelFiles {
                onnx: read_body(*request, limit, "model_bytes_max").await?,
                tokenizer: None,
            }
        }
    };
    let row = state.control.add_model(&name, files).await?;
    Ok(json(&shown(&state, name, row)))
}

/// Removes a model that no live function is granted.
#[utoipa::path(delete, path = "/api/v1/models/{name}", tag = "Models", params(("name" = String, Path, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")),
    responses((status = 200, body = Deleted)))]
pub(super) async fn remove(
    _: Admin,
    State(state): State<ApiState>,
    Named(name): Named,
) -> Result<Response, ApiError> {
    state.control.remove_model(&name).await?;
    Ok(json(&Deleted {
        name,
        deleted: true,
    }))
}
