//! Talks to a node as any client would: over HTTP, with a key. Where and who come from flags, else from the environment.

use super::profile::Profile;
use super::progress::{Shown, Upload};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

const ADMIN_URL: &str = "SHOAL_ADMIN_URL";
const FUNCTIONS_URL: &str = "SHOAL_URL";
const API_KEY: &str = "SHOAL_API_KEY";
const ADMIN_URL_DEFAULT: &str = "http://127.0.0.1:8081";

/// Which node, and as whom.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// Where the node is managed. Default: SHOAL_ADMIN_URL, else where `shoal login` was, else http://127.0.0.1:8081
    #[arg(long, value_name = "URL")]
    admin_url: Option<String>,
    /// A key. Default: SHOAL_API_KEY, which other users of this machine cannot see, else that of `shoal login` for this node
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

/// The project that a command is about.
#[derive(Debug, clap::Args)]
pub(super) struct InProject {
    /// The project. Default: that of the key
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    #[command(flatten)]
    pub(super) target: Target,
}

/// A node, to be asked. Clones are the same.
#[derive(Clone)]
pub(super) struct Client {
    http: hyper_util::client::legacy::Client<HttpConnector, Upload>,
    admin_url: String,
    key: Option<String>,
}

impl Target {
    /// A node that asks for no key.
    pub(super) fn at(admin_url: &str) -> Self {
        Self {
            admin_url: Some(admin_url.to_owned()),
            key: None,
        }
    }

    /// The key of the flag or the environment.
    pub(super) fn given_key(&self) -> Option<String> {
        self.key.clone().or_else(|| variable(API_KEY))
    }

    pub(super) fn set_key(&mut self, key: String) {
        self.key = Some(key);
    }

    pub(super) fn client(&self) -> Client {
        let profile = Profile::read();
        let admin_url = self.admin_url.clone().or_else(|| variable(ADMIN_URL));
        let admin_url = match (admin_url, &profile) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Some(profile)) => profile.admin_url.clone(),
            (None, None) => ADMIN_URL_DEFAULT.to_owned(),
        };
        // A key goes nowhere but where it was given for.
        let kept = profile.filter(|profile| profile.admin_url == admin_url);
        Client {
            http: hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http(),
            admin_url,
            key: self.given_key().or(kept.map(|profile| profile.key)),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl InProject {
    /// The node, and the project's name.
    pub(super) async fn resolve(&self) -> anyhow::Result<(Client, String)> {
        let client = self.target.client();
        if let Some(project) = &self.project {
            return Ok((client, project.clone()));
        }
        let node = client.get("/api/v1/node").await?;
        match node["project"].as_str() {
            Some(project) => Ok((client, project.to_owned())),
            None => bail!("this key belongs to no project: say which with --project NAME"),
        }
    }
}

impl Client {
    /// Where the node is managed.
    pub(super) fn admin_url(&self) -> &str {
        &self.admin_url
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = serde_json::to_vec(body)?;
        self.call(Method::POST, path, body.into()).await
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = serde_json::to_vec(body)?;
        self.call(Method::PUT, path, body.into()).await
    }

    /// One command; its answer in JSON.
    ///
    /// # Errors
    /// The node cannot be reached, or refuses: in its own words.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.admin_url);
        let response = self.send(method, &url, "application/json", body).await?;
        read(response).await
    }

    /// The same, with a body of another type, whose way is shown; then the node is busy with `then`.
    pub(super) async fn upload(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
        then: &'static str,
    ) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.admin_url);
        let shown = Shown::new(body.len(), then);
        let body = Upload::new(body, Some(shown.watch()));
        let response = self.request(method, &url, content_type, body).await?;
        read(response).await
    }

    /// One command whose answer is read as it comes.
    pub(super) async fn stream(&self, path: &str) -> anyhow::Result<Incoming> {
        let url = format!("{}{path}", self.admin_url);
        let response = self
            .send(Method::GET, &url, "application/json", Bytes::new())
            .await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        read(response).await?;
        bail!("the node answered with no log")
    }

    /// Where functions are called: SHOAL_URL, else what the node says.
    pub(super) async fn functions_url(&self) -> anyhow::Result<String> {
        if let Some(url) = variable(FUNCTIONS_URL) {
            return Ok(url.trim_end_matches('/').to_owned());
        }
        let node = self.get("/api/v1/node").await?;
        let url = node["functions_url"].as_str();
        Ok(url
            .context("the node names no address for functions")?
            .to_owned())
    }

    /// One request with the key.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let body = Upload::new(body, None);
        self.request(method, url, content_type, body).await
    }

    async fn request(
        &self,
        method: Method,
        url: &str,
        content_type: &str,
        body: Upload,
    ) -> anyhow::Result<Response<Incoming>> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        if uri.scheme_str() != Some("http") {
            bail!(
                "{url} must begin with http://: put a proxy that speaks TLS before a node that is far away"
            );
        }
        let mut request = Request::builder().method(method).uri(uri);
        if !body.is_end_stream() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let sent = self.http.request(request.body(body)?).await;
        sent.with_context(|| format!("no answer from {url} (is a node running there?)"))
    }
}

async fn read(response: Response<Incoming>) -> anyhow::Result<Value> {
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .context("reading the answer")?;
    let body: Value = serde_json::from_slice(&body.to_bytes()).with_context(|| {
        format!("the answer ({status}) is not JSON: is this a node's admin URL?")
    })?;
    if status.is_success() {
        return Ok(body);
    }
    let hint = match status {
        StatusCode::UNAUTHORIZED => "; set SHOAL_API_KEY, or run shoal login",
        _ => "",
    };
    let words = body["error"]["message"]
        .as_str()
        .unwrap_or("no reason given");
    bail!("{words} ({status}){hint}")
}

/// Runs a command that talks to a node.
pub(super) fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(command)
}
