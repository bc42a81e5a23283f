//! All that a node keeps, in one folder: `state.db` (rows), `blobs/` (components and models as they were uploaded) and `code/`
//! (compiled components, which can be made again). Or none of it, for a node whose data is thrown away.

use super::{AnyStore, Blobs, MemoryStore, SqliteStore};
use anyhow::Context as _;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What a node keeps, and where.
pub struct Data {
    pub(crate) store: AnyStore,
    pub(crate) blobs: Blobs,
    code: Code,
}

enum Code {
    Kept(PathBuf),
    /// Removed when it is dropped.
    Throwaway(TempDir),
}

impl Data {
    /// In this folder, which is made if it is not there. One node at a time has it.
    ///
    /// # Errors
    /// The folder cannot be used, another node has it, or what is in it was written by a newer version.
    pub fn on_disk(folder: &Path) -> anyhow::Result<Self> {
        let what = || format!("the data folder {}", folder.display());
        make_private(folder).with_context(what)?;
        let store = SqliteStore::open(&folder.join("state.db")).with_context(what)?;
        let blobs = Blobs::on_disk(&folder.join("blobs")).with_context(what)?;
        let code = Code::Kept(folder.join("code"));
        let store = AnyStore::Sqlite(store);
        Ok(Self { store, blobs, code })
    }

    /// Nowhere: gone with the node. Compiled code is in a temporary folder meanwhile.
    ///
    /// # Errors
    /// There is no temporary folder to be had.
    pub fn in_memory() -> std::io::Result<Self> {
        Self::with_store(MemoryStore::default())
    }

    /// Rows in this store, the rest nowhere.
    ///
    /// # Errors
    /// There is no temporary folder to be had.
    pub fn with_store(store: MemoryStore) -> std::io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("shoal-").tempdir()?;
        Ok(Self {
            store: AnyStore::Memory(store),
            blobs: Blobs::in_memory(),
            code: Code::Throwaway(folder),
        })
    }

    /// The same with compiled code in this folder, where it stays. Other nodes may use it too: nothing is removed from it.
    pub fn with_code(mut self, folder: PathBuf) -> Self {
        self.code = Code::Kept(folder);
        self
    }

    /// Whether it outlives the node.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(self.store, AnyStore::Sqlite(_))
    }

    /// Whether all that is there is this node's.
    pub(crate) fn is_own(&self) -> bool {
        self.is_kept() || matches!(self.code, Code::Throwaway(_))
    }

    /// Puts everything away. Dropping it does so too, but holds up the thread.
    pub(crate) async fn close(self) {
        match &self.store {
            AnyStore::Memory(_) => {}
            AnyStore::Sqlite(store) => store.close().await,
        }
    }

    /// Where compiled code is kept.
    pub(crate) fn code_folder(&self) -> &Path {
        match &self.code {
            Code::Kept(folder) => folder,
            Code::Throwaway(folder) => folder.path(),
        }
    }
}

/// Makes a folder that is not there, for this user alone. Its name is durable when this is done.
fn make_private(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let folder = folder.canonicalize()?;
    folder
        .parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
