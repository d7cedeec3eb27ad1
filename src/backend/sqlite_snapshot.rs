//! A copy of a SQLite file as it is at one moment, while others write to it.
//!
//! Through SQLite's backup interface, all pages in one step: one read transaction, so writers go on (their log grows by
//! what they write meanwhile) and no page comes from another moment. It knows no table. Backups call in here, from a
//! process of their own. Bound: `TRIES` tries for the beginning of that transaction.

use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

/// Tries of [`PATIENCE`] each until the file may be read. Somebody must hold it exclusively for one to fail.
const TRIES: u32 = 6;
const PATIENCE: Duration = Duration::from_secs(5);
/// More pages than a file can have: everything in one step.
const ALL: i32 = -1;

/// Copies the file. Blocks for as long as the disk takes; the copy is not forced to the disk.
///
/// # Errors
/// The file is missing, no database, damaged or held by somebody, or `to` cannot be written.
pub fn copy(from: &Path, to: &Path) -> Result<(), rusqlite::Error> {
    let reading = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, reading)?;
    source.busy_timeout(PATIENCE)?;
    let mut copy = Connection::open(to)?;
    // A copy that is broken off is thrown away: it needs no log of its own.
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    let backup = Backup::new(&source, &mut copy)?;
    for _ in 0..TRIES {
        if backup.step(ALL)? == StepResult::Done {
            return Ok(());
        }
    }
    Err(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
        Some(format!("somebody has held it for {} s", (PATIENCE * TRIES).as_secs())),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_of_one_moment_though_others_write() {
        let folder = tempfile::tempdir().unwrap();
        let (path, to) = (folder.path().join("a.db"), folder.path().join("copy.db"));
        let writer = Connection::open(&path).unwrap();
        writer
            .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE a (n INTEGER); PRAGMA user_version = 7;")
            .unwrap();
        // Committed, in the log and not yet in the file; then a transaction that is open.
        writer.execute_batch("INSERT INTO a VALUES (1); BEGIN IMMEDIATE; INSERT INTO a VALUES (2);").unwrap();
        copy(&path, &to).unwrap();
        writer.execute_batch("COMMIT").unwrap();
        let copied = Connection::open(&to).unwrap();
        let found: (i64, i64) = copied
            .query_row("SELECT count(*), (SELECT user_version FROM pragma_user_version) FROM a", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!(found, (1, 7));
        drop(writer);
        copy(&path, &folder.path().join("closed.db")).unwrap();
    }

    #[test]
    fn what_is_no_database_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        assert!(copy(&path, &folder.path().join("copy.db")).is_err());
        assert!(!path.exists(), "a missing file is not made");
        std::fs::write(&path, "this is no database, but long enough to look like one").unwrap();
        assert!(copy(&path, &folder.path().join("copy.db")).is_err());
    }
}
