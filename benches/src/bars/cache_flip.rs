//! `cache-flip`: compiled code that is damaged is never loaded. 10,000 times one byte of a compiled file, chosen and changed as
//! the seed says, becomes another one: the cache refuses the file each time. With the byte put back it loads the same file.
//!
//! The files are what a node's compiler makes of three samples and what its cache seals, and the cache is the node's own
//! (`shoal::sandbox::CodeCache`), in this process.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::random::draw;
use anyhow::Context as _;
use bytes::Bytes;
use shoal::Config;
use shoal::sandbox::{CodeCache, CodeKey, Components, Loaded, Sandbox};
use shoal_inference::TenantId;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const SAMPLES: [&[u8]; 3] = [
    include_bytes!("../../../samples/components/hello.wasm"),
    include_bytes!("../../../samples/components/echo.wasm"),
    include_bytes!("../../../samples/components/digits.wasm"),
];
const TENANT: TenantId = TenantId(1);

/// A compiled file. The cache removes it where it is damaged, so it has a second name under which it stays.
struct Entry {
    key: CodeKey,
    path: PathBuf,
    kept: PathBuf,
    file: File,
    bytes: u64,
}

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let flips: u64 = if run.quick { 1_000 } else { 10_000 };
    let folder = tempfile::tempdir()?;
    let (components, entries) = compile(&folder).await?;
    let cache = components.cache();
    let (mut loaded, mut refused) = (0, 0);
    for flip in 0..flips {
        let mut draws = (0..3).map(|at| draw(run.seed, 3 * flip + at));
        let mut below = |end: u64| draws.next().map_or(0, |drawn| drawn % end);
        let entry = &entries[below(entries.len() as u64) as usize];
        let at = below(entry.bytes);
        // Any of the 255 other values.
        let change = 1 + below(255) as u8;
        entry.change(at, change)?;
        loaded += u64::from(is_loaded(cache, entry)?);
        entry.change(at, change)?;
        entry.put_back()?;
        refused += u64::from(!is_loaded(cache, entry)?);
    }
    let sizes: Vec<u64> = entries.iter().map(|entry| entry.bytes).collect();
    eprintln!("cache-flip: files of {sizes:?} bytes");
    let none = |value: u64, unit| Figure {
        value: value as f64,
        unit,
        target: Target::Exactly(0.0),
    };
    Ok(Outcome::Measured {
        figures: vec![
            none(loaded, "damaged_files_loaded"),
            none(refused, "whole_files_refused"),
            // The cache's own count, which operators see.
            Figure {
                value: cache.damaged() as f64,
                unit: "damaged_files_counted",
                target: Target::Exactly(flips as f64),
            },
        ],
        n: flips,
    })
}

/// Compiles the samples into a cache in `folder`, as a deploy does.
async fn compile(folder: &TempDir) -> anyhow::Result<(Components, Vec<Entry>)> {
    let config = Config {
        // Beside other work on the machine a compiler takes longer than a node lets it.
        compile_timeout: Duration::from_secs(120),
        compile_cpu_max: Duration::from_secs(60),
        ..Config::default()
    };
    let sandbox = Arc::new(Sandbox::new(&config)?);
    let cache = CodeCache::open(&folder.path().join("code"), sandbox.engine())?;
    let components = Components::new(sandbox, &config, cache);
    let mut entries = Vec::new();
    for (n, wasm) in SAMPLES.iter().enumerate() {
        let component = components.prepare(TENANT, Bytes::from_static(wasm)).await?;
        let key = (TENANT, component);
        let kept = folder.path().join(n.to_string());
        entries.push(Entry::of(key, components.cache().entry(key), kept)?);
    }
    Ok((components, entries))
}

fn is_loaded(cache: &CodeCache, entry: &Entry) -> anyhow::Result<bool> {
    match cache.load(entry.key)? {
        Loaded::Code(_) => Ok(true),
        Loaded::Damaged => Ok(false),
        Loaded::Missing => anyhow::bail!("there is no file to be refused"),
    }
}

impl Entry {
    fn of(key: CodeKey, path: PathBuf, kept: PathBuf) -> anyhow::Result<Self> {
        std::fs::hard_link(&path, &kept).context("giving a compiled file a second name")?;
        let file = OpenOptions::new().read(true).write(true).open(&kept)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            key,
            path,
            kept,
            file,
            bytes,
        })
    }

    /// Changes the byte at `at`; a second time, it changes it back.
    fn change(&self, at: u64, change: u8) -> std::io::Result<()> {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, at)?;
        self.file.write_all_at(&[byte[0] ^ change], at)
    }

    /// Puts it where the cache looks for it, unless it is there still.
    fn put_back(&self) -> std::io::Result<()> {
        match std::fs::hard_link(&self.kept, &self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    }
}
