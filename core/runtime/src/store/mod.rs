//! The store: what was said, what was thought of it, and what was made of that. SQLite in one
//! folder.
//!
//! It owns the data folder's lock and database, and knows nothing of models, training or chat
//! templates. It is the only state that cannot be rebuilt.
//!
//! **Durability.** The database runs in WAL mode with one writing connection. Before each
//! transaction the writer sets `PRAGMA synchronous`: `FULL` for what a person said or decided
//! (turns, feedback, votes, activations, forgetting), so that it is on disk when the call returns;
//! `NORMAL` for what can be made again (replies, cached log-probabilities, runs). Both kinds share
//! one log, in order: a thumb that is on disk implies its reply is. When the process dies, neither
//! kind is lost; when the power fails, the last replies that nobody has judged may be.
//!
//! **One folder, one process, one instance.** Opening a folder again in the same process gives the
//! same instance; another process gets [`StoreError::InUse`].

mod adapters;
pub mod bench;
mod cache;
mod conversations;
mod database;
mod decisions;
mod error;
mod feedback;
mod forget;
mod heads;
mod key;
mod lock;
mod matches;
mod replies;
mod runs;
mod sql;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use rusqlite::{Connection, TransactionBehavior};

pub use crate::gate::AdapterState;
pub use adapters::{Activation, AdapterRow, NewAdapter};
pub use conversations::{Conversation, StoredMessage};
pub use database::{DATABASE_FILE, ENCRYPTED_DATABASE_FILE};
pub use decisions::{Decision, NewDecision, NewVote, Outcome, Vote};
pub use error::StoreError;
pub use feedback::Recorded;
pub use forget::{Forgotten, Target};
pub use key::DatabaseKey;
pub use lock::LOCK_FILE;
pub use matches::{MatchRow, NewMatch};
pub use replies::{Generation, NewReply, Prompt, StoredReply};
pub use runs::{NewRun, Run, RunProgress, RunState, RunStep};

use database::{Database, Durability, Writer};
use lock::FolderLock;

type Result<T> = std::result::Result<T, StoreError>;

/// The store of one data folder. Clones share it; all methods take `&self` and may be called from
/// any thread.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What opening a folder found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// There was no database; an empty one was created.
    pub created: bool,
    /// The folder was open in this process already; this is the same instance.
    pub already_open: bool,
    /// The database was brought here from this older version.
    pub migrated_from: Option<u32>,
    /// The database was damaged. It lies here now, untouched, and an empty one took its place.
    pub moved_aside: Option<PathBuf>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    database: Database,
    /// `None` while suspended. Reading it allows use; writing it excludes every user of a
    /// connection.
    open: RwLock<Option<Open>>,
    /// Damage was met: the next opening must check the whole database.
    suspect: AtomicBool,
}

#[derive(Debug)]
struct Open {
    lock: FolderLock,
    writer: Mutex<Writer>,
    /// Idle connections for reading.
    readers: Mutex<Vec<Connection>>,
}

/// Every folder open in this process, and a signal for when one has closed.
static FOLDERS: LazyLock<Mutex<HashMap<PathBuf, Weak<Inner>>>> = LazyLock::new(Mutex::default);
static FOLDER_CLOSED: Condvar = Condvar::new();

impl Store {
    /// Opens the store in `dir`, creating folder and database if need be.
    pub fn open(dir: impl AsRef<Path>) -> Result<(Self, OpenReport)> {
        Self::open_under(dir, None)
    }

    /// The same under a key. Once there is a database, it opens under its key alone, or, without one, under none.
    pub fn open_under(
        dir: impl AsRef<Path>,
        key: Option<DatabaseKey>,
    ) -> Result<(Self, OpenReport)> {
        Self::open_with(dir.as_ref(), key, database::MIGRATIONS)
    }

    fn open_with(
        dir: &Path,
        key: Option<DatabaseKey>,
        migrations: &[&str],
    ) -> Result<(Self, OpenReport)> {
        std::fs::create_dir_all(dir).map_err(|source| lock::folder_error(dir, source))?;
        let dir = dir
            .canonicalize()
            .map_err(|source| lock::folder_error(dir, source))?;

        let mut folders = held(&FOLDERS);
        while let Some(inner) = folders.get(&dir) {
            if let Some(inner) = inner.upgrade() {
                inner.database.check(key.as_ref())?;
                return Ok((
                    Self { inner },
                    OpenReport {
                        already_open: true,
                        ..OpenReport::default()
                    },
                ));
            }
            // The last clone is being dropped on another thread.
            folders = FOLDER_CLOSED
                .wait(folders)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let database = Database::of(&dir, key);
        let (open, report) = Open::new(&dir, &database, migrations)?;
        let inner = Arc::new(Inner {
            dir: dir.clone(),
            database,
            open: RwLock::new(Some(open)),
            suspect: AtomicBool::new(false),
        });
        folders.insert(dir, Arc::downgrade(&inner));
        Ok((Self { inner }, report))
    }

    /// The data folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Waits for calls under way, then closes every connection and releases every lock. The next
    /// call of any method opens the folder again, and fails with [`StoreError::InUse`] if another
    /// process has taken it.
    pub fn suspend(&self) -> Result<()> {
        self.inner.close();
        Ok(())
    }

    /// Opens the folder again after [`Store::suspend`]. Does nothing if it is open.
    pub fn resume(&self) -> Result<OpenReport> {
        let mut open = self
            .inner
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if open.is_some() {
            return Ok(OpenReport {
                already_open: true,
                ..OpenReport::default()
            });
        }
        let Inner { dir, database, .. } = &*self.inner;
        let (reopened, report) = Open::new(dir, database, database::MIGRATIONS)?;
        *open = Some(reopened);
        Ok(report)
    }

    /// Runs `work` in a transaction of the only writer, and commits it.
    fn write<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.with_open(|open| {
            let mut writer = held(&open.writer);
            writer.set_durability(durability)?;
            let transaction = writer
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
    }

    /// Runs `work` on a connection that sees one state of the database throughout.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.with_open(|open| {
            let idle = held(&open.readers).pop();
            let mut reader = match idle {
                Some(reader) => reader,
                None => database::open_reader(&self.inner.database)?,
            };
            let snapshot = reader.transaction()?;
            let value = work(&snapshot);
            snapshot.finish()?;
            held(&open.readers).push(reader);
            value
        })
    }

    /// Like [`Store::write`] with `Durability::Full`, and then leaves no trace of what was deleted
    /// in any file.
    fn erase<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let value = self.write(Durability::Full, work)?;
        self.resume()?;
        // Alone: a reader in the middle of a snapshot would keep the log from being emptied.
        let open = self
            .inner
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.as_ref() {
            database::truncate_log(&held(&open.writer).connection)?;
        } // else suspended meanwhile, which empties the log too
        Ok(value)
    }

    fn with_open<T>(&self, work: impl FnOnce(&Open) -> Result<T>) -> Result<T> {
        loop {
            let open = self
                .inner
                .open
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(open) = open.as_ref() {
                let result = work(open);
                if matches!(result, Err(StoreError::Corrupt)) {
                    self.inner.suspect.store(true, Ordering::Relaxed);
                }
                return result;
            }
            drop(open);
            if let Some(aside) = self.resume()?.moved_aside {
                tracing::warn!(path = %aside.display(), "a damaged database was moved aside on resuming");
            }
        }
    }
}

impl Open {
    fn new(dir: &Path, database: &Database, migrations: &[&str]) -> Result<(Self, OpenReport)> {
        let lock = FolderLock::acquire(dir)?;
        let (writer, report) = database::open(database, lock.was_closed, migrations)?;
        Ok((
            Self {
                lock,
                writer: Mutex::new(writer),
                readers: Mutex::default(),
            },
            report,
        ))
    }
}

impl Inner {
    fn close(&self) {
        let open = self
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Open {
            lock,
            writer,
            readers,
        }) = open
        {
            // The last connection to close moves the log into the database, so the writer goes
            // last.
            drop(readers);
            drop(writer);
            lock.release(!self.suspect.load(Ordering::Relaxed));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut folders = held(&FOLDERS);
        self.close();
        folders.remove(&self.dir);
        FOLDER_CLOSED.notify_all();
    }
}

/// A panic in a transaction rolls it back, so what a poisoned lock guards is sound.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
