//! Compiled code on disk: a component is compiled once, and its code is taken from here whenever it is needed.
//!
//! Owns one directory and the format of its files; knows neither wasm nor functions. An entry is found by tenant, component
//! and engine, and is used only where every byte of it is what [`CodeCache::seal`] left: who damages an entry, or puts one
//! tenant's in the place of another's, makes it be compiled again.

use super::messages::ComponentId;
use anyhow::{Context as _, ensure};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::rand::{GetRandomFlags, getrandom};
use shoal_inference::TenantId;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::hash::{Hash as _, Hasher};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tempfile::TempDir;
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

/// The file with the key of the entries' MACs.
const KEY_FILE: &str = "mac-key";
/// How the names of entries end.
const ENTRY_SUFFIX: &str = ".code";
/// How the names of what is still being written end.
const UNFINISHED_SUFFIX: &str = ".part";
/// Bytes of a MAC, which is the end of each entry.
const MAC_BYTES: usize = blake3::OUT_LEN;
/// What is read at once of an entry.
const CHUNK_BYTES: usize = 64 << 10;

/// Whose code, and of which component.
pub type CodeKey = (TenantId, ComponentId);

/// One directory of compiled code.
///
/// Nothing here is ever synced: an entry that a power cut tore, or whose name outlived its bytes, fails its MAC.
pub struct CodeCache {
    directory: PathBuf,
    mac_key: [u8; blake3::KEY_LEN],
    engine: blake3::Hash,
    damaged: AtomicU64,
}

/// What was found for a component.
#[derive(Debug)]
pub enum Loaded {
    /// No entry.
    Missing,
    /// An entry that is not what was sealed. It is removed now.
    Damaged,
    /// The code.
    Code(Code),
}

/// Code that can be linked.
pub(super) enum Mapped {
    Component(Component),
    /// A core module.
    Module(Module),
}

/// Code that passed its check, in memory of its own that nobody can write to any more.
#[derive(Debug)]
pub struct Code(File);

impl CodeCache {
    /// Opens a directory, which is made if it is not there.
    ///
    /// # Errors
    /// If the directory is another user's or others can write to it: they could have put there what this process then trusts.
    pub fn open(directory: &Path, engine: &Engine) -> anyhow::Result<Self> {
        own(directory)
            .with_context(|| format!("opening the code cache {}", directory.display()))?;
        Ok(Self {
            directory: directory.to_owned(),
            mac_key: mac_key(directory).context("reading the key of the code cache")?,
            engine: engine_hash(engine),
            damaged: AtomicU64::new(0),
        })
    }

    /// Reads the entry of a component and checks it. Takes about a millisecond for each MiB: not for a socket's thread.
    ///
    /// The check and the code cannot part: the bytes are copied once, out of the reach of whoever can write to the
    /// directory or the disk, and the copy is what is checked and mapped. To map the file itself would save that memory, but
    /// pages read again from the disk later would run unchecked.
    ///
    /// # Errors
    /// If this process is out of memory or files, or may not read its own directory.
    pub fn load(&self, key: CodeKey) -> anyhow::Result<Loaded> {
        let path = self.entry(key);
        let entry = match File::open(&path) {
            Ok(entry) => entry,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Loaded::Missing),
            Err(error) => return Err(error).context("opening compiled code"),
        };
        if let Some(code) = self.checked(key, entry)? {
            return Ok(Loaded::Code(code));
        }
        self.damaged.fetch_add(1, Relaxed);
        tracing::warn!(entry = %path.display(), "compiled code was damaged: it is compiled again");
        self.remove(key)?;
        Ok(Loaded::Damaged)
    }

    /// Makes an entry of what the compiler wrote to `compiled`, which must be in a [`CodeCache::room`].
    ///
    /// # Errors
    /// If it cannot be read, or the disk is full.
    pub fn seal(&self, key: CodeKey, compiled: &Path) -> anyhow::Result<()> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(compiled)
            .context("opening what the compiler wrote")?;
        let length = file.metadata()?.len();
        let mut mac = self.mac(key, length);
        io::copy(&mut file, &mut mac).context("reading what the compiler wrote")?;
        file.write_all(mac.finalize().as_bytes())
            .context("sealing compiled code")?;
        fs::rename(compiled, self.entry(key)).context("storing compiled code")
    }

    /// A private directory for the compiler, gone when it is dropped.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn room(&self) -> anyhow::Result<TempDir> {
        tempfile::Builder::new()
            .suffix(UNFINISHED_SUFFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&self.directory)
            .context("making a directory for the compiler")
    }

    /// Removes an entry, if there is one.
    ///
    /// # Errors
    /// If it is there and stays.
    pub fn remove(&self, key: CodeKey) -> anyhow::Result<()> {
        match fs::remove_file(self.entry(key)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).context("removing compiled code")
            }
            _ => Ok(()),
        }
    }

    /// Removes the entries that `keeps` does not keep when their turn comes, and all of other engines.
    ///
    /// # Errors
    /// If the directory cannot be read, or a file stays.
    pub fn keep_only(&self, keeps: impl Fn(CodeKey) -> bool) -> anyhow::Result<()> {
        self.remove_files(|name| {
            name.ends_with(ENTRY_SUFFIX) && !self.key(name).is_some_and(&keeps)
        })
    }

    /// Removes whatever an earlier process left unfinished. For the start of a node: it would take the ground from under a
    /// compiler that runs.
    ///
    /// # Errors
    /// If the directory cannot be read, or a file stays.
    pub fn remove_unfinished(&self) -> anyhow::Result<()> {
        self.remove_files(|name| name.ends_with(UNFINISHED_SUFFIX))
    }

    fn remove_files(&self, is_to_go: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        for file in fs::read_dir(&self.directory).context("reading the code cache")? {
            let file = file.context("reading the code cache")?;
            let name = file.file_name().to_string_lossy().into_owned();
            if !is_to_go(&name) {
                continue;
            }
            let removed = if file.file_type()?.is_dir() {
                fs::remove_dir_all(file.path())
            } else {
                fs::remove_file(file.path())
            };
            removed.with_context(|| format!("removing {name} from the code cache"))?;
        }
        Ok(())
    }

    /// Where the entry of a component is, or would be.
    pub fn entry(&self, key: CodeKey) -> PathBuf {
        self.directory.join(self.name(key))
    }

    /// Entries so far that were not what was sealed.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Relaxed)
    }

    fn name(&self, (tenant, component): CodeKey) -> String {
        let component = blake3::Hash::from_bytes(component.0);
        let engine = self.engine;
        format!("{:016x}-{component}-{engine}{ENTRY_SUFFIX}", tenant.0)
    }

    /// Of an entry of this engine.
    fn key(&self, name: &str) -> Option<CodeKey> {
        let mut parts = name.strip_suffix(ENTRY_SUFFIX)?.split('-');
        let tenant = u64::from_str_radix(parts.next()?, 16).ok()?;
        let component = blake3::Hash::from_hex(parts.next()?).ok()?;
        let key = (TenantId(tenant), ComponentId(*component.as_bytes()));
        (self.name(key) == name).then_some(key)
    }

    /// The MAC of an entry, before its code. All before the code has a fixed length, so that no two entries start alike.
    fn mac(&self, (tenant, component): CodeKey, length: u64) -> blake3::Hasher {
        let mut mac = blake3::Hasher::new_keyed(&self.mac_key);
        mac.update(&tenant.0.to_le_bytes());
        mac.update(&component.0);
        mac.update(self.engine.as_bytes());
        mac.update(&length.to_le_bytes());
        mac
    }

    /// The code of an entry; `None` where the MAC says otherwise, or the disk cannot give it back.
    fn checked(&self, key: CodeKey, mut entry: File) -> anyhow::Result<Option<Code>> {
        let length = entry.metadata().context("opening compiled code")?.len();
        let Some(length) = length.checked_sub(MAC_BYTES as u64) else {
            return Ok(None);
        };
        let mut mac = self.mac(key, length);
        let mut code = memory_file(key).context("making memory for compiled code")?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut left = length;
        while left > 0 {
            let chunk = left.min(CHUNK_BYTES as u64);
            let chunk = &mut buffer[..chunk as usize];
            if entry.read_exact(chunk).is_err() {
                return Ok(None);
            }
            mac.update(chunk);
            code.write_all(chunk).context("copying compiled code")?;
            left -= chunk.len() as u64;
        }
        let mut written = [0; MAC_BYTES];
        if entry.read_exact(&mut written).is_err() || mac.finalize() != written {
            return Ok(None);
        }
        let seals = SealFlags::SEAL | SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        fcntl_add_seals(&code, seals).context("sealing memory for compiled code")?;
        Ok(Some(Code(code)))
    }
}

impl Code {
    /// Maps the code.
    ///
    /// # Errors
    /// If it is more than the engine's pool can hold.
    #[allow(unsafe_code)]
    pub(super) fn map(&self, engine: &Engine) -> wasmtime::Result<Mapped> {
        // Opened by wasmtime a second time, since it takes a path; a descriptor always leads to the same memory.
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        // SAFETY: wasmtime trusts these bytes, and that they never change. They are what our own compiler's process wrote for
        // this engine: a MAC over all of them says so, with a key that only this user can read (what runs as this user could
        // as well replace this binary). The check was of this very memory, which the kernel has sealed since: no process can
        // write to it. Safe code would have to compile in this process.
        unsafe {
            match Engine::detect_precompiled_file(&path)? {
                Some(Precompiled::Module) => {
                    Module::deserialize_file(engine, path).map(Mapped::Module)
                }
                _ => Component::deserialize_file(engine, path).map(Mapped::Component),
            }
        }
    }
}

/// Makes the directory, or checks that it is ours alone.
fn own(directory: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let found = fs::metadata(directory)?;
    let (owner, user) = (found.uid(), rustix::process::geteuid().as_raw());
    ensure!(
        owner == user,
        "it must belong to user {user}, who runs this node, and belongs to user {owner}"
    );
    let mode = found.mode() & 0o7777;
    ensure!(
        mode & 0o022 == 0,
        "nobody but its owner may write to it (mode 0700), and its mode is {mode:04o}"
    );
    if mode != 0o700 {
        // What tenants deploy is nobody else's to read.
        fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Reads the key, or makes one where there is none that could be used: then no entry passes its check any more.
fn mac_key(directory: &Path) -> anyhow::Result<[u8; blake3::KEY_LEN]> {
    let path = directory.join(KEY_FILE);
    match fs::read(&path) {
        Ok(found) => match found.try_into() {
            Ok(key) => return Ok(key),
            Err(_) => {
                tracing::warn!("the key of the code cache was damaged: all is compiled again")
            }
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let mut key = [0; blake3::KEY_LEN];
    // So few bytes come at once, whatever interrupts.
    getrandom(&mut key, GetRandomFlags::empty())?;
    // Of mode 0600, and in its place only when it is whole.
    let mut file = tempfile::Builder::new()
        .suffix(UNFINISHED_SUFFIX)
        .tempfile_in(directory)?;
    file.write_all(&key)?;
    file.persist(path)?;
    Ok(key)
}

/// Stands for everything that compiled code depends on beside the component: wasmtime's version, the processor, the tunables.
fn engine_hash(engine: &Engine) -> blake3::Hash {
    /// Feeds blake3 with what the standard library would hash to 64 bits.
    struct Feed(blake3::Hasher);

    impl Hasher for Feed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            let [a, b, c, d, e, f, g, h, ..] = *self.0.finalize().as_bytes();
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        }
    }

    let mut feed = Feed(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut feed);
    feed.0.finalize()
}

/// Memory that can be mapped as a file is, and sealed. Its name shows in the process's maps.
fn memory_file((_, component): CodeKey) -> io::Result<File> {
    let component = blake3::Hash::from_bytes(component.0).to_hex();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create(format!("shoal-code-{}", &component[..16]), flags)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: CodeKey = (TenantId(1), ComponentId([2; 32]));

    #[test]
    fn entries_of_another_engine_are_not_found() {
        let engine = |epochs| {
            let mut config = wasmtime::Config::new();
            Engine::new(config.epoch_interruption(epochs)).unwrap()
        };
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("code");
        let open = |epochs| CodeCache::open(&place, &engine(epochs)).unwrap();
        let cache = open(true);
        let room = cache.room().unwrap();
        let compiled = room.path().join("code");
        fs::write(&compiled, b"code").unwrap();
        cache.seal(KEY, &compiled).unwrap();
        assert!(matches!(open(true).load(KEY).unwrap(), Loaded::Code(_)));
        let other = open(false);
        assert!(matches!(other.load(KEY).unwrap(), Loaded::Missing));
        fs::copy(cache.entry(KEY), other.entry(KEY)).unwrap();
        assert!(matches!(other.load(KEY).unwrap(), Loaded::Damaged));
    }

    #[test]
    fn code_that_was_checked_cannot_be_changed_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(&directory.path().join("code"), &Engine::default()).unwrap();
        let room = cache.room().unwrap();
        let compiled = room.path().join("code");
        fs::write(&compiled, b"code").unwrap();
        cache.seal(KEY, &compiled).unwrap();
        let Loaded::Code(mut code) = cache.load(KEY).unwrap() else {
            panic!("it was sealed");
        };
        fs::write(cache.entry(KEY), b"other").unwrap();
        assert!(code.0.write_all(b"x").is_err());
        assert!(code.0.set_len(0).is_err());
        let path = format!("/proc/self/fd/{}", code.0.as_raw_fd());
        assert_eq!(fs::read(path).unwrap(), b"code");
    }
}
