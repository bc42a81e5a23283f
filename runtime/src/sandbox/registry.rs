//! Functions that are ready to run: `project/name` to a component that only has to be instantiated.

use super::compile::{CompileError, compile};
use super::engine::Sandbox;
use super::guest::Tenant;
use super::messages::ComponentId;
use super::state::State;
use crate::config::Config;
use dashmap::DashMap;
use shoal_inference::TenantId;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// Longest name of a project or a function.
pub const NAME_LEN_MAX: usize = 63;

/// A function as it comes from outside.
#[derive(Clone, Debug)]
pub struct FunctionSource {
    /// The project it belongs to, and that pays for it.
    pub project: String,
    /// Its name within the project.
    pub name: String,
    /// The component.
    pub wasm: Arc<[u8]>,
    /// Names of the models it may use.
    pub models: BTreeSet<String>,
}

/// A function that is ready to run.
pub struct Function {
    /// The project it belongs to.
    pub project: Arc<str>,
    /// Its name within the project.
    pub name: Arc<str>,
    /// Which component it is.
    pub component: ComponentId,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) models: BTreeSet<String>,
    pub(crate) pre: ProxyPre<State>,
}

/// Why a function was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// A name that could not stand in a URL or a host name.
    #[error(
        "{what} {name:?} must be 1 to {NAME_LEN_MAX} of a-z, 0-9 and -, and start with a letter or digit"
    )]
    Name {
        /// Which name.
        what: &'static str,
        /// The name given.
        name: String,
    },
    /// The component was refused.
    #[error("function {function} was refused")]
    Component {
        /// Which function.
        function: String,
        /// Why.
        source: CompileError,
    },
}

/// All functions of this process, by `project/name`.
#[derive(Default)]
pub struct Registry {
    functions: DashMap<Box<str>, Arc<Function>>,
    tenants: DashMap<Box<str>, Arc<Tenant>>,
    last_tenant: AtomicU64,
}

impl Registry {
    /// Compiles and adds functions. Equal components are compiled once; `on_compiled` is told how long each took.
    ///
    /// # Errors
    /// The first function that is refused, by name; those before it were added.
    pub async fn add_all(
        &self,
        sandbox: &Sandbox,
        config: &Config,
        sources: Vec<FunctionSource>,
        on_compiled: impl Fn(Duration),
    ) -> Result<(), DeployError> {
        let mut compiled: HashMap<ComponentId, ProxyPre<State>> = HashMap::new();
        for source in sources {
            check_name("project", &source.project)?;
            check_name("function", &source.name)?;
            let component = ComponentId(blake3::hash(&source.wasm).into());
            let pre = match compiled.get(&component) {
                Some(pre) => pre.clone(),
                None => {
                    let began = Instant::now();
                    let pre = ready(sandbox, config, &source.wasm).await;
                    on_compiled(began.elapsed());
                    let pre = pre.map_err(|why| DeployError::Component {
                        function: format!("{}/{}", source.project, source.name),
                        source: why,
                    })?;
                    compiled.insert(component, pre.clone());
                    pre
                }
            };
            self.insert(source, component, pre);
        }
        Ok(())
    }

    fn insert(&self, source: FunctionSource, component: ComponentId, pre: ProxyPre<State>) {
        let tenant = self
            .tenants
            .entry(source.project.as_str().into())
            .or_insert_with(|| Tenant::new(TenantId(self.last_tenant.fetch_add(1, Relaxed) + 1)))
            .clone();
        let key = format!("{}/{}", source.project, source.name);
        let function = Function {
            project: source.project.into(),
            name: source.name.into(),
            component,
            tenant,
            models: source.models,
            pre,
        };
        self.functions.insert(key.into(), Arc::new(function));
    }

    /// Finds a function by `project/name`.
    pub fn get(&self, key: &str) -> Option<Arc<Function>> {
        self.functions.get(key).map(|function| function.clone())
    }
}

/// Compiles a component and checks that everything it imports is here and that it can answer HTTP.
async fn ready(
    sandbox: &Sandbox,
    config: &Config,
    wasm: &[u8],
) -> Result<ProxyPre<State>, CompileError> {
    let component = compile(sandbox, config, wasm).await?;
    let contract = |why: wasmtime::Error| CompileError::Contract(format!("{why:#}"));
    let pre = sandbox
        .linker
        .instantiate_pre(&component)
        .map_err(contract)?;
    ProxyPre::new(pre).map_err(contract)
}

fn check_name(what: &'static str, name: &str) -> Result<(), DeployError> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty()
        || name.len() > NAME_LEN_MAX
        || name.starts_with('-')
        || !name.bytes().all(fine)
    {
        return Err(DeployError::Name {
            what,
            name: name.to_owned(),
        });
    }
    Ok(())
}
