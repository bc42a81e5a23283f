//! What is asked of a file before it is used: that it is ours, whole, of a version we know, and nobody else's.

use super::rows::SCHEMA;
use anyhow::{Context as _, ensure};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::File;
use std::io;
use std::path::Path;

/// "Shoa": says whose file it is. An empty file, which SQLite would take for a new store, does not have it.
const APPLICATION: i32 = 0x5368_6f61;
/// The version of the tables.
const VERSION: i32 = 1;

/// Opens the store at `path`, or makes an empty one.
pub(super) fn open(path: &Path) -> anyhow::Result<Connection> {
    if !path.try_exists()? {
        create(path).with_context(|| format!("creating the store {}", path.display()))?;
    }
    let connection = connect(path).with_context(|| format!("opening {}", path.display()))?;
    take(&connection).map_err(|error| match error.downcast_ref() {
        Some(error) if is_busy(error) => {
            anyhow::anyhow!("the store {} is open in another process", path.display())
        }
        _ => error.context(format!("opening the store {}", path.display())),
    })?;
    Ok(connection)
}

/// Makes an empty store under another name first, so that one that is there is whole. It is for its owner only, and so are the
/// files that SQLite puts beside it.
fn create(path: &Path) -> anyhow::Result<()> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    // SQLite would write it into the new file, whose log it is not.
    ensure!(
        !Path::new(&log).try_exists()?,
        "it is missing, and its log is there: {}",
        Path::new(&log).display()
    );
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    // A path and no open file: closing one would take SQLite's locks with it, which belong to the process.
    let new = tempfile::NamedTempFile::new_in(parent)?.into_temp_path();
    let connection = connect(&new)?;
    connection.execute_batch(SCHEMA)?;
    connection.pragma_update(None, "user_version", VERSION)?;
    connection.pragma_update(None, "application_id", APPLICATION)?;
    connection.close().map_err(|(_, error)| error)?;
    match new.persist_noclobber(path) {
        Ok(()) => {}
        // Somebody else was faster: theirs is as good.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.error.into()),
    }
    File::open(parent)?.sync_all()?;
    Ok(())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // No mutex: one thread at a time has it. Nothing is created here.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // Whoever else has the file has it for as long as they run.
    connection.busy_timeout(std::time::Duration::ZERO)?;
    Ok(connection)
}

/// Locks the file and looks whether it can be used.
fn take(connection: &Connection) -> anyhow::Result<()> {
    // Before the first read, which takes the lock then, and makes SQLite keep the index of its log in memory.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    let application: i32 = number(connection, "application_id")?;
    ensure!(
        application == APPLICATION,
        "the file is no store of Shoal's"
    );
    let version = number(connection, "user_version")?;
    ensure!(
        version == VERSION,
        "its tables have version {version}, and this program knows version {VERSION} only"
    );
    let found: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    ensure!(found == "ok", "it is damaged: {found}");
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    ensure!(mode == "wal", "its log cannot be written ahead: {mode}");
    // Each commit is synced, not only each checkpoint. A checkpoint that fails loses nothing: the log stays, and the next
    // commit tries again.
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(())
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, pragma, |row| row.get(0))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}
