//! Core modules of preview 1, run as commands: the request's body is their standard input, what they write to standard output
//! is the answer's body, and an exit status other than 0 is a failure. Of the request they know what CGI says in variables
//! (RFC 3875, section 4.1).

mod pipe;
mod stderr;
mod stdin;

use super::engine::Sandbox;
use super::invoke::Head;
use super::logs::LogWriter;
use super::messages::Start;
use super::state::{Limited, Limits, RANDOM_BYTES_MAX};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http_body::Body;
use pipe::Pipe;
use shoal_host::logging::Level;
use shoal_host::witx::{WithWitxNn, WitxNn};
use stderr::Paced;
use stdin::Stdin;
use tokio::sync::oneshot;
use wasmtime::{InstancePre, Linker, Module};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{I32Exit, WasiCtx, WasiView as _};
use wasmtime_wasi_http::Error as HttpError;

/// The function that a command begins with.
const ENTRY: &str = "_start";
/// The context of what the platform itself writes to a function's log.
const LOG_CONTEXT: &str = "wasi_ephemeral_nn";
/// Bytes of all header fields that a command is given in its environment.
const VARIABLES_BYTES_MAX: usize = 32 << 10;

/// The data of a command's store.
pub(crate) struct CommandState {
    p1: WasiP1Ctx,
    nn: WitxNn,
    log: LogWriter,
    limits: Limits,
}

impl Limited for CommandState {
    fn limits(&mut self) -> &mut Limits {
        &mut self.limits
    }
}

impl WithWitxNn for CommandState {
    fn witx_nn(&mut self) -> &mut WitxNn {
        &mut self.nn
    }

    fn complain(&mut self, words: &str) {
        self.log.log(Level::Warn, LOG_CONTEXT, words);
    }
}

/// Links what commands may import.
pub(super) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<CommandState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |state: &mut CommandState| &mut state.p1)?;
    shoal_host::witx::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Resolves a command's imports.
///
/// # Errors
/// What does not fit, in words for its owner.
pub(super) fn link(
    linker: &Linker<CommandState>,
    module: &Module,
) -> Result<InstancePre<CommandState>, String> {
    let entry = module.get_export(ENTRY);
    let entry = entry.as_ref().and_then(|entry| entry.func());
    if entry.is_none_or(|entry| entry.params().len() + entry.results().len() > 0) {
        return Err(format!(
            "a core module is run as a command of preview 1: it must export the function {ENTRY}, without parameters and results"
        ));
    }
    linker
        .instantiate_pre(module)
        .map_err(|why| format!("{why:#}"))
}

/// What a command is run with.
pub(super) struct Command {
    pub(super) nn: WitxNn,
    pub(super) log: LogWriter,
    pub(super) limits: Limits,
    /// Most handles at once: also what `poll_oneoff` may wait for.
    pub(super) handles_max: usize,
}

impl Command {
    /// Runs a command to its end. Its answer's head is sent when it has ended, or when it has written more than is kept.
    ///
    /// # Errors
    /// It traps, is stopped, or exits with another status than 0; an answer that has begun breaks off then.
    pub(super) async fn run<B>(
        self,
        sandbox: &Sandbox,
        pre: &InstancePre<CommandState>,
        start: Start,
        body: B,
        answer: oneshot::Sender<Head>,
    ) -> wasmtime::Result<()>
    where
        B: Body<Data = Bytes, Error: Into<HttpError>> + Send + 'static,
    {
        let stdout = Pipe::new(answer);
        let mut p1 = WasiCtx::builder()
            .stdin(Stdin::new(body))
            .stdout(stdout.clone())
            .stderr(Paced(self.log.stderr()))
            .envs(&variables(&start))
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false)
            .build_p1();
        p1.ctx().table.set_max_capacity(self.handles_max);
        let meter = self.limits.meter();
        let mut store = sandbox.store(CommandState {
            p1,
            nn: self.nn,
            log: self.log,
            limits: self.limits,
        });
        store.epoch_deadline_callback(move |_| Ok(meter.tick()));
        // A module may exit while it is instantiated, too.
        let ended = async {
            let instance = pre.instantiate_async(&mut store).await?;
            let entry = instance.get_typed_func::<(), ()>(&mut store, ENTRY)?;
            entry.call_async(&mut store, ()).await
        };
        match ended.await {
            Err(error)
                if error
                    .downcast_ref::<I32Exit>()
                    .is_none_or(|exit| exit.0 != 0) =>
            {
                Err(error)
            }
            _ => {
                stdout.end();
                Ok(())
            }
        }
    }
}

/// What CGI calls meta-variables: of the request, and a header `x-name` as `HTTP_X_NAME`. Fields beyond what is allowed in
/// all are left out, and so is `HTTP_PROXY`, which programs take for their proxy.
fn variables(start: &Start) -> Vec<(String, String)> {
    let path = start.uri.path();
    let query = start.uri.query().unwrap_or_default();
    let mut variables: Vec<(String, String)> = [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_METHOD", start.method.as_str()),
        ("PATH_INFO", path),
        ("QUERY_STRING", query),
        ("CONTENT_TYPE", field(&start.headers, &CONTENT_TYPE)),
        ("CONTENT_LENGTH", field(&start.headers, &CONTENT_LENGTH)),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut bytes = 0;
    for name in start.headers.keys() {
        let variable = format!(
            "HTTP_{}",
            name.as_str().to_ascii_uppercase().replace('-', "_")
        );
        let value = field(&start.headers, name);
        bytes += variable.len() + value.len();
        if bytes <= VARIABLES_BYTES_MAX && variable != "HTTP_PROXY" && !value.contains('\0') {
            variables.push((variable, value.to_owned()));
        }
    }
    variables
}

/// The first of its values, if that is text.
fn field<'h>(headers: &'h HeaderMap, name: &http::HeaderName) -> &'h str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::messages::{ComponentId, InvocationId};
    use http::{HeaderValue, Method, Uri};
    use std::time::Duration;

    #[test]
    fn a_request_is_what_cgi_says_of_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-one", "1"),
            ("proxy", "http://evil.example"),
            ("content-type", "text/plain"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.append(
            "x-long",
            HeaderValue::try_from("x".repeat(VARIABLES_BYTES_MAX)).unwrap(),
        );
        let start = Start {
            invocation: InvocationId(1),
            component: ComponentId([0; 32]),
            method: Method::PUT,
            uri: Uri::from_static("/a/b?c=d"),
            headers,
            remaining: Duration::from_secs(1),
        };
        let variables = variables(&start);
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str())
        };
        for (name, expected) in [
            ("REQUEST_METHOD", Some("PUT")),
            ("PATH_INFO", Some("/a/b")),
            ("QUERY_STRING", Some("c=d")),
            ("CONTENT_TYPE", Some("text/plain")),
            ("CONTENT_LENGTH", Some("")),
            ("HTTP_X_ONE", Some("1")),
            ("HTTP_PROXY", None),
            ("HTTP_X_LONG", None),
        ] {
            assert_eq!(value(name), expected, "{name}");
        }
    }
}
