//! Opening the database file: header, integrity, version, connection settings.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::lock::folder_error;
use super::sql::now_ms;
use super::{DatabaseKey, OpenReport, StoreError};

/// Name of the database within the data folder.
pub const DATABASE_FILE: &str = "thumbprint.db";
/// Its name where it is encrypted. Of what is in it nothing can be told without the key, not even that it is a database.
pub const ENCRYPTED_DATABASE_FILE: &str = "thumbprint.encrypted.db";

/// The schema, one step a version: entry `i` leads from version `i` to `i + 1`.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("schema/v1.sql"),
    include_str!("schema/v2.sql"),
    include_str!("schema/v3.sql"),
];

/// Databases up to this size are checked at every opening (about 0.1 s); larger ones only after the
/// last process died, or met damage.
const ALWAYS_CHECK_BYTES: u64 = 32 << 20;

/// How safe a commit is against loss of power. Against the death of the process both are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// On disk before the call returns: `synchronous=FULL`.
    Full,
    /// On disk at the next `Full` commit or checkpoint: `synchronous=NORMAL`.
    Normal,
}

/// The one connection that writes.
#[derive(Debug)]
pub(super) struct Writer {
    pub connection: Connection,
    durability: Option<Durability>,
}

impl Writer {
    /// Sets how the next transaction is committed. It costs microseconds, and nothing if unchanged.
    pub fn set_durability(&mut self, durability: Durability) -> Result<(), StoreError> {
        if self.durability != Some(durability) {
            // Checkpoints sync the database file. They are left to the commits that nobody waits
            // for, so that a thumb waits for one sync of the log alone; without such commits the
            // log is bounded at 16 MiB.
            let (level, checkpoint_pages) = match durability {
                Durability::Full => ("FULL", 4000),
                Durability::Normal => ("NORMAL", 1000),
            };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.connection
                .pragma_update(None, "wal_autocheckpoint", checkpoint_pages)?;
            self.durability = Some(durability);
        }
        Ok(())
    }
}

/// A database of a data folder.
#[derive(Debug)]
pub(super) struct Database {
    dir: PathBuf,
    path: PathBuf,
    key: Option<DatabaseKey>,
}

impl Database {
    /// The one of `dir` that is encrypted under `key`, or the one that is not encrypted.
    pub fn of(dir: &Path, key: Option<DatabaseKey>) -> Self {
        let name = match key {
            Some(_) => ENCRYPTED_DATABASE_FILE,
            None => DATABASE_FILE,
        };
        Self {
            dir: dir.into(),
            path: dir.join(name),
            key,
        }
    }

    /// Whether what has it open under this key may go on with `key`.
    pub fn check(&self, key: Option<&DatabaseKey>) -> Result<(), StoreError> {
        let dir = || self.dir.clone();
        match (&self.key, key) {
            (Some(_), None) => Err(StoreError::KeyNeeded { dir: dir() }),
            (None, Some(_)) => Err(StoreError::NotEncrypted { dir: dir() }),
            (ours, key) if ours.as_ref() != key => Err(StoreError::WrongKey { dir: dir() }),
            _ => Ok(()),
        }
    }

    /// Refuses a folder with the other kind of database, which would look like one that is new.
    fn refuse_other_kind(&self) -> Result<(), StoreError> {
        let there = |name| self.dir.join(name).exists();
        let dir = self.dir.clone();
        match &self.key {
            None if there(ENCRYPTED_DATABASE_FILE) => Err(StoreError::KeyNeeded { dir }),
            Some(_) if !DatabaseKey::is_supported() => Err(StoreError::CannotEncrypt),
            Some(_) if there(DATABASE_FILE) => Err(StoreError::NotEncrypted { dir }),
            _ => Ok(()),
        }
    }

    fn connect(&self, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        if let Some(key) = &self.key {
            connection.pragma_update(None, "key", key.literal())?;
        }
        connection.busy_timeout(Duration::from_secs(5))?;
        Ok(connection)
    }
}

/// Opens a database, creating or migrating it. One that is damaged is moved aside.
///
/// `was_closed`: whether the last process to hold the folder closed it properly.
pub(super) fn open(
    database: &Database,
    was_closed: bool,
    migrations: &[&str],
) -> Result<(Writer, OpenReport), StoreError> {
    database.refuse_other_kind()?;
    let mut report = OpenReport::default();
    match try_open(database, was_closed, migrations, &mut report) {
        Err(StoreError::Corrupt) => {
            report = OpenReport {
                moved_aside: Some(move_aside(&database.dir, &database.path)?),
                ..OpenReport::default()
            };
            tracing::warn!("a damaged database was moved aside");
            try_open(database, true, migrations, &mut report)
        }
        opened => opened,
    }
    .map(|connection| {
        (
            Writer {
                connection,
                durability: None,
            },
            report,
        )
    })
}

/// A further connection, for reading only.
pub(super) fn open_reader(database: &Database) -> Result<Connection, StoreError> {
    Ok(database.connect(OpenFlags::SQLITE_OPEN_READ_ONLY)?)
}

/// Moves everything in the write-ahead log into the database and empties the log file.
pub(super) fn truncate_log(connection: &Connection) -> Result<(), StoreError> {
    let busy: bool =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        return Err(StoreError::Sqlite(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
            Some("the write-ahead log could not be emptied".into()),
        )));
    }
    Ok(())
}

fn try_open(
    database: &Database,
    was_closed: bool,
    migrations: &[&str],
    report: &mut OpenReport,
) -> Result<Connection, StoreError> {
    let Database { dir, path, key } = database;
    let known = migrations.len() as u32;
    let header = read_header(path).map_err(|source| folder_error(dir, source))?;
    // Before SQLite touches anything: merely opening a newer database could change its log. That of one that is encrypted cannot be
    // told before.
    if let (Some(header), None) = (&header, key) {
        if header.len() < 100 || !header.starts_with(b"SQLite format 3\0") {
            return Err(StoreError::Corrupt);
        }
        refuse_newer(
            u32::from_be_bytes([header[60], header[61], header[62], header[63]]),
            known,
        )?;
    }

    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let mut connection = database
        .connect(flags)
        .map_err(|error| read_only(dir, error.into()))?;
    connection.set_prepared_statement_cache_capacity(64);
    let found = connection.pragma_query_value(None, "user_version", |row| row.get(0));
    let found: u32 = found.map_err(|error| wrong_key(database, error.into()))?;
    refuse_newer(found, known)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .map_err(|error| read_only(dir, error.into()))?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", false)?;

    let size = fs::metadata(path).map_or(0, |file| file.len());
    if header.is_some() && (!was_closed || size <= ALWAYS_CHECK_BYTES) {
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(StoreError::Corrupt);
        }
    }
    // What was forgotten just before the process died may still be in the log.
    truncate_log(&connection)?;
    migrate(&mut connection, found, migrations).map_err(|error| read_only(dir, error))?;
    report.created = header.is_none();
    report.migrated_from = (found > 0 && found < known).then_some(found);
    Ok(connection)
}

fn migrate(connection: &mut Connection, found: u32, migrations: &[&str]) -> Result<(), StoreError> {
    for (version, migration) in migrations.iter().enumerate().skip(found as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", version as u32 + 1)?;
        transaction.commit()?;
    }
    // So that the version can be read from the file's header.
    truncate_log(connection)
}

fn refuse_newer(found: u32, known: u32) -> Result<(), StoreError> {
    if found > known {
        Err(StoreError::NewerVersion { found, known })
    } else {
        Ok(())
    }
}

/// The first 100 bytes, or `None` if there is no database yet.
fn read_header(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut header = Vec::new();
    file.take(100).read_to_end(&mut header)?;
    // SQLite takes an empty file for a new database, and so it is: created, and killed before the
    // first commit.
    Ok((!header.is_empty()).then_some(header))
}

/// The first page read under another key is no page of a database. It is not moved aside: the right key would still read it.
fn wrong_key(database: &Database, error: StoreError) -> StoreError {
    match (&database.key, error) {
        (Some(_), StoreError::Corrupt) => StoreError::WrongKey {
            dir: database.dir.clone(),
        },
        (_, error) => error,
    }
}

fn read_only(dir: &Path, error: StoreError) -> StoreError {
    match &error {
        StoreError::Sqlite(source)
            if matches!(
                source.sqlite_error_code(),
                Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::CannotOpen)
            ) =>
        {
            StoreError::ReadOnly { dir: dir.into() }
        }
        _ => error,
    }
}

/// Renames the database and its companions to `thumbprint.db.corrupt-<milliseconds>[-wal|-shm]`.
fn move_aside(dir: &Path, path: &Path) -> Result<PathBuf, StoreError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut stamp = now_ms();
    let aside = loop {
        let aside = dir.join(format!("{name}.corrupt-{stamp}"));
        if !aside.exists() {
            break aside;
        }
        stamp += 1;
    };
    // The log first: a crash in between must not leave a log beside a new database.
    for suffix in ["-wal", "-shm", ""] {
        let with_suffix = |path: &Path| {
            let mut path = path.as_os_str().to_owned();
            path.push(suffix);
            PathBuf::from(path)
        };
        let (from, to) = (with_suffix(path), with_suffix(&aside));
        if from.exists() {
            fs::rename(&from, &to).map_err(|source| folder_error(dir, source))?;
        }
    }
    Ok(aside)
}
