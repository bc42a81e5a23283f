//! What handlers take from a request: each checked once, with an error that names the field.

use super::{ApiError, ApiState};
use crate::control::{ControlError, Thing};
use crate::http::Error as RequestError;
use crate::tenancy::{Caller, Project};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of a form beside its files.
const FORM_BYTES_MAX: u64 = 64 << 10;
/// Longest JSON body of a command.
const JSON_BYTES_MAX: usize = 64 << 10;

impl FromRequestParts<ApiState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Caller>()
            .cloned()
            .ok_or(RequestError::NoKey.into())
    }
}

/// The operator.
pub(super) struct Admin;

impl FromRequestParts<ApiState> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        match Caller::from_request_parts(parts, state).await? {
            Caller::Admin { .. } => Ok(Self),
            Caller::Project { .. } => Err(RequestError::NotAdmin.into()),
        }
    }
}

/// The project that a path names, if the caller may act for it; else it is as if there were none.
pub(super) struct InProject(pub(super) Arc<Project>);

impl FromRequestParts<ApiState> for InProject {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let name = path_part(parts, state, "project").await?;
        let project = state.control.directory.find(&name);
        project
            .filter(|project| caller.may_act_for(project.tenant.id))
            .map(Self)
            .ok_or(ControlError::Unknown(Thing::Project).into())
    }
}

/// The last part of a path.
pub(super) struct Named(pub(super) String);

impl FromRequestParts<ApiState> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        path_part(parts, state, "name").await.map(Self)
    }
}

/// The id of the key that a request is about.
pub(super) struct OfKey(pub(super) String);

impl FromRequestParts<ApiState> for OfKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        path_part(parts, state, "key_id").await.map(Self)
    }
}

async fn path_part(
    parts: &mut Parts,
    state: &ApiState,
    name: &'static str,
) -> Result<String, ApiError> {
    let path = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
    // Percent signs that decode to no text.
    let Path(mut path) = path.map_err(|error| ApiError::Invalid {
        param: name,
        why: error.body_text(),
    })?;
    path.remove(name).ok_or(RequestError::UnknownPath.into())
}

/// The parameters behind the `?`.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        let Query(parameters) = query.map_err(|error| ApiError::Invalid {
            param: "query",
            why: error.body_text(),
        })?;
        Ok(Self(parameters))
    }
}

/// A body in JSON.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<ApiState> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &ApiState) -> Result<Self, ApiError> {
        let body = read_body(request, JSON_BYTES_MAX, "a command's JSON").await?;
        let value = serde_json::from_slice(&body).map_err(|error| ApiError::Invalid {
            param: "body",
            why: error.to_string(),
        })?;
        Ok(Self(value))
    }
}

/// A whole body of at most `limit` bytes, which `key` sets.
pub(super) async fn read_body(
    request: Request,
    limit: usize,
    key: &'static str,
) -> Result<Bytes, ApiError> {
    let body = Limited::new(request.into_body(), limit).collect().await;
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge { limit, key }),
        Err(error) => Err(ApiError::Invalid {
            param: "body",
            why: error.to_string(),
        }),
    }
}

/// A body that may be a form.
pub(super) enum Form<const N: usize> {
    /// The fields that were asked for; those that did not come are `None`.
    Fields([Option<Bytes>; N]),
    /// It is none: the request as it came.
    Not(Box<Request>),
}

/// The files of a `multipart/form-data` body: `fields` has the name, the most bytes and the key of that limit for each.
pub(super) async fn read_files<const N: usize>(
    request: Request,
    fields: [(&'static str, u64, &'static str); N],
) -> Result<Form<N>, ApiError> {
    let content_type = request.headers().get(CONTENT_TYPE);
    let content_type = content_type.and_then(|kind| kind.to_str().ok());
    let Ok(boundary) = multer::parse_boundary(content_type.unwrap_or_default()) else {
        return Ok(Form::Not(Box::new(request)));
    };
    let invalid = |error: multer::Error| ApiError::Invalid {
        param: "body",
        why: error.to_string(),
    };
    let whole = fields.iter().map(|(_, limit, _)| *limit).sum::<u64>() + FORM_BYTES_MAX;
    let sizes = multer::SizeLimit::new().whole_stream(whole);
    let sizes = fields.iter().fold(sizes, |sizes, (name, limit, _)| {
        sizes.for_field(*name, *limit)
    });
    let names = fields.iter().map(|(name, ..)| *name).collect();
    let constraints = multer::Constraints::new()
        .allowed_fields(names)
        .size_limit(sizes);
    let stream = request.into_body().into_data_stream();
    let mut form = multer::Multipart::with_constraints(stream, boundary, constraints);
    let mut read = [const { None }; N];
    while let Some(field) = form.next_field().await.map_err(invalid)? {
        let at = fields
            .iter()
            .position(|(name, ..)| Some(*name) == field.name());
        let Some(at) = at else { continue };
        let (param, limit, key) = fields[at];
        let bytes = field.bytes().await.map_err(|error| match error {
            multer::Error::FieldSizeExceeded { .. } => ApiError::TooLarge {
                limit: usize::try_from(limit).unwrap_or(usize::MAX),
                key,
            },
            error => invalid(error),
        })?;
        if read[at].replace(bytes).is_some() {
            return Err(ApiError::Invalid {
                param,
                why: "is in the form twice".to_owned(),
            });
        }
    }
    Ok(Form::Fields(read))
}

/// A file as it is, for the description.
#[derive(utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(super) struct File(#[expect(dead_code, reason = "it is read as it comes")] Vec<u8>);
