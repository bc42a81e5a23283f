//! `no-key`: nothing but the declared routes is reached without a key. The binary's own table of routes (`shoal routes`) is
//! asked, every route with every method it takes and on every listener it is on: without a key, with one that is malformed,
//! one that nobody has, and one that was revoked. All answer 401; `/healthz` and `/readyz` alone answer 200. Each route that
//! asks for a key is reached with the right one, so the bar can tell the difference.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::exchange::{Exchange, Reply};
use crate::greetings::Greeting;
use crate::node::{Admin, Home, Served};
use crate::random::shuffle;
use anyhow::Context as _;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Method, StatusCode};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::process::Command;

/// What may be asked without a key.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];
const PROJECT: &str = "acme";
const FUNCTION: &str = "private";
/// The node's own domain, by default.
const DOMAIN: &str = "localhost";
/// What a route that takes any method is asked with.
const ANY: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::PATCH,
    Method::OPTIONS,
];

/// A row of the table.
#[derive(Clone, Debug, Deserialize)]
struct Route {
    listener: String,
    method: String,
    path: String,
    key: String,
}

/// One thing to ask.
#[derive(Clone, Debug)]
struct Question {
    listener: Listener,
    method: Method,
    path: String,
    /// Where the route is one by the host.
    host: Option<String>,
    /// The key that it takes; `None`: it is open.
    right: Option<Right>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    Functions,
    Admin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    Project,
    Admin,
}

/// The keys of a node.
struct Keys {
    admin: String,
    project: String,
    /// What is sent instead of a key that is right.
    wrong: Vec<Option<String>>,
}

/// What was seen.
#[derive(Default)]
struct Seen {
    /// Requests without a right key to routes that ask for one.
    asked: u64,
    /// Of those, answered 401.
    refused: u64,
    /// Requests with the right key that were answered 401 all the same.
    locked_out: u64,
    /// Paths that were answered without a key.
    open: BTreeSet<String>,
}

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let mut home = Home::new()?;
    let node = home.start().await?;
    let mut admin = node.admin().await?;
    let keys = Keys::make(&mut admin).await?;
    let mut questions = Vec::new();
    for route in routes().await? {
        questions.extend(route.questions()?);
    }
    // The table is small: a tenth of it would say nothing. The order alone follows from the seed.
    shuffle(&mut questions, run.seed);
    let mut seen = Seen::default();
    for question in &questions {
        seen.ask(&node, question, &keys).await?;
    }
    node.stop().await?;
    Ok(Outcome::Measured {
        figures: vec![
            Figure {
                value: 100.0 * seen.refused as f64 / seen.asked as f64,
                unit: "%_refused_with_401",
                target: Target::Exactly(100.0),
            },
            Figure {
                value: seen.locked_out as f64,
                unit: "right_keys_refused",
                target: Target::Exactly(0.0),
            },
            Figure {
                value: seen.open.len() as f64,
                // That all others are refused is the figure above.
                unit: "open_paths",
                target: Target::Exactly(OPEN.len() as f64),
            },
        ],
        n: seen.asked,
    })
}

/// The table, as the binary prints it.
async fn routes() -> anyhow::Result<Vec<Route>> {
    let printed = Command::new(std::env::current_exe()?)
        .args(["routes", "--json"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .await?;
    anyhow::ensure!(
        printed.status.success(),
        "routes ended with {}",
        printed.status
    );
    serde_json::from_slice(&printed.stdout).context("reading the table of routes")
}

impl Route {
    /// Every way to ask it: each method, on each listener.
    fn questions(&self) -> anyhow::Result<Vec<Question>> {
        let listeners = match self.listener.as_str() {
            "listen" => vec![Listener::Functions],
            "admin_listen" => vec![Listener::Admin],
            "both" => vec![Listener::Functions, Listener::Admin],
            other => anyhow::bail!("the table names a listener {other:?}"),
        };
        let methods = match self.method.as_str() {
            "any" => ANY.to_vec(),
            method => vec![method.parse()?],
        };
        let is_open = OPEN.contains(&self.path.as_str());
        anyhow::ensure!(
            is_open == (self.key == "none"),
            "the table says {:?} of {}",
            self.key,
            self.path
        );
        let right = match listeners[0] {
            _ if is_open => None,
            Listener::Functions => Some(Right::Project),
            Listener::Admin => Some(Right::Admin),
        };
        let (host, path) = match self.path.split_once("<domain>") {
            Some((host, path)) => (Some(format!("{host}{DOMAIN}")), path),
            None => (None, self.path.as_str()),
        };
        let filled = |text: &str| {
            text.replace("{project}", PROJECT)
                .replace("{function}", FUNCTION)
                .replace("{path}", "")
                // Of something that is not there: nothing is to be removed by a key that is right.
                .replace("{name}", "absent")
                .replace("{key_id}", "key_0000000000000000")
        };
        let (host, path) = (host.as_deref().map(filled), filled(path));
        anyhow::ensure!(!path.contains('{'), "the table has a path {path}");
        let questions = listeners.iter().flat_map(|listener| {
            methods.iter().map(|method| Question {
                listener: *listener,
                method: method.clone(),
                path: path.clone(),
                host: host.clone(),
                right,
            })
        });
        Ok(questions.collect())
    }
}

impl Keys {
    /// A project with a function that is not public, a right key for it, and keys that are wrong.
    async fn make(admin: &mut Admin) -> anyhow::Result<Self> {
        admin.make_project(PROJECT).await?;
        let path = format!("/api/v1/projects/{PROJECT}/functions/{FUNCTION}/versions");
        let wasm = Greeting(0).wasm()?;
        admin
            .call::<serde_json::Value>(Method::POST, &path, wasm)
            .await?;
        let project = admin.make_project_key(PROJECT).await?.value;
        let revoked = admin.make_project_key(PROJECT).await?;
        admin.revoke_project_key(PROJECT, &revoked.id).await?;
        // As keys are made, and nobody's.
        let unknown = format!("sk-shoal-{:016x}-{:064x}", 1, 1);
        let wrong_secret = format!("{}{:08x}", &project[..project.len() - 8], 0);
        let malformed = ["", "sk-shoal-", "sk-other", &project[..project.len() - 1]];
        let wrong = malformed.map(str::to_owned).into_iter();
        let wrong = wrong.chain([unknown, wrong_secret, revoked.value]);
        Ok(Self {
            admin: admin.key().to_owned(),
            wrong: std::iter::once(None).chain(wrong.map(Some)).collect(),
            project,
        })
    }
}

impl Seen {
    async fn ask(&mut self, node: &Served, question: &Question, keys: &Keys) -> anyhow::Result<()> {
        for key in &keys.wrong {
            let reply = question.ask(node, key.as_deref()).await?;
            let is_refused = reply.status == StatusCode::UNAUTHORIZED;
            if !is_refused {
                self.open.insert(question.path.clone());
            }
            if question.right.is_some() {
                self.asked += 1;
                self.refused += u64::from(is_refused);
            }
            if is_refused != question.right.is_some() {
                eprintln!(
                    "no-key: {question:?} with {key:?} answered {}",
                    reply.status
                );
            }
        }
        let right = match question.right {
            None => return Ok(()),
            Some(Right::Project) => &keys.project,
            Some(Right::Admin) => &keys.admin,
        };
        let reply = question.ask(node, Some(right)).await?;
        if reply.status == StatusCode::UNAUTHORIZED {
            eprintln!("no-key: {question:?} refuses its own key");
            self.locked_out += 1;
        }
        Ok(())
    }
}

impl Question {
    async fn ask(&self, node: &Served, key: Option<&str>) -> anyhow::Result<Reply> {
        let address: SocketAddr = match self.listener {
            Listener::Functions => node.functions(),
            Listener::Admin => node.admin_at(),
        };
        let mut exchange = Exchange::open(address).await?;
        let mut request = exchange.request(self.method.clone(), &self.path, key, Bytes::new())?;
        if let Some(host) = &self.host {
            let host = HeaderValue::from_str(host)?;
            request.headers_mut().insert(HOST, host);
        }
        Ok(exchange.send(request).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions(
        listener: &str,
        method: &str,
        path: &str,
        key: &str,
    ) -> anyhow::Result<Vec<Question>> {
        Route {
            listener: listener.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            key: key.to_owned(),
        }
        .questions()
    }

    #[test]
    fn a_route_is_asked_on_each_listener_with_each_method() {
        let open = questions("both", "GET", "/healthz", "none").unwrap();
        assert_eq!(open.len(), 2);
        assert!(open.iter().all(|question| question.right.is_none()));
        let path = "{function}.{project}.<domain>/{path}";
        let by_host = questions("listen", "any", path, "its project's").unwrap();
        assert_eq!(by_host.len(), ANY.len());
        assert_eq!(by_host[0].host.as_deref(), Some("private.acme.localhost"));
        assert_eq!(by_host[0].path, "/");
    }

    #[test]
    fn a_table_that_opens_more_than_is_declared_is_refused() {
        for (listener, path, key) in [
            ("both", "/metrics", "none"),
            ("both", "/readyz", "admin"),
            ("other", "/metrics", "admin"),
            ("admin_listen", "/x/{unknown}", "admin"),
        ] {
            assert!(questions(listener, "GET", path, key).is_err(), "{path}");
        }
    }
}
