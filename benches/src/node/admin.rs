//! The operator of a node: its admin API, as far as bars need it, on one connection.

use crate::exchange::{Exchange, Reply};
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
        let path = format!("/api/v1/projects/{project}/functions/{function}/versions?public=true");
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

    /// Compiles since the node started.
    pub(crate) async fn compiles(&mut self) -> anyhow::Result<u64> {
        let page = self.ask(Method::GET, "/metrics", Bytes::new()).await?;
        anyhow::ensure!(page.status == StatusCode::OK, "answered {}", page.status);
        compiles_in(std::str::from_utf8(&page.body)?).context("the metrics count no compiles")
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

fn compiles_in(page: &str) -> Option<u64> {
    let count = "shoal_compile_duration_seconds_count ";
    let line = page.lines().find_map(|line| line.strip_prefix(count));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiles_are_counted_by_the_metrics() {
        let page =
            "shoal_compile_duration_seconds_sum 1.5\nshoal_compile_duration_seconds_count 3\n";
        assert_eq!(compiles_in(page), Some(3));
        assert_eq!(compiles_in("# EOF\n"), None);
    }
}
