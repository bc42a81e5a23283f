//! The admin API: tenancy as OpenAI has it under `/v1/organization`, and what OpenAI has no word for under `/api/v1`. Puts
//! `control`'s commands on the wire and holds no state.
//!
//! Nothing here is reached without a key: [`Api::call`] asks for one before it looks at a path, so a path that does not exist
//! needs one too. Where a node asks nobody (`Access::Open`) everybody is its operator.

mod admin_keys;
mod error;
mod extract;
mod functions;
mod limits;
mod logs;
mod models;
mod node;
mod page;
mod project_keys;
mod projects;
mod refusals;

pub(crate) use error::ApiError;

use crate::control::Control;
use crate::http::Error as RequestError;
use crate::shutdown::Shutdown;
use crate::tenancy::{Access, Caller};
use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What every handler works with.
#[derive(Clone)]
pub(crate) struct ApiState {
    pub(crate) control: Arc<Control>,
    /// Where functions are called.
    pub(crate) functions_at: SocketAddr,
    pub(crate) shutdown: Shutdown,
    /// The description of all this, as JSON.
    pub(crate) description: Arc<str>,
}

/// The admin API as a service.
#[derive(Clone)]
pub(crate) struct Api {
    control: Arc<Control>,
    router: Router,
    timeout: Duration,
}

impl Api {
    /// The routes over a node's commands.
    pub(crate) fn new(control: Arc<Control>, functions_at: SocketAddr, shutdown: Shutdown) -> Self {
        let (router, description) = routes().split_for_parts();
        let description = refusals::described(description)
            .to_json()
            .expect("the description has text keys only, so it can be written as JSON");
        let state = ApiState {
            control: control.clone(),
            functions_at,
            shutdown,
            description: description.into(),
        };
        Self {
            timeout: control.config.api_timeout,
            router: router
                .fallback(|| async { ApiError::Request(RequestError::UnknownPath) })
                .method_not_allowed_fallback(|| async { ApiError::Method })
                .with_state(state),
            control,
        }
    }

    /// Answers one request: who is it, then what do they want.
    pub(crate) async fn call(&self, mut request: Request) -> Response {
        let caller = match self.caller(request.headers()) {
            Ok(caller) => caller,
            Err(error) => return ApiError::from(error).into_response(),
        };
        request.extensions_mut().insert(caller);
        let answered = self.router.clone().oneshot(request);
        match tokio::time::timeout(self.timeout, answered).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => ApiError::Timeout(self.timeout).into_response(),
        }
    }

    /// The operator, for what else only the operator may see.
    ///
    /// # Errors
    /// Somebody else, or nobody known.
    pub(crate) fn admin(&self, headers: &HeaderMap) -> Result<(), RequestError> {
        match self.caller(headers)? {
            Caller::Admin { .. } => Ok(()),
            Caller::Project { .. } => Err(RequestError::NotAdmin),
        }
    }

    fn caller(&self, headers: &HeaderMap) -> Result<Caller, RequestError> {
        let directory = &self.control.directory;
        if directory.access() == Access::Open {
            return Ok(Caller::Admin { key: None });
        }
        let key = bearer(headers).ok_or(RequestError::NoKey)?;
        directory.caller(key).ok_or(RequestError::WrongKey)
    }
}

/// The key of an `Authorization: Bearer` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Every route, and its description.
fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(description())
        .routes(routes!(node::node))
        .routes(routes!(node::openapi))
        .routes(routes!(functions::list))
        .routes(routes!(functions::show, functions::delete))
        .routes(routes!(functions::versions, functions::deploy))
        .routes(routes!(functions::rollback))
        .routes(routes!(functions::promote))
        .routes(routes!(logs::logs))
        .routes(routes!(models::list))
        .routes(routes!(models::show, models::add, models::remove))
        .routes(routes!(projects::list, projects::create))
        .routes(routes!(projects::show))
        .routes(routes!(limits::show, limits::set))
        .routes(routes!(project_keys::list))
        .routes(routes!(project_keys::show, project_keys::revoke))
        .routes(routes!(project_keys::create))
        .routes(routes!(admin_keys::list, admin_keys::create))
        .routes(routes!(admin_keys::show, admin_keys::revoke))
}

fn description() -> OpenApi {
    let info = utoipa::openapi::InfoBuilder::new()
        .title("Shoal admin API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Functions, models, projects and keys of a node. Every request needs `Authorization: Bearer` with a key: a \
             project's for what is the project's own, an admin key for the rest. Errors are \
             `{\"error\":{\"message\",\"type\",\"param\",\"code\"}}`.",
        ))
        .build();
    OpenApi::builder().info(info).build()
}

/// Method and path of every route, sorted by path: what `shoal routes` prints.
pub(crate) fn table() -> Vec<(Method, String)> {
    let mut table = Vec::new();
    for (path, item) in routes().get_openapi().paths.paths.iter() {
        let methods = [
            (Method::GET, &item.get),
            (Method::POST, &item.post),
            (Method::PUT, &item.put),
            (Method::DELETE, &item.delete),
        ];
        for (method, operation) in methods {
            if operation.is_some() {
                table.push((method, path.clone()));
            }
        }
    }
    table
}

/// An answer in JSON.
fn json(value: &impl serde::Serialize) -> Response {
    axum::Json(value).into_response()
}
