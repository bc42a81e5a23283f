//! `shoal serve`: a node that one leaves running.

use crate::sandbox::Allocator;
use crate::store::Data;
use crate::{Access, Config, ConfigError, Listeners, Parts, Ready, Seed};
use anyhow::Context as _;
use shoal_inference::CpuDevice;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use tokio::task::JoinSet;

/// Runs a node. What it is told survives a restart, in --data.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// The configuration: see --example-config. Default: node.toml, if it is here
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder that holds all the node must not lose (data)
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where functions are called (listen)
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where the node is managed (admin_listen)
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<SocketAddr>,
    /// Make another admin key, for when the first was lost
    #[arg(long)]
    new_admin_key: bool,
    /// Print every key with its default, and stop
    #[arg(long)]
    example_config: bool,
}

const CONFIG_DEFAULT: &str = "node.toml";

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<()> {
        if self.example_config {
            // Whoever reads it may have seen enough.
            let _ = std::io::stdout().write_all(Config::example().as_bytes());
            return Ok(());
        }
        let config = self.configuration()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(serve(config, self.new_admin_key))
    }

    /// Flags over environment over file over defaults.
    fn configuration(&self) -> anyhow::Result<Config> {
        let path = self.config.as_deref().unwrap_or(Path::new(CONFIG_DEFAULT));
        let file = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && self.config.is_none() => {
                String::new()
            }
            read => read.with_context(|| format!("reading {}", path.display()))?,
        };
        let mut config = Config::read(&file, |name| std::env::var(name).ok())?;
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(admin_listen) = self.admin_listen {
            config.admin_listen = admin_listen;
        }
        if config.listen == config.admin_listen && config.listen.port() != 0 {
            return Err(ConfigError::Value {
                key: "admin_listen".to_owned(),
                expected: "another address than listen".to_owned(),
                actual: config.admin_listen.to_string(),
            }
            .into());
        }
        Ok(config)
    }
}

async fn serve(config: Config, new_admin_key: bool) -> anyhow::Result<()> {
    let mut signals = JoinSet::new();
    let stopped = crate::on_signals(&mut signals)?;
    let listen = |key, at: SocketAddr| {
        TcpListener::bind(at).with_context(|| format!("listening on {at} ({key})"))
    };
    let listeners = Listeners {
        functions: listen("listen", config.listen)?,
        admin: Some(listen("admin_listen", config.admin_listen)?),
    };
    let (functions, admin) = listeners.addresses()?;
    let data = Data::on_disk(&config.data)?;
    let parts = Parts {
        devices: vec![CpuDevice::new(CpuDevice::threads_default())?.into()],
        config,
        listeners,
        data,
        access: Access::Keys,
        new_admin_key,
        seed: Seed::default(),
    };
    crate::run(parts, stopped, |node| say_ready(&node, functions, admin)).await
}

/// On stdout, for people and for whoever started the node: the first admin key stands here and nowhere else.
fn say_ready(node: &Ready<'_>, functions: SocketAddr, admin: SocketAddr) {
    if let Allocator::OnDemand { why } = node.allocator {
        eprintln!("shoal: instances are made on demand, without a pool: {why}");
    }
    let mut words = String::new();
    if let Some(key) = node.admin_key {
        words.push_str(&format!(
            "admin key (shown this once, kept nowhere): {key}\n"
        ));
    }
    words.push_str(&format!(
        "functions at http://{functions}, managed at http://{admin}\n"
    ));
    let mut stdout = std::io::stdout().lock();
    // Whoever started the node may not be listening.
    let _ = stdout.write_all(words.as_bytes());
    let _ = stdout.flush();
}
