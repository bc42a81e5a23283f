//! Which node and as whom, written down by `shoal login` for later commands: `shoal/profile.json` in the user's
//! configuration, for that user's eyes only.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Profile {
    pub(super) admin_url: String,
    /// Asked for there and nowhere else.
    pub(super) key: String,
}

impl Profile {
    /// The one that was written, if one was and it can be read.
    pub(super) fn read() -> Option<Self> {
        let text = std::fs::read(path()?).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Replaces what was there; where it is now.
    ///
    /// # Errors
    /// There is no home, or it cannot be written to.
    pub(super) fn write(&self) -> anyhow::Result<PathBuf> {
        let path = path().context("neither XDG_CONFIG_HOME nor HOME is set")?;
        let what = || format!("writing {}", path.display());
        let folder = path.parent().with_context(what)?;
        let mut folders = DirBuilder::new();
        folders.recursive(true).mode(0o700);
        folders.create(folder).with_context(what)?;
        // Another user's eyes must not fall on the key for a moment: a new file, put in the place of the old one.
        let new = path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .with_context(what)?;
        file.write_all(&serde_json::to_vec(self)?)
            .with_context(what)?;
        std::fs::rename(&new, &path).with_context(what)?;
        Ok(path)
    }
}

fn path() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let configuration = folder("XDG_CONFIG_HOME").map(PathBuf::from);
    let of_home = || Some(PathBuf::from(folder("HOME")?).join(".config"));
    let configuration = configuration.or_else(of_home)?;
    Some(configuration.join("shoal/profile.json"))
}
