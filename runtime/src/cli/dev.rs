//! `shoal dev`: a function project on a node with throwaway data, built and deployed again after each change.

use super::client::{Client, Target};
use super::deploy::Version;
use super::logs::{follow, for_people};
use super::model_files;
use crate::store::Data;
use crate::{Access, Config, Listeners, Parts, Seed, Shutdown};
use anyhow::{Context as _, ensure};
use serde_json::json;
use shoal_inference::{CpuDevice, ModelSource};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

const DIGITS_ONNX: &[u8] = include_bytes!("../../../samples/models/digits/digits.onnx");
/// Whose the function is.
const PROJECT: &str = "dev";
/// How often the project is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Files and folders that are made, not written; so are those that begin with a dot or end with a tilde.
const MADE: [&str; 3] = ["Cargo.lock", "node_modules", "target"];
/// Guests alive at once: it has one user.
const GUESTS_MAX: u32 = 100;

/// Runs a function project here, and again after each change.
#[derive(Debug, clap::Args)]
pub(super) struct Dev {
    /// The project's folder
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Where to listen; another free port is taken if this one is not
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// A model beside `digits`: an ONNX file, or a folder with model.onnx and, for texts, tokenizer.json
    #[arg(long, value_name = "NAME=DIR|FILE")]
    model: Vec<String>,
}

impl Dev {
    pub(super) fn run(self) -> anyhow::Result<()> {
        ensure!(
            self.listen.ip().is_loopback(),
            "--listen must be a loopback address: this node asks for no key"
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> anyhow::Result<()> {
        let mut signals = JoinSet::new();
        let stopped = crate::on_signals(&mut signals)?;
        let listener = TcpListener::bind(self.listen)
            .or_else(|_| TcpListener::bind((self.listen.ip(), 0)))
            .context("listening on loopback")?;
        let url = format!("http://{}", listener.local_addr()?);
        let (ready, is_ready) = oneshot::channel();
        let parts = self.parts(listener)?;
        let node = crate::run(parts, stopped.clone(), |_| {
            let _ = ready.send(());
        });
        let develop = async {
            is_ready.await.context("the node did not start")?;
            let client = Target::at(&url).client();
            let project = json!({ "name": PROJECT });
            client.post("/v1/organization/projects", &project).await?;
            develop(&self.path, &client, &url, stopped).await
        };
        let mut node = pin!(node);
        tokio::select! {
            served = node.as_mut() => return served,
            // With an error there is nothing to drain.
            developed = develop => developed?,
        }
        node.await
    }

    fn parts(&self, listener: TcpListener) -> anyhow::Result<Parts> {
        let mut config = Config::read("", |name| std::env::var(name).ok())?;
        config.guests_max = config.guests_max.min(GUESTS_MAX);
        // Its one project is the developer's own.
        config.inference.priority_for_all = true;
        Ok(Parts {
            config,
            listeners: Listeners::one(listener),
            devices: vec![CpuDevice::new(CpuDevice::threads_default())?.into()],
            data: Data::in_memory().context("making a folder for compiled code")?,
            access: Access::Open,
            new_admin_key: false,
            seed: Seed {
                models: self.models()?,
                functions: Vec::new(),
            },
        })
    }

    fn models(&self) -> anyhow::Result<Vec<ModelSource>> {
        let digits = ModelSource {
            name: "digits".to_owned(),
            onnx: Arc::from(DIGITS_ONNX),
            tokenizer: None,
            dry_runs: Vec::new(),
        };
        let mut models = vec![digits];
        for model in &self.model {
            let (name, path) = model
                .split_once('=')
                .with_context(|| format!("--model must be NAME=DIR or NAME=FILE, got {model:?}"))?;
            models.push(model_files::read(name, Path::new(path), None)?);
        }
        Ok(models)
    }
}

/// Builds, deploys and waits for a change, until the node is to stop.
async fn develop(
    folder: &Path,
    client: &Client,
    url: &str,
    mut stopped: Shutdown,
) -> anyhow::Result<()> {
    let mut log = Log::default();
    // A build may write into its project. What has changed when it is done is built once more, in case somebody wrote it;
    // what the second build changes is the build's.
    let mut again = false;
    loop {
        let before = Files::of(folder);
        // What is wrong with a project is for its developer to mend; the version that is live stays so.
        match round(folder, client).await {
            Ok((name, version)) => {
                println!("shoal: version {version} is live at {url}/f/{PROJECT}/{name}/");
                log.follow(client, &name);
            }
            Err(error) => eprintln!("shoal: {error:#}"),
        }
        let after = Files::of(folder);
        again = after != before && !again;
        let changed = async {
            while !again && Files::of(folder) == after {
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = changed => println!("shoal: building again"),
            () = log.printed() => {}
            () = stopped.draining() => return Ok(()),
        }
    }
}

/// The function's name, and the number of its version that is live now.
async fn round(folder: &Path, client: &Client) -> anyhow::Result<(String, u64)> {
    let at = folder.to_owned();
    let version = spawn_blocking(move || Version::of_project(&at)).await??;
    let function = version.deploy(client, PROJECT, None).await?;
    let number = function["live"]["version"].as_u64().unwrap_or_default();
    Ok((version.name, number))
}

/// Prints what functions write, one task for each name that there was.
#[derive(Default)]
struct Log {
    names: Vec<String>,
    printing: JoinSet<()>,
}

impl Log {
    fn follow(&mut self, client: &Client, name: &str) {
        if self.names.iter().any(|known| known == name) {
            return;
        }
        self.names.push(name.to_owned());
        let (client, name) = (client.clone(), name.to_owned());
        self.printing.spawn(async move {
            let printed = follow(&client, PROJECT, &name, |line| {
                println!("{}", for_people(line)?);
                Ok(())
            });
            if let Err(error) = printed.await {
                eprintln!("shoal: the log of {name} is no longer shown: {error:#}");
            }
        });
    }

    /// Never ends: that a log has ended says nothing of the project.
    async fn printed(&mut self) {
        while self.printing.join_next().await.is_some() {}
        std::future::pending().await
    }
}

/// The files that a project is written in, and when.
#[derive(Debug, PartialEq, Eq)]
struct Files(BTreeMap<PathBuf, (Option<SystemTime>, u64)>);

impl Files {
    fn of(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        gather(folder, &mut files);
        Self(files)
    }
}

/// What cannot be read is not there.
fn gather(folder: &Path, files: &mut BTreeMap<PathBuf, (Option<SystemTime>, u64)>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let is_made = MADE.contains(&&*name) || name.starts_with('.') || name.ends_with('~');
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if is_made {
            continue;
        }
        if metadata.is_dir() {
            gather(&path, files);
        } else if !name.ends_with(".wasm") {
            files.insert(path, (metadata.modified().ok(), metadata.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, write};

    #[test]
    fn what_is_made_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        create_dir(at("src")).unwrap();
        create_dir(at("target")).unwrap();
        write(at("src/lib.rs"), "one").unwrap();
        let before = Files::of(folder.path());
        write(at("target/made"), "x").unwrap();
        for made in ["out.wasm", "Cargo.lock", ".lib.rs.swp", "lib.rs~"] {
            write(at(made), "x").unwrap();
        }
        assert_eq!(Files::of(folder.path()), before);
        write(at("src/lib.rs"), "two, longer").unwrap();
        let changed = Files::of(folder.path());
        assert_ne!(changed, before);
        write(at("src/new.rs"), "").unwrap();
        assert_ne!(Files::of(folder.path()), changed);
    }
}
