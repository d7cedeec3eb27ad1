//! The ledger's books in one SQLite file.
//!
//! It keeps sums and reads them back; what they mean, `pipeline::ledger` knows, which also sees to it that no event loop
//! waits here. `app` opens it once. Bounds: one connection, 1 MiB of page cache; a row for each minute and run of
//! `ledger.keep`.

use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, Row, ToSql, TransactionBehavior, params};

use super::sqlite_file::{self, FileError, Migration, Pages};
use crate::click::ClickId;
use crate::pipeline::ledger::{Books, BooksError, Changes, Entry, Figures, StretchName, Visits};
use crate::segment::Position;

const MIGRATIONS: [Migration; 2] = [
    Migration { name: "001_ledger", sql: include_str!("../../schema/sqlite/ledger/001_ledger.sql") },
    Migration { name: "002_erased", sql: include_str!("../../schema/sqlite/ledger/002_erased.sql") },
];

const CACHE_KIB: u32 = 1024;

const VISITS: &str = "INSERT INTO accounts (minute, run, accepted, untracked) VALUES (?1, ?2, ?3, ?4)
     ON CONFLICT DO UPDATE SET accepted = excluded.accepted, untracked = excluded.untracked";
const FIGURES: &str =
    "INSERT INTO accounts (minute, run, taken, stored, refused, damaged) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
     ON CONFLICT DO UPDATE SET taken = taken + excluded.taken, stored = stored + excluded.stored,
     refused = refused + excluded.refused, damaged = damaged + excluded.damaged";
const MARK: &str = "INSERT INTO marks (run, core, origin, position) VALUES (?1, ?2, ?3, ?4)
     ON CONFLICT DO UPDATE SET position = excluded.position";
const ROLLED: &str =
    "INSERT INTO rolled (minute, stored) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET stored = excluded.stored";
const READ: &str = "SELECT minute, run, accepted, untracked, taken, stored, refused, damaged FROM accounts
     WHERE minute >= ?1 AND minute < ?2 ORDER BY minute, run";
const UNROLLED: &str = "SELECT minute FROM accounts LEFT JOIN rolled USING (minute) LEFT JOIN erased USING (minute)
     GROUP BY minute
     HAVING max(sum(accounts.stored) - coalesce(max(erased.clicks), 0), 0) <> coalesce(max(rolled.stored), 0)";
const ERASED: &str = "SELECT minute, sum(clicks) FROM (
         SELECT minute, clicks FROM erased UNION ALL SELECT minute, 1 FROM erasing
     ) WHERE minute >= ?1 AND minute < ?2 GROUP BY minute";

/// Books in a SQLite file.
#[derive(Debug)]
pub struct SqliteLedger {
    connection: Connection,
}

impl SqliteLedger {
    /// Opens the file, makes it when it is missing, and brings its tables up to date. A damaged one is kept beside it under
    /// another name, and a new one made: no click depends on it, and a node must start. Blocks for some milliseconds.
    ///
    /// # Errors
    /// It cannot be opened or written, or comes from a newer program.
    pub fn open_or_set_aside(path: &Path, now_ms: u64) -> Result<Self, BooksError> {
        let error = match Self::try_open(path) {
            Ok(books) => return Ok(books),
            Err(error) => error,
        };
        if !is_damaged(&error) {
            return Err(named(path, &error));
        }
        let aside = path.with_extension(format!("{now_ms}.damaged"));
        let moved = std::fs::rename(path, &aside).and_then(|()| {
            // What belongs to the old file must not be taken for the log of the new one.
            for end in ["db-wal", "db-shm"] {
                match std::fs::remove_file(path.with_extension(end)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        });
        moved.map_err(|error| BooksError(format!("{}: {error}", path.display())))?;
        tracing::error!(%error, kept = %aside.display(), "the ledger is damaged; a new one is begun");
        let mut books = Self::open(path)?;
        // As under another name: what was stored before is not in it.
        books.named("", 0)?;
        Ok(books)
    }

    /// Opens the file, makes it when it is missing, and brings its tables up to date.
    ///
    /// # Errors
    /// It cannot be opened or written, is no database, or comes from a newer program.
    pub fn open(path: &Path) -> Result<Self, BooksError> {
        Self::try_open(path).map_err(|error| named(path, &error))
    }

    fn try_open(path: &Path) -> Result<Self, FileError> {
        let mut connection = sqlite_file::open(path, Pages::small(CACHE_KIB), &MIGRATIONS)?;
        sqlite_file::migrate(&mut connection, &MIGRATIONS)?;
        Ok(Self { connection })
    }

    fn all<T>(
        &self,
        sql: &str,
        values: &[&dyn ToSql],
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, BooksError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(values, read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

fn named(path: &Path, error: &FileError) -> BooksError {
    BooksError(format!("{}: {error}", path.display()))
}

fn is_damaged(error: &FileError) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error, FileError::Sqlite(error) if matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)))
}

/// Makes a copy of the file part of a backup that was made in these minutes: it gets the visits that an earlier copy has,
/// if there is one, and keeps its figures. Both are closed files that nobody else uses.
///
/// # Errors
/// One of them is no ledger, or cannot be used.
pub fn back_up(copy: &Path, earlier: Option<&Path>, minutes: RangeInclusive<u64>) -> Result<(), BooksError> {
    let connection = Connection::open(copy)?;
    connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    for minute in minutes {
        connection.execute("INSERT OR IGNORE INTO copied (minute) VALUES (?1)", [sql(minute)])?;
    }
    let Some(earlier) = earlier else { return Ok(()) };
    connection.execute("ATTACH ?1 AS earlier", [earlier.to_string_lossy()])?;
    connection.execute_batch(
        "UPDATE accounts SET accepted = 0, untracked = 0;
         UPDATE accounts SET accepted = was.accepted, untracked = was.untracked FROM earlier.accounts AS was
         WHERE was.minute = accounts.minute AND was.run = accounts.run;",
    )?;
    Ok(())
}

impl From<rusqlite::Error> for BooksError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

impl Books for SqliteLedger {
    fn change(&mut self, changes: &Changes<'_>) -> Result<(), BooksError> {
        // A spill must be on the disk before the checkpoint forgets it. All else may be lost by a power cut (not by a kill):
        // visits are counted again from the journal, rollups computed again. So the disk is not forced every second.
        let synchronous = if changes.spill.is_some() { "FULL" } else { "NORMAL" };
        self.connection.pragma_update(None, "synchronous", synchronous)?;
        let all = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (run, minute, visits) in &changes.visits {
            let values = params![sql(*minute), run, sql(visits.accepted), sql(visits.untracked)];
            all.prepare_cached(VISITS)?.execute(values)?;
        }
        if let Some((of, position, minutes)) = changes.spill {
            for (minute, figures) in minutes.iter() {
                let Figures { taken, stored, refused, damaged } = figures;
                let values = params![sql(minute), of.run, sql(taken), sql(stored), sql(refused), sql(damaged)];
                all.prepare_cached(FIGURES)?.execute(values)?;
            }
            let values = params![of.run, of.core, of.origin, position.to_u64().cast_signed()];
            all.prepare_cached(MARK)?.execute(values)?;
        }
        for (minute, stored) in &changes.rolled {
            all.prepare_cached(ROLLED)?.execute(params![sql(*minute), sql(*stored)])?;
        }
        Ok(all.commit()?)
    }

    fn read(&mut self, minutes: Range<u64>) -> Result<Vec<Entry>, BooksError> {
        self.all(READ, &[&sql(minutes.start), &sql(minutes.end)], |row| {
            let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
            Ok(Entry {
                minute: number(0)?,
                run: row.get::<_, String>(1)?.into(),
                visits: Visits { accepted: number(2)?, untracked: number(3)? },
                figures: Figures { taken: number(4)?, stored: number(5)?, refused: number(6)?, damaged: number(7)? },
            })
        })
    }

    fn marks(&mut self) -> Result<Vec<(StretchName, Position)>, BooksError> {
        self.all("SELECT run, core, origin, position FROM marks", &[], |row| {
            let of = StretchName { run: row.get::<_, String>(0)?.into(), core: row.get(1)?, origin: row.get(2)? };
            Ok((of, Position::from_u64(row.get::<_, i64>(3)?.cast_unsigned())))
        })
    }

    fn copied(&mut self) -> Result<Vec<u64>, BooksError> {
        self.all("SELECT minute FROM copied", &[], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
    }

    fn named(&mut self, node: &str, minute: u64) -> Result<u64, BooksError> {
        let known = self.all("SELECT name, since FROM node", &[], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
        })?;
        let since = match known.first() {
            Some((name, since)) if name == node => return Ok(*since),
            Some(_) => minute,
            None => 0,
        };
        let all = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        all.execute("DELETE FROM node", ())?;
        all.execute("INSERT INTO node (name, since) VALUES (?1, ?2)", params![node, sql(since)])?;
        all.commit()?;
        Ok(since)
    }

    fn rolled(&mut self, minutes: Range<u64>) -> Result<Vec<(u64, u64)>, BooksError> {
        let question = "SELECT minute, stored FROM rolled WHERE minute >= ?1 AND minute < ?2";
        self.all(question, &[&sql(minutes.start), &sql(minutes.end)], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()))
        })
    }

    fn erasing(&mut self) -> Result<Vec<ClickId>, BooksError> {
        self.all("SELECT click_id FROM erasing", &[], |row| Ok(ClickId::from_bytes(row.get(0)?)))
    }

    fn begin_erasing(&mut self, ids: &[ClickId]) -> Result<(), BooksError> {
        self.connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;")?;
        let all = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for id in ids {
            let minute = sql(id.unix_ms() / 60_000);
            let values = params![id.as_bytes(), minute];
            all.prepare_cached("INSERT OR IGNORE INTO erasing (click_id, minute) VALUES (?1, ?2)")?.execute(values)?;
        }
        Ok(all.commit()?)
    }

    fn end_erasing(&mut self) -> Result<(), BooksError> {
        self.connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;")?;
        let all = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        all.execute_batch(
            "INSERT INTO erased (minute, clicks) SELECT minute, count(*) FROM erasing WHERE true GROUP BY minute
             ON CONFLICT DO UPDATE SET clicks = clicks + excluded.clicks;
             DELETE FROM erasing;",
        )?;
        all.commit()?;
        Ok(sqlite_file::empty_log(&self.connection)?)
    }

    fn erased(&mut self, minutes: Range<u64>) -> Result<Vec<(u64, u64)>, BooksError> {
        self.all(ERASED, &[&sql(minutes.start), &sql(minutes.end)], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()))
        })
    }

    fn unrolled(&mut self) -> Result<Vec<u64>, BooksError> {
        self.all(UNROLLED, &[], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
    }

    fn forget(&mut self, before: u64, runs: &[Arc<str>]) -> Result<(), BooksError> {
        let runs = serde_json::Value::from_iter(runs.iter().map(|run| run.to_string())).to_string();
        let all = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let others = "NOT IN (SELECT value FROM json_each(?1))";
        all.execute(&format!("DELETE FROM accounts WHERE run {others} AND minute < ?2"), params![runs, sql(before)])?;
        all.execute(&format!("DELETE FROM marks WHERE run {others}"), params![runs])?;
        for table in ["rolled", "copied", "erased"] {
            all.execute(&format!("DELETE FROM {table} WHERE minute < ?1"), params![sql(before)])?;
        }
        Ok(all.commit()?)
    }
}

/// SQLite's numbers are signed; ours are small.
fn sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::ledger::Minutes;
    use crate::testing::MemoryBooks;

    fn minutes(of: &[(u64, u64)]) -> Minutes {
        let mut minutes = Minutes::default();
        for (minute, n) in of {
            minutes.at(*minute).add(Figures { taken: 4 * n, stored: 2 * n, refused: *n, damaged: *n });
        }
        minutes
    }

    #[test]
    fn what_is_erased_is_counted_once_and_its_ids_leave_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let ids = [(100, 1), (100, 2), (101, 3)].map(|(minute, n)| ClickId::new(minute * 60_000 + 5, &[n; 10]));
        let of = StretchName { run: "0001-1".into(), core: 0, origin: 7 };
        let stored = minutes(&[(100, 1), (101, 2)]);
        let spill = Some((&of, Position { seq: 1, offset: 1 }, &stored));
        let changes = Changes { spill, rolled: vec![(100, 2), (101, 4)], ..Changes::default() };
        let mut both: [Box<dyn Books>; 2] =
            [Box::new(MemoryBooks::default()), Box::new(SqliteLedger::open(&path).unwrap())];
        for books in &mut both {
            books.change(&changes).unwrap();
            assert_eq!(books.unrolled().unwrap(), [0; 0]);
            // Begun, broken off, begun once more.
            for _ in 0..2 {
                books.begin_erasing(&ids).unwrap();
                assert_eq!(books.erased(0..200).unwrap(), [(100, 2), (101, 1)]);
            }
            let mut begun = books.erasing().unwrap();
            begun.sort();
            assert_eq!(begun, ids);
            for _ in 0..2 {
                books.end_erasing().unwrap();
                assert_eq!((books.erased(0..101).unwrap(), books.erasing().unwrap()), (vec![(100, 2)], vec![]));
            }
            assert_eq!(books.unrolled().unwrap(), [100, 101]);
            books.change(&Changes { rolled: vec![(100, 0), (101, 3)], ..Changes::default() }).unwrap();
            assert_eq!(books.unrolled().unwrap(), [0; 0]);
            books.forget(101, &[]).unwrap();
            assert_eq!(books.erased(0..200).unwrap(), [(101, 1)]);
        }
        for file in ["ledger.db", "ledger.db-wal"] {
            let bytes = std::fs::read(folder.path().join(file)).unwrap();
            assert!(!bytes.windows(16).any(|part| part == ids[0].as_bytes()), "{file}");
        }
    }

    /// Both must say the same of everything.
    #[test]
    fn a_file_keeps_what_books_in_memory_keep_across_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let runs: [Arc<str>; 2] = ["0001-1".into(), "0002-1".into()];
        let of = |run: usize, core| StretchName { run: Arc::clone(&runs[run]), core, origin: 7 };
        let at = |seq, offset| Position { seq, offset };
        let (a, b) = (of(0, 0), of(1, 1));
        let (first, second) = (minutes(&[(100, 1), (101, 2)]), minutes(&[(101, 5), (200, 1)]));
        let visits = |accepted, untracked| Visits { accepted, untracked };
        let steps = [
            Changes { visits: vec![(Arc::clone(&runs[0]), 100, visits(9, 1))], ..Changes::default() },
            Changes { spill: Some((&a, at(3, 256), &first)), ..Changes::default() },
            Changes { spill: Some((&b, at(0, 900), &second)), rolled: vec![(100, 2)], ..Changes::default() },
            Changes { visits: vec![(Arc::clone(&runs[0]), 100, visits(12, 1))], ..Changes::default() },
            Changes { spill: Some((&a, at(4, 300), &second)), rolled: vec![(101, 14)], ..Changes::default() },
        ];
        let (mut memory, mut file) = (MemoryBooks::default(), SqliteLedger::open(&path).unwrap());
        for step in &steps {
            memory.change(step).unwrap();
            file.change(step).unwrap();
        }
        drop(file);
        let mut file = SqliteLedger::open(&path).unwrap();
        let both: [&mut dyn Books; 2] = [&mut memory, &mut file];
        let said = both.map(|books| {
            let named = [("a", 5), ("a", 6), ("b", 7), ("b", 8), ("a", 9)].map(|(n, at)| books.named(n, at).unwrap());
            assert_eq!(named, [0, 0, 7, 7, 9]);
            let before = (books.read(0..u64::MAX).unwrap(), books.read(101..200).unwrap(), books.marks().unwrap());
            let rolled = (books.rolled(0..101).unwrap(), books.unrolled().unwrap());
            books.forget(150, &[Arc::clone(&runs[1])]).unwrap();
            (before, rolled, books.read(0..u64::MAX).unwrap(), books.marks().unwrap(), books.rolled(0..999).unwrap())
        });
        assert_eq!(said[0], said[1]);
        let ((all, _, marks), (rolled, unrolled), left, left_marks, _) = &said[0];
        assert_eq!((all.len(), marks.len(), rolled.as_slice()), (5, 2, &[(100, 2)][..]));
        // 101: 2 + 5 + 5 times two are stored, and 14 were rolled up.
        assert_eq!(unrolled, &[101, 200]);
        assert_eq!((left.len(), left_marks.len()), (3, 1), "of the first run minute 200 alone");
    }

    #[test]
    fn a_copy_takes_the_visits_of_an_earlier_one_and_keeps_its_figures() {
        let folder = tempfile::tempdir().unwrap();
        let [path, earlier, later] = ["ledger.db", "earlier", "later"].map(|name| folder.path().join(name));
        let (run, mut file): (Arc<str>, _) = ("0001-1".into(), SqliteLedger::open(&path).unwrap());
        let of = StretchName { run: Arc::clone(&run), core: 0, origin: 0 };
        let visits = |minute, accepted| (Arc::clone(&run), minute, Visits { accepted, untracked: 1 });
        file.change(&Changes { visits: vec![visits(100, 5)], ..Changes::default() }).unwrap();
        super::super::sqlite_snapshot::copy(&path, &earlier).unwrap();
        let changes = Changes {
            visits: vec![visits(100, 9), visits(101, 2)],
            spill: Some((&of, Position { seq: 0, offset: 300 }, &minutes(&[(100, 1)]))),
            ..Changes::default()
        };
        file.change(&changes).unwrap();
        super::super::sqlite_snapshot::copy(&path, &later).unwrap();
        back_up(&later, Some(&earlier), 101..=102).unwrap();
        let mut copied = SqliteLedger::open(&later).unwrap();
        assert_eq!(copied.copied().unwrap(), [101, 102]);
        let entries = copied.read(0..999).unwrap();
        let seen: Vec<_> = entries.iter().map(|e| (e.minute, e.visits.accepted, e.figures.taken)).collect();
        assert_eq!(seen, [(100, 5, 4), (101, 0, 0)]);
    }

    #[test]
    fn a_file_that_is_no_database_is_named_and_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        std::fs::write(&path, [b'x'; 5000]).unwrap();
        let error = SqliteLedger::open(&path).unwrap_err();
        assert!(error.to_string().contains("ledger.db: file is not a database"), "{error}");
        // And kept under another name by a node that starts.
        let mut books = SqliteLedger::open_or_set_aside(&path, 5).unwrap();
        assert_eq!(books.read(0..9).unwrap(), []);
        assert_eq!(books.named("n", 7).unwrap(), 7, "what was stored before is not compared");
        assert_eq!(std::fs::read(folder.path().join("ledger.5.damaged")).unwrap(), [b'x'; 5000]);
        std::fs::create_dir(folder.path().join("is_a_folder")).unwrap();
        assert!(SqliteLedger::open_or_set_aside(&folder.path().join("is_a_folder"), 5).is_err());
    }
}
