//! `shoal login`: later commands ask that node, with that key.

use super::client::{Target, block_on};
use super::profile::Profile;
use anyhow::{Context as _, ensure};
use std::io::{BufRead as _, IsTerminal as _};

/// Remembers a node and a key, which is read from stdin unless it is given.
#[derive(Debug, clap::Args)]
pub(super) struct Login {
    #[command(flatten)]
    target: Target,
}

impl Login {
    pub(super) fn run(mut self) -> anyhow::Result<()> {
        let key = match self.target.given_key() {
            Some(key) => key,
            None => read_key()?,
        };
        self.target.set_key(key.clone());
        let client = self.target.client();
        let node = block_on(client.get("/api/v1/node"))?;
        let who = match node["project"].as_str() {
            Some(project) => format!("project {project}"),
            None => "the operator".to_owned(),
        };
        let admin_url = client.admin_url().to_owned();
        let path = Profile { admin_url, key }.write()?;
        println!(
            "logged in to {} as {who}; kept in {}",
            client.admin_url(),
            path.display()
        );
        Ok(())
    }
}

fn read_key() -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprint!("key: ");
    }
    let mut key = String::new();
    stdin
        .lock()
        .read_line(&mut key)
        .context("reading the key")?;
    let key = key.trim();
    ensure!(
        !key.is_empty(),
        "no key: give one on stdin, in SHOAL_API_KEY or with --key"
    );
    Ok(key.to_owned())
}
