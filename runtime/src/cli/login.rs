//! `shoal login`: later commands ask that node, with that key.

use super::client::{Target, block_on};
use super::profile::Profile;
use anyhow::{Context as _, ensure};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{BufRead as _, IsTerminal as _, Stdin};

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

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden<'a> {
    terminal: &'a Stdin,
    before: Option<Termios>,
}

impl<'a> Hidden<'a> {
    /// One that cannot do so shows it: that is no reason not to log in.
    fn from(terminal: &'a Stdin) -> Self {
        let before = tcgetattr(terminal).ok();
        if let Some(before) = &before {
            let mut hidden = before.clone();
            hidden.local_modes.remove(LocalModes::ECHO);
            let _ = tcsetattr(terminal, OptionalActions::Flush, &hidden);
        }
        Self { terminal, before }
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(self.terminal, OptionalActions::Flush, before);
        }
    }
}

fn read_key() -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    let hidden = stdin.is_terminal().then(|| {
        eprint!("key: ");
        Hidden::from(&stdin)
    });
    let mut key = String::new();
    let read = stdin.lock().read_line(&mut key);
    if hidden.is_some() {
        drop(hidden);
        eprintln!();
    }
    read.context("reading the key")?;
    let key = key.trim();
    ensure!(
        !key.is_empty(),
        "no key: give one on stdin, in SHOAL_API_KEY or with --key"
    );
    Ok(key.to_owned())
}
