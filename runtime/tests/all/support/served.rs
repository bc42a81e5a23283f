//! `shoal serve` as a process of its own, with its data in a folder: what can be killed and started again.

use super::{Client, Reply, root};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// A node in a process of its own; dropped, it is killed.
pub(crate) struct Served {
    child: Child,
    /// Where functions are called.
    pub(crate) functions: SocketAddr,
    /// Where it is managed.
    pub(crate) admin: SocketAddr,
    /// The admin key it made, if it made one.
    pub(crate) admin_key: Option<String>,
}

/// Starts a node with its data in `data`, and waits until it is ready.
pub(crate) fn served(data: &Path, arguments: &[&str]) -> Served {
    served_with(data, arguments, &[])
}

/// The same, with these variables in its environment.
pub(crate) fn served_with(data: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Served {
    let mut child = command(data, arguments)
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let (mut admin_key, mut addresses) = (None, None);
    for line in BufReader::new(stdout).lines() {
        let line = line.unwrap();
        if let Some((_, key)) = line.split_once("kept nowhere): ") {
            admin_key = Some(key.to_owned());
        }
        if let Some((functions, admin)) = line.split_once(", managed at http://") {
            let functions = functions.strip_prefix("functions at http://").unwrap();
            addresses = Some((functions.parse().unwrap(), admin.parse().unwrap()));
            break;
        }
    }
    let (functions, admin) = addresses.expect("the node says where it is when it is ready");
    Served {
        child,
        functions,
        admin,
        admin_key,
    }
}

fn command(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .arg("--data")
        .arg(data)
        .args(arguments)
        // Not in a folder that may hold a node.toml.
        .current_dir(data.parent().unwrap())
        .env("SHOAL_GUESTS_MAX", "64")
        .env("SHOAL_COMPILE_TIMEOUT", "120s")
        .env("SHOAL_COMPILE_CPU_MAX", "60s");
    command
}

impl Served {
    /// A node that is expected not to start; what it says.
    pub(crate) fn refused(data: &Path, arguments: &[&str]) -> Output {
        command(data, arguments).output().unwrap()
    }

    /// One request to the admin API, with a key.
    pub(crate) fn api(&self, method: &str, path: &str, key: &str, body: &[u8]) -> Reply {
        Client::new(self.admin).request(method, path, Some(key), body)
    }

    /// One command that must work; its answer.
    pub(crate) fn ok(&self, method: &str, path: &str, key: &str, body: &[u8]) -> Value {
        let reply = self.api(method, path, key, body);
        assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
        reply.json()
    }

    /// A project, and a key of it.
    pub(crate) fn project(&self, admin_key: &str, name: &str) -> String {
        let body = format!("{{\"name\":{name:?}}}");
        self.ok(
            "POST",
            "/v1/organization/projects",
            admin_key,
            body.as_bytes(),
        );
        let path = format!("/v1/organization/projects/{name}/service_accounts");
        let account = self.ok("POST", &path, admin_key, b"{\"name\":\"test\"}");
        account["api_key"]["value"].as_str().unwrap().to_owned()
    }

    /// Adds the bundled model.
    pub(crate) fn add_digits(&self, admin_key: &str) {
        let onnx = std::fs::read(root().join("samples/models/digits/digits.onnx")).unwrap();
        self.ok("PUT", "/api/v1/models/digits", admin_key, &onnx);
    }

    /// Calls a function, with a key if there is one.
    pub(crate) fn call(&self, path: &str, key: Option<&str>) -> Reply {
        Client::new(self.functions).request("GET", path, key, b"")
    }

    /// Kills it as the operating system would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to drain and waits until it has.
    pub(crate) fn stop(mut self) {
        use rustix::process::{Pid, Signal, kill_process};
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}");
    }

    /// A command of the command line, against this node.
    pub(crate) fn shoal(&self, key: &str, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_shoal"))
            .args(arguments)
            .env("SHOAL_ADMIN_URL", format!("http://{}", self.admin))
            .env_remove("SHOAL_URL")
            .env("SHOAL_API_KEY", key)
            .output()
            .unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
