//! Who may call which function. What a caller may not know of is answered as if it were not there.

use super::error::Error;
use crate::api::bearer;
use crate::sandbox::{Function, Registry};
use crate::tenancy::{Access, Caller, Directory};
use http::HeaderMap;
use std::sync::Arc;

/// The function of this name (`project/name`), if whoever sent these headers may call it.
///
/// # Errors
/// Without a key, the same for a function that asks for one and for none at all; with another project's key, the same as
/// with its own for a function that is not there.
pub(crate) fn admit(
    directory: &Directory,
    registry: &Registry,
    name: &str,
    headers: &HeaderMap,
) -> Result<Arc<Function>, Error> {
    let function = registry.get(name);
    if directory.access() == Access::Open {
        return function.ok_or(Error::UnknownFunction);
    }
    if let Some(function) = function.as_ref().filter(|function| function.public) {
        return Ok(function.clone());
    }
    let key = bearer(headers).ok_or(Error::NoKey)?;
    match directory.caller(key).ok_or(Error::WrongKey)? {
        Caller::Admin { .. } => Err(function.map_or(Error::UnknownFunction, |_| Error::AdminKey)),
        Caller::Project { project, .. } => function
            .filter(|function| function.tenant.id == project.tenant.id)
            .ok_or(Error::UnknownFunction),
    }
}
