//! What a component must be to become a function: everything it imports is here, it fits the instance pool, and it can
//! answer HTTP. The words are for its owner.

use super::cache::Code;
use super::compile::CompileError;
use super::engine::Sandbox;
use super::state::State;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// Maps code and resolves its imports: what is left for a request is to instantiate it.
///
/// # Errors
/// [`CompileError::Contract`], naming what does not fit.
pub(super) fn link(sandbox: &Sandbox, code: &Code) -> Result<ProxyPre<State>, CompileError> {
    // Too many core instances, memories or tables, or too large ones: the words are wasmtime's.
    let component = code
        .map(&sandbox.engine)
        .map_err(|why| CompileError::Contract(format!("{why:#}")))?;
    let pre = sandbox
        .linker
        .instantiate_pre(&component)
        .map_err(|why| CompileError::Contract(import(&why)))?;
    ProxyPre::new(pre).map_err(|why| {
        let exports = "it must export wasi:http/incoming-handler@0.2";
        CompileError::Contract(format!("{exports}: {why:#}"))
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
