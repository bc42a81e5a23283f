//! What a component must be to become a function: everything it imports is here, it fits the instance pool, and it can
//! answer HTTP. The words are for its owner.

use super::cache::{Code, Mapped};
use super::command::{self, CommandState};
use super::compile::CompileError;
use super::engine::Sandbox;
use super::state::State;
use wasmtime::InstancePre;
use wasmtime::component::Component;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// What only has to be instantiated.
pub(super) enum Linked {
    /// A component that answers HTTP.
    Handler(ProxyPre<State>),
    /// A core module that is run as a command.
    Command(InstancePre<CommandState>),
}

/// Maps code and resolves its imports: what is left for a request is to instantiate it.
///
/// # Errors
/// [`CompileError::Contract`], naming what does not fit.
pub(super) fn link(sandbox: &Sandbox, code: &Code) -> Result<Linked, CompileError> {
    // Too many core instances, memories or tables, or too large ones: the words are wasmtime's.
    let mapped = code
        .map(&sandbox.engine)
        .map_err(|why| CompileError::Contract(format!("{why:#}")))?;
    let linked = match mapped {
        Mapped::Component(component) => handler(sandbox, &component).map(Linked::Handler),
        Mapped::Module(module) => command::link(&sandbox.commands, &module).map(Linked::Command),
    };
    linked.map_err(CompileError::Contract)
}

fn handler(sandbox: &Sandbox, component: &Component) -> Result<ProxyPre<State>, String> {
    let pre = sandbox.linker.instantiate_pre(component);
    let pre = pre.map_err(|why| import(&why))?;
    ProxyPre::new(pre).map_err(|why| {
        let exports = "it must export wasi:http/incoming-handler@0.2";
        format!("{exports}: {why:#}")
    })
}

/// Says which import could not be resolved.
fn import(why: &wasmtime::Error) -> String {
    // wasmtime has no types for this error, but puts names in backquotes: of the import, then of what is asked of it.
    let mut names = why.chain().map(|cause| {
        let words = cause.to_string();
        words.split('`').nth(1).map(str::to_owned)
    });
    let Some(mut import) = names.next().flatten() else {
        return format!("{why:#}");
    };
    if let Some(item) = names.next().flatten() {
        import = format!("{import} with {item}");
    }
    let root = why.root_cause().to_string();
    if root.ends_with("implementation is missing") {
        return format!("it imports {import}, which this node does not have");
    }
    format!("it imports {import}, which this node has in another form: {root}")
}
