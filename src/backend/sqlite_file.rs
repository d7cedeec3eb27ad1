//! Opening a SQLite file for service, its migrations, and what its errors mean.
//!
//! It knows no table; `sqlite_catalog` and `sqlite_clicks` call in here, off the event loops. A file that a newer
//! program has migrated is refused, never read half-understood.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

/// How long another process (a backup, a person with a shell) may hold the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const LOG_BYTES: u32 = 16 * 1024 * 1024;

/// Of a file.
#[derive(Clone, Copy)]
pub(super) struct Pages {
    /// Of one page, when the file is new; a power of two from 512 to 65,536.
    pub(super) bytes: u32,
    /// Memory for those that were read.
    pub(super) cache_kib: u32,
}

impl Pages {
    /// Of SQLite's own size.
    pub(super) const fn small(cache_kib: u32) -> Self {
        Self { bytes: 4096, cache_kib }
    }
}

/// One step of a schema: forward only, applied once, in one transaction with its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    /// Name of its file, without `.sql`; its place in the list is its number, counted from 1.
    pub(super) name: &'static str,
    /// Statements.
    pub(super) sql: &'static str,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// SQLite's own.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Its schema comes from a newer program.
    #[error(
        "its schema has version {found}, and this program knows {known}: start a newer trellis, or restore a backup"
    )]
    Newer {
        /// `user_version` of the file.
        found: usize,
        /// Migrations of this program.
        known: usize,
    },
    /// Its thread could not start.
    #[error("no thread for it: {0}")]
    Thread(#[from] std::io::Error),
}

impl FileError {
    /// Whether waiting may help: also with a full disk, which others may empty. A missing table, a read-only or damaged file need a person.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Sqlite(error) => passes(error),
            Self::Newer { .. } | Self::Thread(_) => false,
        }
    }
}

/// See [`FileError::passes`].
pub(super) fn passes(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted
                | ErrorCode::SystemIoFailure
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::DiskFull
        )
    )
}

/// Whether it is the data of a row that SQLite refuses, and not the file or the statement.
pub(super) fn refuses_row(error: &rusqlite::Error) -> bool {
    use ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
    matches!(error.sqlite_error_code(), Some(ConstraintViolation | TooBig | TypeMismatch))
}

/// SQLite's extended result code; 0 when the error is not SQLite's.
pub(super) fn code_of(error: &rusqlite::Error) -> u32 {
    error.sqlite_error().and_then(|error| u32::try_from(error.extended_code).ok()).unwrap_or(0)
}

/// Opens the file for writing, and makes it when it is missing.
///
/// `synchronous = FULL`: a commit that returned is on the disk. The journal forgets a click when its batch is stored, and
/// an edit of a link is answered when it is kept; neither may be undone by a power cut. One sync a commit.
///
/// # Errors
/// The file cannot be opened, is no database, or comes from a newer program.
pub(super) fn open(path: &Path, pages: Pages, migrations: &[Migration]) -> Result<Connection, FileError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Ignored by a file that has pages already.
    connection.execute_batch(&format!("PRAGMA page_size = {};", pages.bytes))?;
    let page_bytes: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    // A checkpoint at 16 MiB of log: pages that change with every batch are copied less often than at the default of 4.
    let (cache_kib, log_pages) = (pages.cache_kib, LOG_BYTES / page_bytes);
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = OFF;
         PRAGMA trusted_schema = OFF;
         PRAGMA temp_store = MEMORY;
         PRAGMA mmap_size = 0;
         PRAGMA cache_size = -{cache_kib};
         PRAGMA wal_autocheckpoint = {log_pages};
         PRAGMA journal_size_limit = 67108864;"
    ))?;
    check_version(&connection, migrations)?;
    Ok(connection)
}

/// Opens the file for reading only, beside the connection that writes it.
///
/// # Errors
/// The file cannot be opened.
pub(super) fn open_reader(path: &Path, cache_kib: u32) -> Result<Connection, FileError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch(&format!(
        "PRAGMA query_only = ON;
         PRAGMA trusted_schema = OFF;
         PRAGMA temp_store = MEMORY;
         PRAGMA mmap_size = 0;
         PRAGMA cache_size = -{cache_kib};"
    ))?;
    Ok(connection)
}

/// Applies what is missing; the names of what was applied.
///
/// # Errors
/// A step failed (it is undone, the ones before it stay), or the file comes from a newer program.
pub(super) fn migrate(connection: &mut Connection, migrations: &[Migration]) -> Result<Vec<String>, FileError> {
    let mut applied = Vec::new();
    while check_version(connection, migrations)? < migrations.len() {
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Read again under the lock: another process may have been faster.
        let version = check_version(&step, migrations)?;
        if let Some(migration) = migrations.get(version) {
            step.execute_batch(migration.sql)?;
            step.pragma_update(None, "user_version", i64::try_from(version + 1).unwrap_or(i64::MAX))?;
            step.commit()?;
            applied.push(migration.name.to_owned());
        }
    }
    Ok(applied)
}

/// Brings what is in the log to the file and empties the log, so that what was deleted is in neither. Waits for readers, as
/// long as [`BUSY_TIMEOUT`].
///
/// # Errors
/// SQLite's own; [`ErrorCode::DatabaseBusy`] when a reader does not end.
pub(super) fn empty_log(connection: &Connection) -> rusqlite::Result<()> {
    let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy == 0 {
        return Ok(());
    }
    let text = "its log cannot be emptied, because somebody reads; erase once more".to_owned();
    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), Some(text)))
}

fn check_version(connection: &Connection, migrations: &[Migration]) -> Result<usize, FileError> {
    let found = connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
    // A negative number is nobody's: refuse it as well.
    let found = usize::try_from(found).unwrap_or(usize::MAX);
    let known = migrations.len();
    if found > known { Err(FileError::Newer { found, known }) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Migration; 3] = [
        Migration { name: "001_a", sql: "CREATE TABLE a (n INTEGER)" },
        Migration { name: "002_b", sql: "CREATE TABLE b (n INTEGER); INSERT INTO a VALUES (1)" },
        Migration { name: "003_bad", sql: "CREATE TABLE c (n INTEGER); INSERT INTO missing VALUES (1)" },
    ];

    const SMALL: Pages = Pages::small(100);

    #[test]
    fn a_file_keeps_the_pages_that_it_was_made_with_and_its_log_is_as_long_in_either() {
        let folder = tempfile::tempdir().unwrap();
        let large = Pages { bytes: 16 * 1024, cache_kib: 100 };
        for (name, made_with, bytes, log_pages) in [("a.db", large, 16_384, 1_024), ("b.db", SMALL, 4_096, 4_096)] {
            let path = folder.path().join(name);
            migrate(&mut open(&path, made_with, &STEPS).unwrap(), &STEPS[..1]).unwrap();
            for pages in [large, SMALL] {
                let connection = open(&path, pages, &STEPS).unwrap();
                let told = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
                assert_eq!((told("page_size"), told("wal_autocheckpoint")), (bytes, log_pages), "{name}");
            }
        }
    }

    #[test]
    fn migrations_are_applied_once_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let mut connection = open(&path, SMALL, &STEPS).unwrap();
        assert_eq!(migrate(&mut connection, &STEPS[..1]).unwrap(), ["001_a"]);
        assert_eq!(migrate(&mut connection, &STEPS[..2]).unwrap(), ["002_b"]);
        assert!(migrate(&mut connection, &STEPS[..2]).unwrap().is_empty());
        let rows: i64 = open_reader(&path, 100).unwrap().query_row("SELECT count(*) FROM a", [], |r| r.get(0)).unwrap();
        assert_eq!(rows, 1);
    }

    #[test]
    fn a_step_that_fails_is_undone() {
        let mut connection = open(Path::new(":memory:"), SMALL, &STEPS).unwrap();
        let error = migrate(&mut connection, &STEPS).unwrap_err();
        assert!(error.to_string().contains("no such table: missing") && !error.passes(), "{error}");
        assert_eq!(check_version(&connection, &STEPS).unwrap(), 2);
        assert!(connection.execute("INSERT INTO c VALUES (1)", []).is_err());
    }

    #[test]
    fn a_file_of_a_newer_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        migrate(&mut open(&path, SMALL, &STEPS).unwrap(), &STEPS[..2]).unwrap();
        let error = open(&path, SMALL, &STEPS[..1]).unwrap_err();
        assert!(matches!(error, FileError::Newer { found: 2, known: 1 }), "{error}");
    }
}
