//! What a function may know of the request that it answers, over `shoal:function/context`.

use std::time::Duration;

use crate::bindings::shoal::function::context::get_context;

/// Who is asked, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context {
    /// The project that this function belongs to, and that pays.
    pub project: String,
    /// This function's name.
    pub function: String,
    /// What the client knows the request by: the answer's `x-request-id`.
    pub request_id: String,
    /// Time until the request's deadline, at which this function is stopped.
    pub deadline_left: Duration,
}

/// What may be known of the request that is answered now.
///
/// ```no_run
/// use std::time::Duration;
///
/// let has_time = shoal_sdk::context().deadline_left > Duration::from_secs(5);
/// ```
pub fn context() -> Context {
    let context = get_context();
    Context {
        project: context.project,
        function: context.function,
        request_id: context.request_id,
        deadline_left: Duration::from_nanos(context.deadline_left),
    }
}
