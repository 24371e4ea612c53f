//! Opening the file: whose it is, in which format, and that no one else has it.

use std::{
    fs::{File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::schema;

/// The store holds hashed tokens, roles and later secrets: nobody but its owner reads it.
const MODE: u32 = 0o600;

/// Only a foreign tool, such as one that takes a backup, can hold the database locked.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is not a Shoal store: name another file, or restore it from a backup")]
    NotAStore { path: PathBuf },
    #[error(
        "{path} is the database of another program (application id {application_id:#x}): name another file"
    )]
    Foreign { path: PathBuf, application_id: i32 },
    #[error(
        "the store {path} has format {found}, and this controller knows format {known}: run the controller version that wrote it, or a later one"
    )]
    Format { path: PathBuf, found: i32, known: i32 },
    #[error(
        "the store {path} is in use by {holder}: stop that controller (systemctl stop shoal-controller), only one can run on it"
    )]
    InUse { path: PathBuf, holder: String },
    #[error(
        "others than its owner can open the store {path}: chmod 600 it, and its -wal and -shm files"
    )]
    Exposed { path: PathBuf },
    #[error("the file system of {path} keeps no write-ahead log: put the store on a local disk")]
    FileSystem { path: PathBuf },
    #[error("cannot {action} {path}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("cannot {action} the store {path}: check its disk, or restore it from a backup")]
    Sqlite { path: PathBuf, action: &'static str, source: rusqlite::Error },
}

/// Held as long as the store is open; the kernel frees it with the process.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// The file's lock, and the connection that writes.
pub(super) fn open(path: &Path, max_pages: Option<u32>) -> Result<(Lock, Connection), OpenError> {
    let lock = lock(path)?;
    make(path)?;
    let failed = |action| move |source| OpenError::Sqlite { path: path.into(), action, source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed("open"))?;
    connection.busy_timeout(BUSY).map_err(failed("open"))?;
    let is_new = identify(&connection, path)?;
    // From here on the file is ours to change.
    let mode = settle(&connection, max_pages).map_err(failed("set up"))?;
    if mode != "wal" {
        return Err(OpenError::FileSystem { path: path.into() });
    }
    if is_new {
        schema::create(&connection).map_err(failed("create"))?;
    }
    Ok((lock, connection))
}

/// A file of its own carries the lock: SQLite's locks on the database come and go, and closing
/// any other handle of the database would drop them.
fn lock(path: &Path) -> Result<Lock, OpenError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let failed = |action| failed(&lock_path, action);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .open(&lock_path)
        .map_err(failed("open the lock file"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::InUse { path: path.into(), holder: holder(&mut file) });
        }
        Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed("write the lock file"))?;
    Ok(Lock { _file: file })
}

/// The process that wrote itself into the lock file; only for people to read.
fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.take(32).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!("process {}", text.trim()),
        _ => "another process".into(),
    }
}

/// Makes the file where it is not there, for its owner alone. SQLite gives its side files the
/// same mode.
fn make(path: &Path) -> Result<(), OpenError> {
    let failed = |action| failed(path, action);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .open(path)
        .map_err(failed("open the store"))?;
    let metadata = file.metadata().map_err(failed("look at"))?;
    if !metadata.is_file() {
        return Err(OpenError::NotAStore { path: path.into() });
    }
    if metadata.len() == 0 {
        // The name of the file has to outlive a power cut as well.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|parent| parent.sync_all())
            .map_err(failed("make durable the folder of"))?;
        file.set_permissions(Permissions::from_mode(MODE)).map_err(failed("protect"))?;
    } else if metadata.permissions().mode() & 0o077 != 0 {
        return Err(OpenError::Exposed { path: path.into() });
    }
    Ok(())
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.into();
    move |source| OpenError::Io { path, action, source }
}

/// Whether the file is empty; an error if it is another's, found out without changing it.
fn identify(connection: &Connection, path: &Path) -> Result<bool, OpenError> {
    let (application_id, format, is_empty) = schema::identity(connection).map_err(|source| {
        let path = path.into();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => OpenError::NotAStore { path },
            _ => OpenError::Sqlite { path, action: "read", source },
        }
    })?;
    match (application_id, format) {
        (schema::APPLICATION_ID, schema::FORMAT) => Ok(false),
        (schema::APPLICATION_ID, found) => {
            Err(OpenError::Format { path: path.into(), found, known: schema::FORMAT })
        }
        (0, 0) if is_empty => Ok(true),
        (0, _) => Err(OpenError::NotAStore { path: path.into() }),
        _ => Err(OpenError::Foreign { path: path.into(), application_id }),
    }
}

/// Sets up the connection; the journal mode that SQLite could have.
fn settle(connection: &Connection, max_pages: Option<u32>) -> rusqlite::Result<String> {
    let mode = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    // Without FULL a commit in WAL mode can be lost in a power cut.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    // What a burst made of the log is given back to the disk.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    if let Some(pages) = max_pages {
        connection.pragma_update(None, "max_page_count", pages)?;
    }
    Ok(mode)
}
