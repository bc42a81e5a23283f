//! The operator of a node: its admin API, as far as bars need it, on one connection.

use crate::exchange::{Exchange, Reply, escaped};
use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::net::SocketAddr;

/// A connection to where a node is managed, and the key for it.
pub(crate) struct Admin {
    exchange: Exchange,
    key: String,
}

/// A function as the node describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Deployed {
    pub(crate) name: String,
    pub(crate) live: Live,
}

/// Its live version.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Live {
    pub(crate) version: u32,
    /// Digest of the component.
    pub(crate) component: String,
}

/// A key, shown once.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) value: String,
}

/// A project.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Project {
    pub(crate) id: String,
}

impl Admin {
    pub(crate) async fn open(address: SocketAddr, key: String) -> anyhow::Result<Self> {
        let exchange = Exchange::open(address).await?;
        Ok(Self { exchange, key })
    }

    /// The operator's key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) async fn make_project(&mut self, name: &str) -> anyhow::Result<Project> {
        let body = json!({ "name": name });
        self.call(Method::POST, "/v1/organization/projects", body.to_string())
            .await
    }

    pub(crate) async fn make_project_key(&mut self, project: &str) -> anyhow::Result<Key> {
        #[derive(Deserialize)]
        struct Account {
            api_key: Key,
        }
        let path = format!("/v1/organization/projects/{project}/service_accounts");
        let body = json!({ "name": "bench" }).to_string();
        let account: Account = self.call(Method::POST, &path, body).await?;
        Ok(account.api_key)
    }

    pub(crate) async fn revoke_project_key(
        &mut self,
        project: &str,
        id: &str,
    ) -> anyhow::Result<()> {
        let path = format!("/v1/organization/projects/{project}/api_keys/{id}");
        let revoked: serde_json::Value = self.call(Method::DELETE, &path, "").await?;
        anyhow::ensure!(revoked["deleted"] == true, "answered {revoked}");
        Ok(())
    }

    /// Deploys a function that anybody may call. It is live, and on disk, when this answers.
    pub(crate) async fn deploy(
        &mut self,
        project: &str,
        function: &str,
        wasm: Bytes,
    ) -> anyhow::Result<Deployed> {
        self.deploy_reused(project, function, wasm, None).await
    }

    /// The same, with sandboxes that serve so many calls.
    pub(crate) async fn deploy_reused(
        &mut self,
        project: &str,
        function: &str,
        wasm: Bytes,
        reuse: Option<u32>,
    ) -> anyhow::Result<Deployed> {
        let reuse = reuse.map_or_else(String::new, |calls| format!("&reuse={calls}"));
        let path = format!("{}{reuse}", versions(project, function));
        let deployed = self.call(Method::POST, &path, wasm).await;
        deployed.with_context(|| format!("deploying {project}/{function}"))
    }

    /// Every function of a project.
    pub(crate) async fn functions(&mut self, project: &str) -> anyhow::Result<Vec<Deployed>> {
        #[derive(Deserialize)]
        struct Functions {
            data: Vec<Deployed>,
        }
        let path = format!("/api/v1/projects/{project}/functions");
        let functions: Functions = self.call(Method::GET, &path, "").await?;
        Ok(functions.data)
    }

    /// A metric without labels.
    pub(crate) async fn metric(&mut self, name: &str) -> anyhow::Result<f64> {
        let page = self.ask(Method::GET, "/metrics", Bytes::new()).await?;
        anyhow::ensure!(page.status == StatusCode::OK, "answered {}", page.status);
        let page = std::str::from_utf8(&page.body)?;
        metric_in(page, name).with_context(|| format!("the metrics have no {name}"))
    }

    /// Compiles since the node started.
    pub(crate) async fn compiles(&mut self) -> anyhow::Result<u64> {
        let count = self.metric("shoal_compile_duration_seconds_count");
        Ok(count.await? as u64)
    }

    /// A function that may be refused.
    pub(crate) async fn try_deploy(
        &mut self,
        project: &str,
        function: &str,
        wasm: Bytes,
    ) -> anyhow::Result<Reply> {
        self.ask(Method::POST, &versions(project, function), wasm)
            .await
    }

    /// The same, with these hosts granted; it may be refused for what is no host.
    pub(crate) async fn try_deploy_reaching(
        &mut self,
        project: &str,
        function: &str,
        wasm: Bytes,
        egress: &str,
    ) -> anyhow::Result<Reply> {
        let path = format!("{}&egress={}", versions(project, function), escaped(egress));
        self.ask(Method::POST, &path, wasm).await
    }

    /// One command that must work; what it answers.
    pub(crate) async fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<T> {
        let answer = self.ask(method.clone(), path, body.into()).await?;
        answer.ok().with_context(|| format!("{method} {path}"))
    }

    async fn ask(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Reply> {
        let key = Some(self.key.as_str());
        self.exchange.ask(method, path, key, body).await
    }
}

/// Where a public version is deployed.
fn versions(project: &str, function: &str) -> String {
    format!("/api/v1/projects/{project}/functions/{function}/versions?public=true")
}

fn metric_in(page: &str, name: &str) -> Option<f64> {
    let mut lines = page.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(of, _)| *of == name)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_read_by_its_whole_name() {
        let page = "# TYPE shoal_x counter\nshoal_x_sum 1.5\nshoal_x 3\n";
        assert_eq!(metric_in(page, "shoal_x"), Some(3.0));
        assert_eq!(metric_in(page, "shoal_x_sum"), Some(1.5));
        assert_eq!(metric_in("# EOF\n", "shoal_x"), None);
    }
}
