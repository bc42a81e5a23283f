//! `shoal:function/context`: what a guest may know of the request that it answers.

use std::time::Duration;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Linker, Lower};

const INTERFACE: &str = "shoal:function/context@0.1.0";

/// Who is asked, and for how long.
#[derive(Clone, Debug)]
pub struct Context {
    /// The project that the function belongs to.
    pub project: String,
    /// The function's name.
    pub function: String,
    /// What the client knows the request by.
    pub request_id: String,
    /// Time until the request's deadline.
    pub deadline_left: Duration,
}

/// The same as WIT has it.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Record {
    project: String,
    function: String,
    #[component(name = "request-id")]
    request_id: String,
    #[component(name = "deadline-left")]
    deadline_left: u64,
}

/// Implemented by the data of a store whose guests may ask for it.
pub trait WithContext: 'static {
    /// As it is now.
    fn context(&self) -> Context;
}

/// Links the interface.
///
/// # Errors
/// If it is linked already.
pub fn add_to_linker<T: WithContext>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let get = |store: StoreContextMut<'_, T>, ()| {
        let Context {
            project,
            function,
            request_id,
            deadline_left,
        } = store.data().context();
        Ok((Record {
            project,
            function,
            request_id,
            deadline_left: u64::try_from(deadline_left.as_nanos()).unwrap_or(u64::MAX),
        },))
    };
    linker.instance(INTERFACE)?.func_wrap("get-context", get)
}
