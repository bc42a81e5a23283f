//! `shoal build`: the component of a function project.

use super::manifest::{Manifest, Recipe};
use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TARGET: &str = "wasm32-wasip2";

/// Builds a function project's component.
#[derive(Debug, clap::Args)]
pub(super) struct Build {
    /// The project's folder
    #[arg(default_value = ".")]
    path: PathBuf,
}

impl Build {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let manifest = Manifest::read(&self.path)?;
        let component = build(&self.path, &manifest)?;
        println!("{}", component.display());
        Ok(())
    }
}

/// Builds a project's component: where it is. What its tools have to say goes to stderr as it is.
///
/// # Errors
/// A tool is missing, with how to get it; or it fails.
pub(super) fn build(folder: &Path, manifest: &Manifest) -> anyhow::Result<PathBuf> {
    let component = match &manifest.recipe {
        Recipe::Cargo => cargo(folder)?,
        Recipe::Command {
            command,
            folder: within,
            component,
        } => {
            if let Some(command) = command {
                shell(command, &folder.join(within))?;
            }
            folder.join(component)
        }
    };
    ensure!(
        component.is_file(),
        "the build left no {}",
        component.display()
    );
    Ok(component)
}

fn shell(command: &str, folder: &Path) -> anyhow::Result<()> {
    let status = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .status()
        .with_context(|| format!("running {command:?} in {}", folder.display()))?;
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(())
}

/// What cargo says of a file that it made.
#[derive(Deserialize)]
struct Artifact {
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

fn cargo(folder: &Path) -> anyhow::Result<PathBuf> {
    ensure_target()?;
    let mut cargo = Command::new("cargo")
        .args(["build", "--release", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics"])
        .envs(linker())
        .current_dir(folder)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo (is Rust installed?)")?;
    let stdout = cargo.stdout.take().context("cargo has no stdout")?;
    let mut component = None;
    for line in BufReader::new(stdout).lines() {
        // Other messages have other fields.
        let Ok(artifact) = serde_json::from_str::<Artifact>(&line?) else {
            continue;
        };
        let made = artifact.filenames.into_iter();
        let mut made = made.filter(|file| file.extension().is_some_and(|end| end == "wasm"));
        // The package itself comes last.
        component = made.next().or(component);
    }
    let status = cargo.wait()?;
    ensure!(status.success(), "cargo build failed ({status})");
    component.context("cargo made no component: is crate-type = [\"cdylib\"] in Cargo.toml?")
}

/// The compiler that cargo will start.
fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

fn ensure_target() -> anyhow::Result<()> {
    let printed = rustc()
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .context("starting rustc (is Rust installed? https://rustup.rs)")?;
    let libraries = String::from_utf8_lossy(&printed.stdout);
    if !printed.status.success() || !Path::new(libraries.trim()).is_dir() {
        bail!("rustc cannot build for {TARGET} yet; run: rustup target add {TARGET}");
    }
    Ok(())
}

/// The linker for components takes `wasm-ld` from PATH, and an old one there fails with `undefined symbol: __heap_end`: the
/// pair that came with Rust goes first. It is rustc's own, also where another compiler is chosen.
fn linker() -> Vec<(&'static str, OsString)> {
    let print = |what: &str| {
        let printed = Command::new("rustc")
            .args(["--print", what])
            .output()
            .ok()?;
        Some(String::from_utf8(printed.stdout).ok()?.trim().to_owned())
    };
    let (Some(sysroot), Some(host)) = (print("sysroot"), print("host-tuple")) else {
        return Vec::new();
    };
    let tools = Path::new(&sysroot)
        .join("lib/rustlib")
        .join(host)
        .join("bin");
    let linker = tools.join("wasm-component-ld");
    if !linker.is_file() {
        return Vec::new();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = [tools.join("gcc-ld"), tools];
    let path = std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path)));
    let mut variables = vec![("CARGO_TARGET_WASM32_WASIP2_LINKER", linker.into_os_string())];
    variables.extend(path.ok().map(|path| ("PATH", path)));
    variables
}
