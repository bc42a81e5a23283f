//! Blobs, named by their content: what a name stands for never changes, so one that is there is either right or damaged, and
//! each is looked at before it is handed out. Knows nothing of who needs them: whoever writes a row that names a blob puts the
//! blob first.

use super::digest::Digest;
use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as Location;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode};
use std::collections::HashSet;
use std::error::Error;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// Blobs by their digest. Clones are the same blobs.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Where they are, if they are files.
    dir: Option<Arc<Path>>,
}

/// Why a blob was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk is full; when there is room again, it works again.
    #[error("the disk is full")]
    Full,
    /// The bytes are not those that it is named after. Putting it again repairs it.
    #[error("blob {digest} is damaged")]
    Damaged {
        /// Its name.
        digest: Digest,
    },
    /// Anything else that the disk says.
    #[error("blobs cannot be read or written")]
    Io(#[source] io::Error),
}

impl Blobs {
    /// Files in `dir`, which is made if it is not there, for this user only; its parent must be there. Blocks.
    ///
    /// # Errors
    /// The folder cannot be made or synced.
    pub fn on_disk(dir: &Path) -> Result<Self, BlobError> {
        let dir = make_folders(dir).map_err(blob_error)?;
        let store = LocalFileSystem::new_with_prefix(&dir).map_err(blob_error)?;
        Ok(Self {
            store: Arc::new(store.with_fsync(true)),
            dir: Some(dir.into()),
        })
    }

    /// In this process's memory.
    pub fn in_memory() -> Self {
        Self {
            store: Arc::new(InMemory::new()),
            dir: None,
        }
    }

    /// Writes a blob, durably when it answers; one that is there already is looked at, and replaced if it is damaged.
    /// Dropping the future may leave the blob, or the beginning of it under another name, until [`Blobs::keep_only`].
    ///
    /// # Errors
    /// [`BlobError::Full`] or [`BlobError::Io`].
    pub async fn put(&self, bytes: Bytes) -> Result<Digest, BlobError> {
        let digest = Digest::of_blob(bytes.clone()).await.map_err(blob_error)?;
        let at = location(&digest);
        let created = self
            .store
            .put_opts(&at, bytes.clone().into(), PutMode::Create.into())
            .await;
        match created {
            Ok(_) => return Ok(digest),
            Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(blob_error(error)),
        }
        // Whatever is wrong with the one that is there, these bytes are right.
        match self.get(&digest).await {
            Ok(Some(_)) => self.sync(&digest).await?,
            Ok(None) | Err(_) => {
                let replaced = self.store.put(&at, bytes.into()).await;
                replaced.map_err(blob_error)?;
            }
        }
        Ok(digest)
    }

    /// The bytes of a blob, which are those that it is named after; `None`: not there.
    ///
    /// # Errors
    /// [`BlobError::Damaged`] or [`BlobError::Io`].
    pub async fn get(&self, digest: &Digest) -> Result<Option<Bytes>, BlobError> {
        let found = match self.store.get(&location(digest)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(blob_error(error)),
        };
        let bytes = found.bytes().await.map_err(blob_error)?;
        let actual = Digest::of_blob(bytes.clone()).await.map_err(blob_error)?;
        if actual != *digest {
            return Err(BlobError::Damaged { digest: *digest });
        }
        Ok(Some(bytes))
    }

    /// Removes every blob but these, and what writes that were cut off have left; how many files those were. Only while nothing
    /// is put: a blob that no row names yet is one that nobody wants.
    ///
    /// # Errors
    /// [`BlobError::Io`]; some may be removed by then.
    pub async fn keep_only(&self, wanted: &HashSet<Digest>) -> Result<u64, BlobError> {
        let mut removed = self.remove_staged().await?;
        for folder in folders() {
            let listed = self.store.list_with_delimiter(Some(&folder.into())).await;
            for object in listed.map_err(blob_error)?.objects {
                // A file of another name is not ours.
                let digest = object
                    .location
                    .filename()
                    .and_then(|name| name.parse().ok());
                if digest.is_some_and(|digest| !wanted.contains(&digest)) {
                    let deleted = self.store.delete(&object.location).await;
                    deleted.map_err(blob_error)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// Makes the name of a blob durable, which another call or another process wrote: it may have ended before it did so. The
    /// bytes are: they are synced before they have their name.
    async fn sync(&self, digest: &Digest) -> Result<(), BlobError> {
        let Some(dir) = &self.dir else {
            return Ok(());
        };
        let folder = dir.join(folder(digest));
        blocking(move || File::open(folder)?.sync_all()).await
    }

    /// Removes files that are written under `{digest}#{n}` until they are whole. The library never lists those.
    async fn remove_staged(&self) -> Result<u64, BlobError> {
        let Some(dir) = self.dir.clone() else {
            return Ok(0);
        };
        blocking(move || {
            let mut removed = 0;
            for folder in folders() {
                for entry in fs::read_dir(dir.join(folder))? {
                    let entry = entry?;
                    if entry.file_name().to_str().is_some_and(is_staged) {
                        fs::remove_file(entry.path())?;
                        removed += 1;
                    }
                }
            }
            Ok(removed)
        })
        .await
    }
}

/// Makes `dir` and the 256 folders in it, durably. The library makes a folder when it first needs it, but then a second write
/// into it does not wait until the folder itself is synced. The whole path of `dir`.
fn make_folders(dir: &Path) -> io::Result<std::path::PathBuf> {
    make_folder(dir)?;
    let dir = dir.canonicalize()?;
    for folder in folders() {
        make_folder(&dir.join(folder))?;
    }
    File::open(&dir)?.sync_all()?;
    if let Some(parent) = dir.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(dir)
}

fn make_folder(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// `00` to `ff`.
fn folders() -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(|first| format!("{first:02x}"))
}

fn folder(digest: &Digest) -> String {
    format!("{:02x}", digest.0[0])
}

fn location(digest: &Digest) -> Location {
    Location::from_iter([folder(digest), digest.to_string()])
}

fn is_staged(name: &str) -> bool {
    name.split_once('#')
        .is_some_and(|(digest, _)| digest.parse::<Digest>().is_ok())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BlobError> {
    let done = spawn_blocking(work).await.map_err(blob_error)?;
    done.map_err(blob_error)
}

/// The library's errors say what was done, and only their sources why it failed.
fn blob_error(error: impl Into<io::Error>) -> BlobError {
    let error = error.into();
    let first: &(dyn Error + 'static) = &error;
    let is_full = std::iter::successors(Some(first), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| {
            let kind = error.kind();
            kind == io::ErrorKind::StorageFull || kind == io::ErrorKind::QuotaExceeded
        });
    if is_full {
        return BlobError::Full;
    }
    BlobError::Io(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures_however_deep_it_says_so() {
        let generic = |kind: io::ErrorKind| object_store::Error::Generic {
            store: "LocalFileSystem",
            source: io::Error::from(kind).into(),
        };
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            assert!(matches!(blob_error(generic(kind)), BlobError::Full));
            let error = io::Error::from(kind);
            assert!(matches!(blob_error(error), BlobError::Full));
        }
        let other = generic(io::ErrorKind::PermissionDenied);
        assert!(matches!(blob_error(other), BlobError::Io(_)));
    }
}
